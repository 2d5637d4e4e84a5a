"""Does an encoder beat what has not seen the disease: each line of a task against every baseline at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evalfm.analysis.pairing import Paired, pair
from evalfm.analysis.table import TaskTable
from evalfm.errors import EvalfmError
from evalfm.statistics.comparison import Difference, SpeaksOf
from evalfm.statistics.ranks import negated

ALPHA = 0.05


@dataclass(frozen=True)
class AgainstBaselines:
    """One line against all baselines of its table.

    Attributes:
        encoder, head, adaptation: the line.
        baseline: the baseline that it beats least surely.
        baseline_head, baseline_adaptation: of it; masks have two constants.
        unbeaten: every baseline that it does not beat at the 5 % level.
        metric: by which they are compared.
        gain: the line minus that baseline, turned so that above 0 the line is better.
        p: that it beats every baseline: twice the largest one-sided p over them (intersection–union: which baseline
            is best is not known before the test, so none is chosen). None where a p cannot be given.
        speaks_of: encoders where the variance of the training sample is counted against every baseline.
    """

    encoder: str
    head: str
    adaptation: str
    baseline: str
    baseline_head: str
    baseline_adaptation: str
    unbeaten: tuple[str, ...]
    metric: str
    gain: Difference
    p: float | None
    speaks_of: SpeaksOf

    @property
    def beats_all(self) -> bool:
        """Whether it is better than every baseline at the 5 % level."""
        return self.p is not None and self.p < ALPHA

    @property
    def sentence(self) -> str:
        """What is found, in words."""
        gain, name = self.gain, " · ".join((self.encoder, self.head, *{self.adaptation} - {"frozen"}))
        digits = 3 if abs(gain.value) >= 0.01 else 4
        interval = "" if gain.low is None else f" [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"
        p = "no p" if self.p is None else "p < .001" if self.p < 0.001 else f"p = {self.p:.3f}"
        figures = f"{self.metric} {gain.value:+.{digits}f}{interval}, {p}"
        if self.beats_all:
            return f"{name} beats every baseline; nearest {self.baseline}: gain in {figures}."
        others = [each for each in dict.fromkeys(self.unbeaten) if each != self.baseline]
        nor = f" (nor {', '.join(others)})" if others else ""
        return f"{name} does not beat {self.baseline}{nor}: gain in {figures}."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"beats_all": self.beats_all}


def against_baselines(table: TaskTable, paired: Paired | None = None) -> list[AgainstBaselines]:
    """Every line of ``table`` that is no baseline, against its baselines; empty where nothing can be paired.

    By the metric of ``paired``, the lines of the table brought together; by default the one that ``compare`` takes.
    """
    contenders = [place for place, line in enumerate(table.lines) if not line.baseline]
    baselines = [place for place, line in enumerate(table.lines) if line.baseline]
    if not contenders or not baselines or any(line.episode_sd is not None for line in table.lines):
        return []
    try:
        paired = paired or pair(table.lines)
        differences = paired.differences([(one, other) for one in contenders for other in baselines])
    except EvalfmError:
        # Too few patients for the metric, which the table says itself.
        return []
    sign = -1 if paired.lower_is_better else 1
    found = []
    for number, place in enumerate(contenders):
        gains = [
            each if sign > 0 else negated(each)
            for each in differences[number * len(baselines) : (number + 1) * len(baselines)]
        ]
        one_sided = [one_sided_p(each) for each in gains]
        hardest = int(np.argmax(one_sided))
        p = None if any(each.p is None for each in gains) else min(1.0, 2 * one_sided[hardest])
        line, nearest = table.lines[place], table.lines[baselines[hardest]]
        names = [table.lines[each].encoder for each in baselines]
        unbeaten = tuple(name for name, each in zip(names, one_sided, strict=True) if each >= ALPHA / 2)
        of_encoders = all(each.speaks_of == "encoders" for each in gains)
        found.append(
            AgainstBaselines(
                line.encoder,
                line.head,
                line.adaptation,
                nearest.encoder,
                nearest.head,
                nearest.adaptation,
                unbeaten,
                paired.metric,
                gains[hardest],
                p,
                "encoders" if of_encoders else "these trained heads",
            )
        )
    return found


def one_sided_p(difference: Difference) -> float:
    """The p of a difference being above 0; 1 where it has none.

    >>> from evalfm.statistics.comparison import compare_means
    >>> found = compare_means([0.8, 0.9, 0.7, 0.8], [0.7, 0.7, 0.6, 0.8], ["a", "b", "c", "d"])
    >>> round(found.p, 3), round(one_sided_p(found), 3)
    (0.092, 0.046)
    """
    if difference.p is None:
        return 1.0
    return difference.p / 2 if difference.value > 0 else 1 - difference.p / 2
