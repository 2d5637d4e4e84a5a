"""Test predictions from arrays, and all their metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evalfm.metrics.mask_scores import MaskScores
from evalfm.metrics.registry import compute_metrics
from evalfm.metrics.rows import Scored
from evalfm.statistics.estimate import Estimate


@dataclass(frozen=True)
class Sampling:
    """Folds [N], and how intervals are made."""

    folds: ArrayLike | None = None
    seed: int = 0
    resamples: int = 2000

    def metrics(
        self, kind: str, columns: Mapping[str, Any], names: Sequence[str], only: Collection[str] | None = None
    ) -> dict[str, Estimate]:
        kept = {name: values for name, values in columns.items() if values is not None}
        table = pd.DataFrame(kept if self.folds is None else {**kept, "fold": self.folds})
        return compute_metrics(kind, Scored(table, tuple(names), True, self.seed, self.resamples), only)


BY_PATIENT = Sampling()


def binary_metrics(
    target: ArrayLike,
    score: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    threshold: ArrayLike | None,
    calibrated: ArrayLike | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Estimate]:
    columns = {"target": target, "score_x": score, "patient": patient, "threshold": threshold, "calibrated": calibrated}
    return sampling.metrics("binary", columns, ("x",), only)


def _each(what: str, values: ArrayLike | None, names: Sequence[str]) -> dict[str, Any]:
    return {} if values is None else dict(zip((f"{what}_{name}" for name in names), np.asarray(values).T, strict=True))


def multilabel_metrics(
    targets: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    class_names: Sequence[str],
    thresholds: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Estimate]:
    columns = _each("target", targets, class_names) | _each("score", scores, class_names)
    columns |= {f"threshold_{name}": values for name, values in (thresholds or {}).items()}
    return sampling.metrics("multilabel", {"patient": patient, **columns}, class_names)


def multiclass_metrics(
    target: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    kind: str = "multiclass",
    class_names: Sequence[str] | None = None,
    calibrated: ArrayLike | None = None,
) -> dict[str, Estimate]:
    names = class_names or [str(place) for place in range(np.asarray(scores).shape[1])]
    columns = _each("score", scores, names) | _each("calibrated", calibrated, names)
    return sampling.metrics(kind, {"target": target, "patient": patient, **columns}, names)


def regression_metrics(
    target: ArrayLike, prediction: ArrayLike, patient: ArrayLike, sampling: Sampling = BY_PATIENT
) -> dict[str, Estimate]:
    return sampling.metrics("regression", {"target": target, "prediction": prediction, "patient": patient}, ())


def segmentation_metrics(
    rows: Sequence[MaskScores], patient: ArrayLike, sampling: Sampling = BY_PATIENT
) -> dict[str, Estimate]:
    table = pd.DataFrame([row.columns() for row in rows]).add_suffix("_heart")
    return sampling.metrics("segmentation", {"patient": patient, **table}, ("heart",))
