"""Charts as SVG inside a page: axes, lines, dots and whiskers, each with a value to hover over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, distinct to every eye."""
DASHES = ("", "7 3", "2 2", "9 3 2 3", "4 4", "1 3")
"""One for each colour, so that a page printed in grey can still be read."""
GREY = "#777777"
_CHARACTER = 6.3
"""Width of a letter of 11 pixels, about."""


@dataclass(frozen=True)
class ChartAxis:
    """One direction of a chart.

    Attributes:
        label: what is on it.
        low, high: the range shown.
        logarithmic: whether equal ratios are equally far apart.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where ``value`` lies, 0 at ``low`` and 1 at ``high``."""
        low, high, value = (math.log(each) if self.logarithmic else each for each in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the range."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        else:
            found = [float(each) for each in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)]
        reach = 1e-9 * (self.high - self.low)
        return [each for each in found if self.low - reach <= each <= self.high + reach]


def spanning(label: str, values: Sequence[float], *, logarithmic: bool = False) -> ChartAxis:
    """An axis that holds all ``values`` with a little room at both ends."""
    low, high = min(values), max(values)
    if logarithmic:
        return ChartAxis(label, low / 1.2, high * 1.2, logarithmic=True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return ChartAxis(label, low - room, high + room)


@dataclass
class Chart:
    """A drawing area with two axes; ``rows`` names places on the vertical axis instead of numbers, from the top."""

    x: ChartAxis
    y: ChartAxis
    title: str
    width: int = 400
    height: int = 320
    rows: Sequence[str] = ()
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    _marks: list[str] = field(default_factory=list)

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, hover: str, *, dash: str = "", legend: bool = True
    ) -> None:
        """A line through ``points`` in the units of the axes; ``hover`` names it, in the legend too if ``legend``."""
        path = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in points)
        self._marks.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" '
            f'stroke-dasharray="{dash}"><title>{escape(hover)}</title></polyline>'
        )
        if legend:
            self.legend.append((hover, colour, dash))

    def dot(self, x: float, y: float, colour: str, hover: str, *, hollow: bool = False) -> None:
        """A dot with a value to hover over."""
        fill = "#ffffff" if hollow else colour
        self._marks.append(
            f'<circle cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" r="4" fill="{fill}" stroke="{colour}" '
            f'stroke-width="1.6"><title>{escape(hover)}</title></circle>'
        )

    def whisker(self, low: float, high: float, at: float, colour: str, hover: str, *, upright: bool = False) -> None:
        """An interval from ``low`` to ``high``: across at height ``at``, or ``upright`` at ``at`` of the other axis."""
        ends = [(at, low), (at, high)] if upright else [(low, at), (high, at)]
        (x1, y1), (x2, y2) = [(self._across(x), self._down(y)) for x, y in ends]
        self._marks.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="2">'
            f"<title>{escape(hover)}</title></line>"
        )

    def box(self, low: float, high: float, at: float, colour: str, hover: str) -> None:
        """A bar from ``low`` to ``high`` at height ``at``."""
        left, right, middle = self._across(low), self._across(high), self._down(at)
        self._marks.append(
            f'<rect x="{left:.1f}" y="{middle - 6:.1f}" width="{max(right - left, 1):.1f}" height="12" fill="{colour}" '
            f'fill-opacity="0.35" stroke="{colour}"><title>{escape(hover)}</title></rect>'
        )

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, hover: str) -> None:
        """What lies between two lines over ``xs``; it is cut at the edges of the vertical axis."""
        ends = [*zip(xs, low, strict=True), *reversed(list(zip(xs, high, strict=True)))]
        inside = [(x, min(max(y, self.y.low), self.y.high)) for x, y in ends]
        path = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in inside)
        self._marks.append(
            f'<polygon points="{path}" fill="{colour}" fill-opacity="0.13" stroke="none"><title>{escape(hover)}</title>'
            "</polygon>"
        )

    def bar(self, left: float, right: float, high: float, colour: str, hover: str) -> None:
        """A bar that stands on the horizontal axis, ``high`` in units of the vertical one above its lowest value."""
        x1, x2 = self._across(left), self._across(right)
        top, bottom = self._down(self.y.low + high), self._down(self.y.low)
        self._marks.append(
            f'<rect x="{x1:.1f}" y="{top:.1f}" width="{max(x2 - x1, 0.5):.1f}" height="{max(bottom - top, 0):.1f}" '
            f'fill="{colour}" fill-opacity="0.25" stroke="none"><title>{escape(hover)}</title></rect>'
        )

    def drawn(self) -> Markup:
        """The chart as an ``svg`` element with its title for those who cannot see it."""
        return Markup(
            f'<svg viewBox="0 0 {self.width} {self._whole_height}" width="{self.width}" height="{self._whole_height}" '
            f'role="img" aria-label="{escape(self.title, quote=True)}" class="chart">'
            f"<title>{escape(self.title)}</title>{self._frame()}{''.join(self._marks)}{self._key()}</svg>"
        )

    @property
    def _left(self) -> float:
        return 52 if not self.rows else 16 + _CHARACTER * max(len(row) for row in self.rows)

    @property
    def _whole_height(self) -> int:
        return self.height + 16 * len(self.legend)

    def _across(self, x: float) -> float:
        return self._left + self.x.share(x) * (self.width - 14 - self._left)

    def _down(self, y: float) -> float:
        return self.height - 42 - self.y.share(y) * (self.height - 42 - 12)

    def _frame(self) -> str:
        top, bottom, right = 12, self.height - 42, self.width - 14
        parts = [
            f'<rect x="{self._left}" y="{top}" width="{right - self._left}" height="{bottom - top}" fill="none" '
            'stroke="#bbbbbb"/>'
        ]
        for tick in self.x.ticks():
            x = self._across(tick)
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:.6g}</text>')
        if self.rows:
            for place, row in enumerate(self.rows):
                y = self._down(len(self.rows) - 1 - place) + 4
                parts.append(f'<text x="{self._left - 8:.1f}" y="{y:.1f}" text-anchor="end">{escape(row)}</text>')
        else:
            for tick in self.y.ticks():
                y = self._down(tick)
                parts.append(f'<line x1="{self._left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#eeeeee"/>')
                parts.append(f'<text x="{self._left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
            middle = (top + bottom) / 2
            parts.append(
                f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
                f"{escape(self.y.label)}</text>"
            )
        centre = (self._left + right) / 2
        parts.append(f'<text x="{centre:.1f}" y="{bottom + 32}" text-anchor="middle">{escape(self.x.label)}</text>')
        return "".join(parts)

    def _key(self) -> str:
        parts = []
        for place, (name, colour, dash) in enumerate(self.legend):
            y = self.height + 16 * place
            parts.append(
                f'<line x1="12" y1="{y}" x2="44" y2="{y}" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/><text x="50" y="{y + 4}">{escape(name)}</text>'
            )
        return "".join(parts)
