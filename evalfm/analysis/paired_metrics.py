"""The metrics by which runs are paired: each as a function of patient weights, and as contrasts with an analytic p."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.statistics.auroc import Auroc
from evalfm.statistics.auroc_covariance import class_patients
from evalfm.statistics.classification import confusion_columns
from evalfm.statistics.comparison import Difference, compare_means, contrast_confusions, contrast_macro_aurocs
from evalfm.statistics.influence import METRICS
from evalfm.statistics.resampling import (
    Average,
    Patients,
    Positions,
    Statistic,
    identify,
    mean_over_folds,
    over_folds,
    sums_over_folds,
)
from evalfm.tasks.kinds import BASE_TO_NOVEL
from evalfm.tasks.metrics.binary import FEWEST_PATIENTS
from evalfm.tasks.metrics.facts import check_metrics
from evalfm.tasks.metrics.multiclass import OF_HALVES

Values = NDArray[np.float64]


@dataclass(frozen=True)
class PairedRows:
    """Whose the compared rows are.

    Attributes:
        names: patient of each row [N].
        folds: [N], or None.
    """

    names: NDArray[np.object_]
    folds: NDArray[np.intp] | None

    @cached_property
    def patients(self) -> Patients:
        """Coded."""
        return identify(self.names, self.folds)

    @classmethod
    def of(cls, table: pd.DataFrame, kept: NDArray[np.bool_] | None = None) -> PairedRows:
        """Those of a table of predictions, all or the ``kept`` ones [N]."""
        table = table if kept is None else table[kept]
        folds = table["fold"].to_numpy(np.intp) if "fold" in table else None
        return cls(table["patient"].to_numpy(dtype=object), folds)


class PairedMetric(ABC):
    """One metric of C runs on the same rows.

    Attributes:
        rows: that it is of.
    """

    rows: PairedRows

    @abstractmethod
    def statistic(self, column: int) -> Statistic:
        """The metric of a run as a function of patient weights."""

    @abstractmethod
    def contrasts(self, weights: Values) -> list[Difference]:
        """Weighted sums of the metric over runs, one per row of ``weights`` [M, C].

        Raises:
            ValueError: there are too few patients.
        """

    @property
    def fewest(self) -> int:
        """Patients in the smallest group that it needs."""
        return self.rows.patients.count

    @property
    def note(self) -> str | None:
        """What it leaves out."""
        return None


@dataclass(frozen=True)
class Means(PairedMetric):
    """A mean of ``values`` [N, C]: Dice, absolute errors, right calls."""

    rows: PairedRows
    values: Values

    def statistic(self, column: int) -> Statistic:
        """Mean over images, averaged over folds."""
        return mean_over_folds(self.values[:, column], self.rows.patients)

    def contrasts(self, weights: Values) -> list[Difference]:
        """Paired t on per-patient means."""
        nothing = np.zeros(len(self.values))
        return [compare_means(self.values @ row, nothing, self.rows.names) for row in weights]


@dataclass(frozen=True)
class Aurocs(PairedMetric):
    """AUROC, averaged over the K questions of a task.

    Attributes:
        labels: [N, K] 0, 1 or NaN.
        scores: [N, K, C].
        classes: K names; ``left_out`` those with too few patients.
    """

    rows: PairedRows
    labels: Values
    scores: Values
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def statistic(self, column: int) -> Statistic:
        """Mean over the questions, pairs counted within folds."""
        parts = [self._of(question, self.scores[:, question, column]) for question in range(len(self.classes))]
        return Average(parts, "classes")

    def contrasts(self, weights: Values) -> list[Difference]:
        """By the joint covariance of Obuchowski's structural components."""
        return contrast_macro_aurocs(self.labels, self.scores, weights, self.rows.names, folds=self.rows.folds)

    @property
    def fewest(self) -> int:
        """Of either class of the rarest question."""
        return min(min(_counted(self.rows, label)) for label in self.labels.T)

    @property
    def note(self) -> str | None:
        """Questions left out."""
        if not self.left_out:
            return None
        every = len(self.classes) + len(self.left_out)
        return f"over {len(self.classes)} of {every} classes, without {', '.join(self.left_out)}"

    def _of(self, question: int, score: Values) -> Statistic:
        label = self.labels[:, question]
        known, patients = ~np.isnan(label), self.rows.patients

        def build(rows: Positions) -> Auroc:
            kept = rows[known[rows]]
            return Auroc(label[kept], score[kept], patients.codes[kept], patients.count)

        return over_folds(patients, build)


