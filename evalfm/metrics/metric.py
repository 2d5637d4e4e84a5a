"""What a metric is: its kinds of task, unit and direction, how it is measured, and how runs are paired by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.metrics.rows import ROWS, Rows
from evalfm.statistics.comparison import Difference, contrast_by_deletion
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Average, Statistic, Values, mean_over_images, mean_over_patients
from evalfm.statistics.shares import Share

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
        contrast: how runs are paired by it; by default without each patient (``by_deletion``), where it has a better
            and worse.
        words: its name in a sentence; by default its name.
        tables: those it stands in, of the tables that show a choice.
        default: full name of the same where nothing was chosen on val, such as at a threshold of .5.
        calibrated: full name of the same after temperature scaling.
        constant: full name of the same of a baseline that gives every image one answer.
        paired: False where runs are not to be ranked by it: its estimate is biased, or the same for all.

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
    paired: bool = True

    def __post_init__(self) -> None:
        for kinds, known in ((self.kinds, tuple(ROWS)), (self.of_class, OF_CLASSES)):
            if not set(kinds) <= set(known) or not (self.kinds or self.of_class):
                found = ", ".join(kinds) or "no kind of task"
                raise ValueError(f"{self.name} is of {found}; known are {', '.join(known)}")
        if isinstance(self.better, str) and self.better not in ("higher", "lower"):
            raise ValueError(f"{self.better!r} is no direction; take 'higher', 'lower', a number or None")
        if self.contrast is not None and not isinstance(self.better, str):
            raise ValueError(f"runs are ranked by {self.name}, so it needs better='higher' or better='lower'")
        if self.contrast is None and self.paired and isinstance(self.better, str):
            object.__setattr__(self, "contrast", by_deletion(self.measure))
        if not self.words:
            object.__setattr__(self, "words", self.name.replace("_", " "))

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
    """Mean of ``values`` [N] over the images ``among`` (bool [N], all if None), those of all folds together."""
    patients = rows.patients
    return Measured(
        mean_over_images(values, patients, among),
        n=patients.behind(among),
        undefined=undefined,
        by_patient=lambda: mean_over_patients(values, patients, among),
    )


def share_among(
    rows: Rows, hits: NDArray[np.bool_], among: NDArray[np.bool_] | None = None, *, undefined: str
) -> Measured:
    """Share of the images with ``hits`` (bool [N]) among some (bool [N], all if None), with the interval of a share."""
    patients = rows.patients
    counted = np.ones(len(hits), dtype=bool) if among is None else among
    statistic = Share(hits & counted, counted, patients.codes, patients.count)
    return Measured(
        statistic,
        n=patients.behind(among),
        undefined=undefined,
        by_patient=lambda: mean_over_patients(hits, patients, among),
    )


def over_patients(metric: Metric) -> Metric:
    """``metric`` as the mean over patients of the mean of their images, for estimate, interval and pairing alike.

    Absent where the metric is no mean over images: an area under a curve or a correlation has no share of an image.
    """

    def measure(rows: Rows) -> Measured | Estimate:
        found = metric.measure(rows)
        if isinstance(found, Estimate):
            return found
        if found.by_patient is None:
            return Estimate.absent("it is no mean over images", n=found.n, unit=rows.unit)
        return replace(found, statistic=found.by_patient())

    contrast = metric.contrast and by_deletion(measure, metric.contrast.prepare)
    return replace(metric, measure=measure, contrast=contrast)


def by_deletion(measure: Measure, prepare: Callable[[Sequence[Any]], Sequence[Any]] | None = None) -> Contrast:
    """Runs paired by what ``measure`` gives without each patient: of any metric, on its own scale and images."""

    def test(runs: Sequence[Rows], weights: Values) -> list[Difference]:
        found = [measure(rows) for rows in runs]
        absent = [each.reason for each in found if isinstance(each, Estimate)]
        if absent:
            raise ValueError(absent[0])
        measured = [each for each in found if isinstance(each, Measured)]
        values = [each.statistic.on_the_data() for each in measured]
        if not np.isfinite(values).all():
            raise ValueError(measured[0].undefined)
        return contrast_by_deletion(
            values,
            np.stack([each.statistic.without_each() for each in measured], axis=1),
            weights,
            patients=min(each.n if each.fewest is None else each.fewest for each in measured),
            folds=_averaged_folds(measured[0].statistic),
        )

    return Contrast("the paired jackknife over patients for {}", test, prepare or same_images)


def _averaged_folds(statistic: Statistic) -> int:
    """Over how many folds it is an average; 1 of all images together."""
    return len(statistic.terms) if isinstance(statistic, Average) and statistic.names == "folds" else 1


def same_images(runs: Sequence[Any]) -> Sequence[Any]:
    """Refuse runs that have scores of different images.

    Raises:
        EvalfmError: one gives no score of a label where others do.
    """
    asked = [getattr(rows, "questions", {"": rows}) for rows in runs]
    for name in asked[0]:
        first = asked[0][name]
        known = getattr(first, "known", None)
        if known is not None and any((each[name].known != known).any() for each in asked):
            raise EvalfmError(
                f"some runs give no score of {first.name!r}, which had one class only in their train or val, where "
                "others do; compare runs of one split and subset."
            )
    return runs
