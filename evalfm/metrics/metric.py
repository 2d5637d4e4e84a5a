"""What a metric is: its kinds of task, unit and direction, how it is measured, and how runs are paired by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics.rows import ROWS, Rows
from evalfm.statistics.comparison import Difference, compare_means
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Values, mean_over_folds

Better = str | float | None
"""Which values are good: ``higher`` or ``lower`` ones, those nearest to a number, or None where neither can be said."""

Measure = Callable[[Any], Measured | Estimate]
"""From the rows of a run, or of one of its classes, to the statistic; an absent estimate where it cannot be given."""

THRESHOLD, CALIBRATED = "threshold", "calibrated"
"""Columns of predictions without which a run has no metric that needs them."""

OF_CLASSES = ("multilabel", "multiclass", "ordinal", "segmentation")
"""Kinds of task with metrics of each class."""
Table = Literal["subgroups", "strata of a report", "operating points"]
"""Tables that show a choice of metrics."""


@dataclass(frozen=True)
class Contrast:
    """How several runs on the same rows are compared by a metric.

    Attributes:
        words: the test in a sentence on methods, with ``{}`` for the names of what is compared by it.
        test: from the rows of C runs and weights [M, C] to M weighted sums of the metric over runs, each with its p;
            raises a ``ValueError`` where there are too few patients.
        prepare: the rows that are compared, and the refusal of runs that cannot be.
    """

    words: str
    test: Callable[[Sequence[Any], Values], list[Difference]]
    prepare: Callable[[Sequence[Any]], Sequence[Any]] = tuple


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in full, such as ``fraction_missed_heart``.
        kinds: of tasks that have it as it is.
        measure: how it is had.
        of_class: kinds that have it of each class or label, which the full name ends in.
        unit: empty for shares, areas under curves, correlations and losses.
        better: ``higher``, ``lower``, the number that it should be nearest to, or None where neither can be said.
        beside: full names of what must be shown with it, where a baseline is good at it alone.
        needs: a column of predictions without which a run does not have it.
        contrast: how runs are paired by it; None where there is no such test.
        words: its name in a sentence.
        tables: those it stands in, of the tables that show a choice.
        default: full name of the same where nothing was chosen on val, such as at a threshold of .5.
        calibrated: full name of the same after temperature scaling.
        constant: full name of the same of a baseline that gives every image one answer.

    Raises:
        ValueError: a kind of task or a direction that there is not, or a contrast without one.
    """

    name: str
    kinds: tuple[str, ...]
    measure: Measure
    of_class: tuple[str, ...] = ()
    unit: str = ""
    better: Better = "higher"
    beside: tuple[str, ...] = ()
    needs: str | None = None
    contrast: Contrast | None = None
    words: str = ""
    tables: tuple[Table, ...] = ()
    default: str = ""
    calibrated: str = ""
    constant: str = ""

    def __post_init__(self) -> None:
        for kinds, known in ((self.kinds, tuple(ROWS)), (self.of_class, OF_CLASSES)):
            if not set(kinds) <= set(known) or not (self.kinds or self.of_class):
                found = ", ".join(kinds) or "no kind of task"
                raise ValueError(f"{self.name} is of {found}; known are {', '.join(known)}")
        if isinstance(self.better, str) and self.better not in ("higher", "lower"):
            raise ValueError(f"{self.better!r} is no direction; take 'higher', 'lower', a number or None")
        if self.contrast is not None and not isinstance(self.better, str):
            raise ValueError(f"runs are ranked by {self.name}, so it needs better='higher' or better='lower'")

    @property
    def lower_is_better(self) -> bool:
        """Whether small values are good ones."""
        return self.better == "lower"

    @property
    def direction(self) -> str:
        """In a word or two: ``higher``, ``lower``, ``near 1``, or ``–``."""
        return "–" if self.better is None else self.better if isinstance(self.better, str) else f"near {self.better:g}"

    def badness(self, value: float | None) -> float:
        """A number by which to sort: the smaller the better, infinite where there is no value.

        Raises:
            ValueError: the metric has no better and worse.

        >>> Metric("dice", ("segmentation",), measure=lambda rows: Estimate(0.5)).badness(0.5)
        -0.5
        """
        if value is None:
            return float("inf")
        if isinstance(self.better, str):
            return value if self.better == "lower" else -value
        if self.better is None:
            raise ValueError(f"{self.name} has no better and worse")
        return abs(value - self.better)


def mean_among(
    rows: Rows, values: NDArray[np.generic], among: NDArray[np.bool_] | None = None, *, undefined: str
) -> Measured:
    """Mean of ``values`` [N] over the images ``among`` (bool [N], all if None)."""
    patients = rows.patients
    return Measured(mean_over_folds(values, patients, among), n=patients.behind(among), undefined=undefined)


def paired_means(
    values: Callable[[Any], Values], prepare: Callable[[Sequence[Any]], Sequence[Any]] = tuple
) -> Contrast:
    """Paired t on per-patient means of ``values`` [N] of the rows."""

    def test(runs: Sequence[Rows], weights: Values) -> list[Difference]:
        every = np.stack([values(rows) for rows in runs], axis=1)
        nothing = np.zeros(len(every))
        return [compare_means(every @ each, nothing, runs[0].scored.patient) for each in weights]

    return Contrast("the paired t test on patient means for {}", test, prepare)