@dataclass(frozen=True)
class Confusions(PairedMetric):
    """A metric of the confusion matrix of ``target`` [N] and ``called`` [N, C], class numbers below ``classes``."""

    rows: PairedRows
    metric: str
    target: NDArray[np.intp]
    called: NDArray[np.intp]
    classes: int

    def statistic(self, column: int) -> Statistic:
        """The metric of each fold, averaged."""
        columns = confusion_columns(self.target, self.called[:, column], self.classes)
        return sums_over_folds(columns, self.rows.patients, METRICS[self.metric][0])

    def contrasts(self, weights: Values) -> list[Difference]:
        """By the influence of each patient."""
        rows = self.rows
        return contrast_confusions(
            self.target, self.called, self.classes, self.metric, weights, rows.names, folds=rows.folds
        )


Tables = Sequence[pd.DataFrame]
Names = tuple[str, ...]
Make = Callable[[Tables, Names, str], PairedMetric]


def paired_metric(
    kind: str, requested: str | None, primary: str, tables: Tables, names: Names
) -> tuple[str, PairedMetric]:
    """The metric by which runs of ``kind`` are compared, with its name.

    Args:
        kind: of the task.
        requested: a metric; by default the task's ``primary`` where it can be paired, else the first that can.
        primary: the first metric of the task's card.
        tables: test predictions of each run, of the same images in the same order.
        names: of the classes.

    Raises:
        EvalfmError: the metric cannot be paired, or there are too few patients for it.
    """
    able = PAIRED[kind]
    metric = requested or usual_metric(kind, primary)
    single = {f"auroc[{name}]": name for name in names if "macro_auroc" in able}
    if metric in single:
        return metric, _macro(kind, tables, names, (single[metric],))
    masks = {f"dice_positive_{name}": name for name in names if "dice_positive" in able and len(names) > 1}
    if metric in masks:
        return metric, _dice(tables, (masks[metric],), kind)
    if metric not in able:
        known = [*able, *single, *masks]
        try:
            check_metrics([metric], kind, names)
        except UnknownNameError:
            raise UnknownNameError(f"metric of {kind} runs that can be compared in pairs", metric, known) from None
        raise EvalfmError(
            f"no paired test of {metric} is built in; compare by {', '.join(known)}, or see it with its interval by "
            f"`evalfm ls runs --metrics {metric}`."
        )
    return metric, able[metric](tables, names, kind)


def usual_metric(kind: str, primary: str) -> str:
    """The task's ``primary`` metric where it can be paired, else the first that can."""
    return primary if primary in PAIRED[kind] else next(iter(PAIRED[kind]))


def _binary(tables: Tables, names: Names, kind: str) -> PairedMetric:
    rows, target = PairedRows.of(tables[0]), tables[0]["target"].to_numpy(np.float64)
    counts = _counted(rows, target)
    if min(counts) < FEWEST_PATIENTS:
        raise EvalfmError(
            f"the test holds {counts[0]} patients with the finding and {counts[1]} without; an AUROC needs "
            f"{FEWEST_PATIENTS} of either. Test on more data, or with --folds."
        )
    scores = np.stack([table[f"score_{names[0]}"].to_numpy(np.float64) for table in tables], axis=1)
    return Aurocs(rows, target[:, None], scores[:, None, :], names)


def _macro_auroc(tables: Tables, names: Names, kind: str) -> PairedMetric:
    return _macro(kind, tables, names, names)


def _macro(kind: str, tables: Tables, names: Names, wanted: Names) -> PairedMetric:
    """AUROC of each label over the images where it is known, or of one class against the rest.

    Classes with too few patients are left out, as the runs' own macro AUROC leaves them out.
    """
    rows = PairedRows.of(tables[0])
    labels, scores = [], []
    for name in wanted:
        label = (
            tables[0][f"target_{name}"].to_numpy(np.float64)
            if kind == "multilabel"
            else (tables[0]["target"].to_numpy(np.float64) == names.index(name)).astype(np.float64)
        )
        score = np.stack([table[f"score_{name}"].to_numpy(np.float64) for table in tables], axis=1)
        unscored = np.isnan(score)
        if (unscored != unscored[:, :1]).any():
            raise EvalfmError(
                f"some runs give no score of {name!r}, which had one class only in their train or val, where others "
                "do; compare runs of one split and subset."
            )
        labels.append(np.where(unscored[:, 0], np.nan, label))
        scores.append(np.where(unscored, 0.0, score))
    counts = [min(_counted(rows, label)) for label in labels]
    kept = [place for place, count in enumerate(counts) if count >= FEWEST_PATIENTS]
    if not kept:
        shown = ", ".join(f"{name} {count}" for name, count in zip(wanted, counts, strict=True))
        raise EvalfmError(
            f"an AUROC needs {FEWEST_PATIENTS} test patients with a class and as many without it; the fewer of the two "
            f"are: {shown}. Test on more data, or with --folds."
        )
    for place in kept:
        _refuse_thin_folds(rows, labels[place], wanted[place])
    left_out = tuple(name for place, name in enumerate(wanted) if place not in kept)
    labels, scores = [labels[place] for place in kept], [scores[place] for place in kept]
    classes = tuple(wanted[place] for place in kept)
    return Aurocs(rows, np.stack(labels, axis=1), np.stack(scores, axis=1), classes, left_out)


