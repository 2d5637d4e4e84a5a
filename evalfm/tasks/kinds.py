"""Per kind of task: the columns of its predictions, and its metrics, computed from that table alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.statistics.estimate import Estimate
from evalfm.tasks.metrics.binary import binary_metrics
from evalfm.tasks.metrics.facts import check_metrics
from evalfm.tasks.metrics.inputs import Sampling
from evalfm.tasks.metrics.multiclass import base_to_novel_metrics, multiclass_metrics
from evalfm.tasks.metrics.multilabel import multilabel_metrics
from evalfm.tasks.metrics.regression import regression_metrics
from evalfm.tasks.metrics.segmentation import MaskColumns, segmentation_metrics


@dataclass(frozen=True)
class Scored:
    """Test predictions of one run, from which all its metrics are computed.

    Attributes:
        table: the test rows of predictions.parquet.
        class_names: as in the run.
        patients_known: False makes every image its own unit, and the metrics say so.
        seed: of the resamples.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    patients_known: bool
    seed: int = 0

    @property
    def patient(self) -> NDArray[np.object_]:
        """Patient id of each row, [N]."""
        return self.table["patient"].to_numpy(dtype=object)

    @property
    def sampling(self) -> Sampling:
        """Folds where there are several splits, what is resampled, and the seed."""
        folds = self.table["fold"].to_numpy(np.intp) if "fold" in self.table else None
        return Sampling(folds, "patients" if self.patients_known else "images", self.seed)

    def of_classes(self, what: str) -> NDArray[np.float64] | None:
        """[N, K] columns ``<what>_<class>``, or None where the table lacks them."""
        columns = [f"{what}_{name}" for name in self.class_names]
        if not set(columns) <= set(self.table.columns):
            return None
        return self.table[columns].to_numpy(np.float64)

    def scores(self) -> NDArray[np.float64]:
        """[N, K] score columns."""
        return self.table[[f"score_{name}" for name in self.class_names]].to_numpy(np.float64)


def compute_metrics(kind: str, scored: Scored, only: Collection[str] | None = None) -> dict[str, Estimate]:
    """Every metric of ``kind`` on the test predictions, or ``only`` some, with the same values.

    Raises:
        UnknownNameError: a metric is computed that `metrics.facts` does not list.

    >>> table = pd.DataFrame({"patient": [f"p{i}" for i in range(40)], "target": 0.5, "prediction": 0.6})
    >>> found = compute_metrics("regression", Scored(table, ("size",), patients_known=True), only=("mae",))
    >>> round(found["mae"].value, 2), found["mae"].n, found["mae"].unit
    (0.1, 40, 'patients')
    """
    metrics = _binary(scored, only) if kind == "binary" else METRICS[kind](scored)
    check_metrics(metrics, kind, scored.class_names)
    return {name: estimate for name, estimate in metrics.items() if only is None or name in only}


def _binary(scored: Scored, only: Collection[str] | None = None) -> dict[str, Estimate]:
    calibrated = scored.of_classes("calibrated")
    return binary_metrics(
        scored.table["target"].to_numpy(np.float64),
        scored.scores()[:, 0],
        scored.patient,
        scored.sampling,
        threshold=scored.table["threshold"].to_numpy(np.float64),
        calibrated=None if calibrated is None else calibrated[:, 0],
        only=only,
    )


def _multiclass(scored: Scored, ordinal: bool = False) -> dict[str, Estimate]:
    return multiclass_metrics(
        scored.table["target"].to_numpy(np.intp),
        scored.scores(),
        scored.patient,
        scored.sampling,
        ordinal=ordinal,
        class_names=scored.class_names,
        calibrated=scored.of_classes("calibrated"),
    )


def _multilabel(scored: Scored) -> dict[str, Estimate]:
    targets = scored.table[[f"target_{name}" for name in scored.class_names]].to_numpy(np.float64)
    thresholds = scored.of_classes("threshold")
    return multilabel_metrics(
        targets,
        scored.scores(),
        scored.patient,
        scored.sampling,
        class_names=scored.class_names,
        thresholds=None if thresholds is None else dict(zip(scored.class_names, thresholds.T, strict=True)),
    )


def _regression(scored: Scored) -> dict[str, Estimate]:
    return regression_metrics(
        scored.table["target"].to_numpy(np.float64),
        scored.table["prediction"].to_numpy(np.float64),
        scored.patient,
        scored.sampling,
    )


def _segmentation(scored: Scored) -> dict[str, Estimate]:
    """One class: its metrics by name; several: each under ``metric_class`` and their mean is not taken."""
    results: dict[str, Estimate] = {}
    for name in scored.class_names:
        columns = MaskColumns.from_table(scored.table, name)
        metrics = segmentation_metrics(columns, scored.patient, scored.sampling)
        suffix = "" if len(scored.class_names) == 1 else f"_{name}"
        results.update({f"{metric}{suffix}": estimate for metric, estimate in metrics.items()})
    return results


def _base_to_novel(scored: Scored) -> dict[str, Estimate]:
    sampling = replace(scored.sampling, folds=None)
    return base_to_novel_metrics(scored.table["target"].to_numpy(np.intp), scored.scores(), scored.patient, sampling)


BASE_TO_NOVEL = "base-to-novel"
"""Not a kind of task, but another split of exclusive classes: learnt on one half, tested on the other."""

METRICS: dict[str, Callable[[Scored], dict[str, Estimate]]] = {
    "binary": _binary,
    "multilabel": _multilabel,
    "multiclass": _multiclass,
    "ordinal": lambda scored: _multiclass(scored, ordinal=True),
    "regression": _regression,
    "segmentation": _segmentation,
    BASE_TO_NOVEL: _base_to_novel,
}
"""The metrics of each kind of task."""
