"""Metrics of a measured quantity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evalfm.metrics.metric import Better, Metric
from evalfm.metrics.rows import TrueAndPredicted
from evalfm.statistics import agreement
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import FromRows, Positions, Values, mean_over_patients, over_folds, sums_over_folds

REGRESSION = ("regression",)
OF_TARGET = "unit of the target"


def _of_moments(
    name: str,
    formula: Callable[[Values], Values],
    undefined: str = "no image",
    *,
    unit: str = "",
    better: Better = "higher",
    beside: tuple[str, ...] = (),
    words: str = "",
    of_image: Callable[[Values], Values] | None = None,
) -> Metric:
    """``formula`` of the summed moments of target and prediction; ``of_image`` the errors that it is a mean of."""

    def measure(rows: TrueAndPredicted) -> Measured:
        moments = agreement.moment_columns(rows.target, rows.prediction)
        return Measured(
            sums_over_folds(moments, rows.patients, formula),
            rows.patients.count,
            undefined,
            by_patient=(lambda: mean_over_patients(of_image(rows.prediction - rows.target), rows.patients))
            if of_image
            else None,
        )

    return Metric(name, REGRESSION, measure, (), unit, better, beside, words=words)


def _spearman(rows: TrueAndPredicted) -> Measured:
    target, prediction, patients = rows.target, rows.prediction, rows.patients

    def build(some: Positions) -> FromRows:
        return agreement.spearman_statistic(target[some], prediction[some], patients.codes[some], patients.count)

    return Measured(over_folds(patients, build), patients.count, "target or prediction is constant")


METRICS = (
    _of_moments(
        "mae",
        agreement.mean_absolute_error,
        unit=OF_TARGET,
        better="lower",
        words="absolute errors",
        of_image=np.abs,
    ),
    _of_moments("rmse", agreement.root_mean_square_error, unit=OF_TARGET, better="lower"),
    _of_moments("r2", agreement.r_squared, "the target is constant"),
    _of_moments("pearson", agreement.pearson, "target or prediction is constant"),
    _of_moments("ccc", agreement.concordance, "target and prediction are the same constant"),
    # Bland–Altman: the mean of prediction − target, and that ± 1.96 sd.
    _of_moments("bias", agreement.bias, unit=OF_TARGET, better=0.0, beside=("limits_low", "limits_high")),
    _of_moments(
        "limits_low",
        agreement.lower_limit,
        "needs two images",
        unit=OF_TARGET,
        better=0.0,
        beside=("bias", "limits_high"),
    ),
    _of_moments(
        "limits_high",
        agreement.upper_limit,
        "needs two images",
        unit=OF_TARGET,
        better=0.0,
        beside=("bias", "limits_low"),
    ),
    Metric("spearman", REGRESSION, _spearman),
)
"""In the order of tables."""
