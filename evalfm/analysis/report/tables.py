"""Tables of a page that sort, with the same figures as CSV beside them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evalfm.analysis.figures import describe, p_words
from evalfm.analysis.table import Line
from evalfm.data.atomic import csv_text
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate

SHORT = 26
"""Letters that are never broken over two lines."""
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|[\\|`*]|\](?=\()")
"""What of a name or level, which may come from others, Markdown would take for HTML, a cell, code, stress or a link."""


@dataclass(frozen=True)
class Signed:
    """A difference with its interval, shown with its sign; ``digits`` such as ``".3g"`` fixes how many it has."""

    value: float
    low: float | None
    high: float | None
    digits: str = ""

    @classmethod
    def of(cls, found: Difference | None, reason: str | None = None) -> Signed | str | None:
        """A difference; the ``reason`` where there is none."""
        return reason if found is None else cls(found.value, found.low, found.high)


@dataclass(frozen=True)
class Worded:
    """A number in words of its own, which is sorted by its value; the CSV has the value, or the ``whole`` words."""

    text: str
    value: float | None
    whole: bool = False

    @classmethod
    def number(cls, value: float | None, form: str) -> Worded | None:
        """``value`` in a format such as ``"+.2f"``."""
        return None if value is None else cls(f"{value:{form}}", value)

    @classmethod
    def p(cls, value: float | None) -> Worded | None:
        """A p value."""
        return None if value is None else cls(p_words(value), value)


@dataclass(frozen=True)
class Seeded:
    """An estimate averaged over seeds, with their standard deviation; None for a single one."""

    estimate: Estimate
    sd: float | None

    @classmethod
    def of(cls, line: Line, metric: str) -> Seeded | Estimate:
        """``metric`` of a line of a table."""
        return line.estimate(metric) if len(line.runs) == 1 else cls(line.estimate(metric), line.sd(metric))


Value = str | int | float | None | Estimate | Signed | Seeded | Worded


@dataclass(frozen=True)
class TableCell:
    """What a reader sees, and by what the column is sorted."""

    text: str
    order: str

    @property
    def short(self) -> bool:
        """Whether it can stand on one line."""
        return len(self.text) <= SHORT


@dataclass(frozen=True)
class Table:
    """Columns and rows.

    Attributes:
        name: of the file that it is saved as.
        header: a name per column.
        rows: a value per column; an estimate becomes three columns of the CSV, four where several seeds are there.
        caption: what a reader must know of it.
        remarks: sentences below it.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    caption: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def cells(self) -> list[list[TableCell]]:
        """The rows as they are shown; what is absent as a dash with the number of its reason among the notes."""
        marks = dict(zip(self._reasons, _raised(len(self._reasons)), strict=True))
        return [[TableCell(_text(value, marks), _order(value)) for value in row] for row in self.rows]

    @property
    def notes(self) -> list[str]:
        """Cautions of its estimates, which are marked with ``~``, why estimates are absent, and the remarks."""
        every = [value.note for value in self._estimates if value.note]
        reasons = [f"–{mark} {why}" for mark, why in zip(_raised(len(self._reasons)), self._reasons, strict=True)]
        return [*(f"~ {note}" for note in dict.fromkeys(every)), *reasons, *self.remarks]

    @property
    def _estimates(self) -> list[Estimate]:
        shown = [value.estimate if isinstance(value, Seeded) else value for row in self.rows for value in row]
        return [value for value in shown if isinstance(value, Estimate)]

    @property
    def _reasons(self) -> list[str]:
        """Why estimates are absent, each reason once."""
        return list(dict.fromkeys(str(each.reason) for each in self._estimates if each.value is None))

    @property
    def words(self) -> list[bool]:
        """Which columns hold words only; those begin at the left."""
        return [all(isinstance(row[place], str) for row in self.rows) for place in range(len(self.header))]

    @property
    def csv(self) -> str:
        """The table with every digit; estimates as ``name``, ``name_low`` and ``name_high``."""
        columns = [
            dict.fromkeys(["", *(end for row in self.rows for end in _saved(row[place]))])
            for place in range(len(self.header))
        ]
        names = [f"{name}{end}" for name, ends in zip(self.header, columns, strict=True) for end in ends]
        lines = [
            [_saved(value).get(end) for value, ends in zip(row, columns, strict=True) for end in ends]
            for row in self.rows
        ]
        return csv_text(names, lines)

    @property
    def texts(self) -> list[list[str]]:
        """The rows as they are shown, as plain text."""
        return [[cell.text for cell in row] for row in self.cells]

    @property
    def markdown(self) -> list[str]:
        """The table as lines of Markdown."""
        lines = [" | ".join(map(plain_markdown, line)) for line in (self.header, *self.texts)]
        return [f"| {lines[0]} |", "|---" * len(self.header) + "|", *(f"| {line} |" for line in lines[1:])]

    @property
    def uri(self) -> str:
        """The CSV as text that a link can hold."""
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.csv.encode()).decode()}"


def table(
    name: str, header: Sequence[str], rows: Iterable[Sequence[Value]], caption: str = "", remarks: Sequence[str] = ()
) -> Table:
    """A table from plain sequences."""
    return Table(name, tuple(header), tuple(tuple(row) for row in rows), caption, tuple(remarks))


def plain_markdown(text: str) -> str:
    """``text`` as Markdown shows it: on one line, no HTML, no cell, no link."""
    return _MARKUP.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", " ".join(text.split()))


def _raised(count: int) -> list[str]:
    """The numbers from 1 as superscripts."""
    return [str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) for number in range(1, count + 1)]


def _text(value: Value, marks: Mapping[str, str]) -> str:
    if value is None:
        return "–"
    if isinstance(value, (Estimate, Seeded)):
        estimate, sd = (value.estimate, value.sd) if isinstance(value, Seeded) else (value, None)
        if estimate.value is None:
            return f"–{marks[str(estimate.reason)]}"
        return f"{describe(estimate, sd)} ~" if estimate.note else describe(estimate, sd)
    if isinstance(value, Worded):
        return value.text
    if isinstance(value, Signed):
        ends = [end for end in (value.low, value.high) if end is not None]
        digits = value.digits or f".{_digits(max(map(abs, [value.value, *ends])))}f"
        reach = f" [{ends[0]:+{digits}}, {ends[1]:+{digits}}]" if len(ends) == 2 else ""
        return f"{value.value:+{digits}}{reach}"
    if isinstance(value, float):
        return f"{value:.{_digits(abs(value))}f}"
    return f"{value:,}" if isinstance(value, int) else value


def _saved(value: Value) -> dict[str, object]:
    """What the CSV has of a value, by how the names of its columns end."""
    if isinstance(value, Seeded):
        return {**_saved(value.estimate), "_sd": value.sd}
    if isinstance(value, (Estimate, Signed)):
        return {"": value.value, "_low": value.low, "_high": value.high}
    return {"": value if not isinstance(value, Worded) else value.text if value.whole else value.value}


def _digits(size: float) -> int:
    """Three decimals; four where all is below .1, so that a small error or area keeps its digits."""
    return 3 if size >= 0.1 or size == 0 else 4


def _order(value: Value) -> str:
    """Numbers as they are, words as they are, what is absent as nothing (which sorts last)."""
    value = value.estimate if isinstance(value, Seeded) else value
    if isinstance(value, (Estimate, Signed, Worded)):
        return "" if value.value is None else repr(value.value)
    return "" if value is None else repr(value) if isinstance(value, (int, float)) else value
