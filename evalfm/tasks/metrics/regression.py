"""Metrics of a measured quantity."""

from __future__ import annotations

from collections.abc import Callable

from numpy.typing import ArrayLike

from evalfm.statistics import agreement
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Values, over_folds, sums_over_folds
from evalfm.tasks.metrics.inputs import BY_PATIENT, Sampling, checked_columns

OF_MOMENTS: dict[str, tuple[Callable[[Values], Values], str]] = {
    "mae": (agreement.mean_absolute_error, "no image"),
    "rmse": (agreement.root_mean_square_error, "no image"),
    "r2": (agreement.r_squared, "the target is constant"),
    "pearson": (agreement.pearson, "target or prediction is constant"),
    "ccc": (agreement.concordance, "target and prediction are the same constant"),
    "bias": (agreement.bias, "no image"),
    "limits_low": (agreement.lower_limit, "needs two images"),
    "limits_high": (agreement.upper_limit, "needs two images"),
}
"""Formula, and why it may have no value."""


def regression_metrics(
    target: ArrayLike,
    prediction: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
) -> dict[str, Estimate]:
    """Every metric of a regression task with its interval.

    Args:
        target, prediction: in the target's unit, [N].
        patient: patient id of each row, [N]; patients are resampled as a whole.
        sampling: folds, and how intervals are made.

    Returns:
        ``mae, rmse, r2, pearson, spearman, ccc`` (Lin's concordance), ``bias`` (mean of prediction − target),
        ``limits_low, limits_high`` (Bland–Altman, bias ± 1.96 sd).

    Raises:
        EvalfmError: rows are missing or do not fit.

    >>> import numpy as np
    >>> target = np.linspace(0.3, 0.6, 40)
    >>> found = regression_metrics(target, target + 0.02, range(40), Sampling(resamples=200))
    >>> round(found["mae"].value, 3), round(found["bias"].value, 3), found["mae"].reason
    (0.02, 0.02, 'degenerate bootstrap: every resample gives the same value')
    """
    patients = sampling.patients(patient)
    columns = checked_columns({"target": target, "prediction": prediction}, len(patients.codes))
    truth, guess = columns["target"], columns["prediction"]
    moments = agreement.moment_columns(truth, guess)
    measured: dict[str, Measured | Estimate] = {
        name: Measured(sums_over_folds(moments, patients, formula), n=patients.count, undefined=undefined)
        for name, (formula, undefined) in OF_MOMENTS.items()
    }
    measured["spearman"] = Measured(
        over_folds(
            patients,
            lambda rows: agreement.spearman_statistic(truth[rows], guess[rows], patients.codes[rows], patients.count),
        ),
        n=patients.count,
        undefined="target or prediction is constant",
    )
    return sampling.estimates(measured, patients)
