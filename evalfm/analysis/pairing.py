"""Runs of one task brought onto the same test rows: what each says of each image, or why they cannot be paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.table import LOWER_IS_BETTER, Line
from evalfm.errors import EvalfmError
from evalfm.runs import Run
from evalfm.statistics.auroc import Auroc, class_patients
from evalfm.statistics.comparison import Difference, compare_means, contrast_aurocs
from evalfm.statistics.resampling import Average, Patients, Statistic, identify, mean_over_folds, over_folds
from evalfm.tasks.metrics.binary import FEWEST_PATIENTS

PAIRED = {"binary": "auroc", "segmentation": "dice_positive", "regression": "mae"}
"""Kinds that can be paired, and the metric by which."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Several lines on the same test rows.

    Attributes:
        metric: by which they are compared.
        patients: of the rows.
        names: patient of each row [N].
        target: [N] labels of a binary task, else None.
        folds: [N], or None.
        values: per line [N, seeds]: scores of a binary task, else Dice or absolute errors.
    """

    metric: str
    patients: Patients
    names: NDArray[np.object_]
    target: Values | None
    folds: NDArray[np.intp] | None
    values: tuple[Values, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.metric in LOWER_IS_BETTER

    def statistic(self, line: int) -> Statistic:
        """The metric of a line, averaged over its seeds, as a function of patient weights."""
        return Average([self._of(column) for column in self.values[line].T])

    def differences(self, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
        """First minus second of each pair of lines, seeds averaged.

        Raises:
            EvalfmError: there are too few patients.
        """
        weights = np.zeros((len(pairs), len(self.values)))
        for row, (one, other) in enumerate(pairs):
            weights[row, one], weights[row, other] = 1, -1
        return self.contrasts(weights)

    def contrasts(self, weights: Values) -> list[Difference]:
        """Weighted sums of the metric over lines, one per row of ``weights`` [M, lines], seeds averaged.

        Raises:
            EvalfmError: there are too few patients.
        """
        try:
            if self.target is None:
                means = np.stack([values.mean(axis=1) for values in self.values], axis=1)
                return [compare_means(means @ row, np.zeros(len(means)), self.names) for row in weights]
            seeds = [values.shape[1] for values in self.values]
            spread = np.concatenate(
                [np.repeat(weights[:, [line]] / n, n, axis=1) for line, n in enumerate(seeds)], axis=1
            )
            return contrast_aurocs(
                self.target, np.concatenate(self.values, axis=1), spread, self.names, folds=self.folds
            )
        except ValueError as error:
            raise EvalfmError(f"The runs cannot be compared: {error}.") from None

    def _of(self, column: Values) -> Statistic:
        if self.target is None:
            return mean_over_folds(column, self.patients)
        target, codes, count = self.target, self.patients.codes, self.patients.count
        return over_folds(self.patients, lambda rows: Auroc(target[rows], column[rows], codes[rows], count))


def pair(lines: Sequence[Line]) -> Paired:
    """``lines`` of one task on the test rows that they share, which must be all of them.

    Raises:
        EvalfmError: test patients, truths, folds or label sources differ (says between which), or the kind of task
            cannot be paired.
    """
    first = lines[0].runs[0]
    kind = str(first.record.task["kind"])
    if kind not in PAIRED:
        raise EvalfmError(f"{first.task} is {kind}; compare pairs tasks of kind {', '.join(PAIRED)}.")
    if kind == "segmentation" and len(first.record.data["class_names"]) > 1:
        raise EvalfmError(f"{first.task} has several masks per image; compare tasks of one mask.")
    tables = [[_tested(run) for run in line.runs] for line in lines]
    for line, found in zip(lines, tables, strict=True):
        for run, table in zip(line.runs, found, strict=True):
            _check(first, tables[0][0], run, table, kind)
    names = str(first.record.data["class_names"][0]) if kind != "regression" else ""
    start = tables[0][0]
    rows = np.ones(len(start), dtype=bool)
    if kind == "segmentation":
        # Dice of the primary metric is that of films with a lesion.
        rows = start[f"area_true_{names}"].to_numpy(np.float64) > 0
        if not rows.any():
            raise EvalfmError(f"No test film of {first.task} has the finding, so there is no Dice to compare.")
    if kind == "binary":
        counts = class_patients(start["target"].to_numpy(np.float64), start["patient"].to_numpy(dtype=object))
        if min(counts) < FEWEST_PATIENTS:
            raise EvalfmError(
                f"{first.task} was tested on {counts[0]} patients with the finding and {counts[1]} without; an AUROC "
                f"needs {FEWEST_PATIENTS} of either. Test on more data, or with --folds."
            )
    folds = start["fold"].to_numpy(np.intp)[rows] if "fold" in start else None
    patient = start["patient"].to_numpy(dtype=object)[rows]
    return Paired(
        PAIRED[kind],
        identify(patient, folds),
        patient,
        start["target"].to_numpy(np.float64) if kind == "binary" else None,
        folds,
        tuple(np.stack([_values(table, kind, names)[rows] for table in found], axis=1) for found in tables),
    )


def _tested(run: Run) -> pd.DataFrame:
    """The test rows of a run in the order of their ids."""
    table = run.predictions()
    return table[table["split"] == "test"].sort_values("id", kind="stable").reset_index(drop=True)


def _values(table: pd.DataFrame, kind: str, name: str) -> Values:
    if kind == "binary":
        return table[f"score_{name}"].to_numpy(np.float64)
    if kind == "segmentation":
        return table[f"dice_{name}"].to_numpy(np.float64)
    error: Values = table["prediction"].to_numpy(np.float64) - table["target"].to_numpy(np.float64)
    return np.abs(error)


def _check(first: Run, own: pd.DataFrame, other: Run, theirs: pd.DataFrame, kind: str) -> None:
    between = f"{_name(first)} and {_name(other)} cannot be paired: "
    if first.record.data["label_source"] != other.record.data["label_source"]:
        sources = (first.record.data["label_source"], other.record.data["label_source"])
        raise EvalfmError(f"{between}their labels come from {_words(sources[0])} and {_words(sources[1])}.")
    if own["id"].tolist() != theirs["id"].tolist():
        shared = len(set(own["id"]) & set(theirs["id"]))
        raise EvalfmError(
            f"{between}they were tested on {len(own)} and {len(theirs)} images, {shared} of them the same; "
            "run both on one split."
        )
    images = [run.record.data.get("test_digest") for run in (first, other)]
    if None not in images and images[0] != images[1]:
        name = first.record.data["test_name"]
        raise EvalfmError(
            f"{between}images of the same ids differ, so these are two data sets named {name!r}; "
            "compare the runs of one at a time."
        )
    columns = ["patient", *(["target"] if kind != "segmentation" else []), *(["fold"] if "fold" in own else [])]
    for column in columns:
        if column not in theirs or own[column].tolist() != theirs[column].tolist():
            raise EvalfmError(f"{between}the column {column!r} of their predictions differs on the same images.")


def _words(source: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in source.items()) if isinstance(source, dict) else str(source)


def _name(run: Run) -> str:
    return f"{run.encoder}/{run.head}-{run.adaptation} ({run.record.key[:8]})"