def _refuse_thin_folds(rows: PairedRows, label: Values, name: str) -> None:
    """A fold that cannot rank a class would drop out of its mean, which no paired variance could follow."""
    for fold in () if rows.folds is None else np.unique(rows.folds):
        inside = rows.folds == fold
        counts = _counted(PairedRows(rows.names[inside], None), label[inside])
        if min(counts) < 2:
            raise EvalfmError(
                f"fold {int(fold) + 1} tests {counts[0]} patients with {name!r} and {counts[1]} without, and two of "
                "either are needed; use fewer folds, or another metric with --metric."
            )


def _confusion(metric: str) -> Make:
    def make(tables: Tables, names: Names, kind: str) -> PairedMetric:
        target, called = _called(tables, names)
        return Confusions(PairedRows.of(tables[0]), metric, target, called, len(names))

    return make


def _accuracy(tables: Tables, names: Names, kind: str) -> PairedMetric:
    target, called = _called(tables, names)
    return Means(PairedRows.of(tables[0]), (called == target[:, None]).astype(np.float64))


def _called(tables: Tables, names: Names) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """True [N] and answered [N, C] class numbers: the class of the largest score, of equal ones the first."""
    columns = [f"score_{name}" for name in names]
    # Base-to-novel gives no score of the classes of the other half.
    answers = [np.nan_to_num(table[columns].to_numpy(np.float64), nan=-np.inf).argmax(axis=1) for table in tables]
    return tables[0]["target"].to_numpy(np.intp), np.stack(answers, axis=1)


def _dice(tables: Tables, names: Names, kind: str) -> PairedMetric:
    """Of images with the lesion."""
    if len(names) > 1:
        raise EvalfmError(f"the task has several masks per image; name one, such as --metric dice_positive_{names[0]}.")
    there = tables[0][f"area_true_{names[0]}"].to_numpy(np.float64) > 0
    if not there.any():
        raise EvalfmError("no test image has the finding, so there is no Dice to compare.")
    dice = np.stack([table[f"dice_{names[0]}"].to_numpy(np.float64)[there] for table in tables], axis=1)
    return Means(PairedRows.of(tables[0], there), dice)


def _absolute_error(tables: Tables, names: Names, kind: str) -> PairedMetric:
    target = tables[0]["target"].to_numpy(np.float64)
    errors = [np.abs(table["prediction"].to_numpy(np.float64) - target) for table in tables]
    return Means(PairedRows.of(tables[0]), np.stack(errors, axis=1))


_OF_CLASSES: dict[str, Make] = {
    "macro_auroc": _macro_auroc,
    "accuracy": _accuracy,
    **{name: _confusion(name) for name in ("balanced_accuracy", "macro_f1", "weighted_f1")},
}
PAIRED: Mapping[str, Mapping[str, Make]] = {
    "binary": {"auroc": _binary},
    "multilabel": {"macro_auroc": _macro_auroc},
    "multiclass": _OF_CLASSES,
    "ordinal": {"quadratic_kappa": _confusion("quadratic_kappa"), **_OF_CLASSES},
    BASE_TO_NOVEL: {name: _confusion(name) for name in OF_HALVES},
    "segmentation": {"dice_positive": _dice},
    "regression": {"mae": _absolute_error},
}
"""Per kind of task the metrics that can be paired, the usual one first."""


def _counted(rows: PairedRows, label: Values) -> tuple[int, int]:
    """Patients with and without, among rows where the label is known."""
    known = ~np.isnan(label)
    return class_patients(label[known], rows.names[known])
