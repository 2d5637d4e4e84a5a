"""Does the mean of a measured value (Dice, an area, an error) differ with an attribute, others held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from evalfm.statistics.linear_gee import linear_gee

FEWEST = 10
"""Patients of either level below which no difference is given."""


@dataclass(frozen=True)
class MeanDifference:
    """Mean at the level minus mean elsewhere, on the scale of the value.

    Attributes:
        detectable: the difference that would have been found with 80 % power at the 5 % level.
        p: two-sided, t with ``degrees_of_freedom``.
        reason: why there is none.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    p: float | None = None
    degrees_of_freedom: int | None = None
    reason: str | None = None


def mean_difference(
    values: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    covariates: Mapping[str, ArrayLike] | None = None,
    *,
    level: float = 0.95,
) -> MeanDifference:
    """The coefficient of ``member`` [N] (0 or 1) in values ~ member + covariates, errors clustered by patient.

    Least squares with the covariance of Mancl and DeRouen and t with (patients in the smaller group − 1) degrees of
    freedom. Rows with an unknown value or covariate are left out.
    """
    outcome, inside = np.asarray(values, dtype=np.float64), np.asarray(member).astype(bool)
    columns = [np.asarray(column, dtype=np.float64) for column in (covariates or {}).values()]
    known = np.isfinite(outcome)
    for column in columns:
        known &= np.isfinite(column)
    outcome, inside, names = outcome[known], inside[known], np.asarray(patient).astype(str)[known]
    counts = [int(np.unique(names[inside == side]).size) for side in (False, True)]
    if min(counts) < FEWEST:
        return MeanDifference(None, reason=f"needs {FEWEST} patients of either level; the smaller has {min(counts)}")
    extra = [column[known] - column[known].mean() for column in columns if np.ptp(column[known]) > 0]
    design = np.stack([np.ones(len(outcome)), inside.astype(np.float64), *extra], axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return MeanDifference(None, reason="attribute and covariates say the same")
    if np.ptp(outcome) == 0:
        return MeanDifference(None, reason="the value is the same everywhere")
    fitted = linear_gee(design, outcome, names)
    value, error = float(fitted.coefficients[1]), max(0.0, float(fitted.covariance[1, 1])) ** 0.5
    # Below this share of the values' own range an error is rounding.
    if error <= 1e-9 * float(np.ptp(outcome)):
        return MeanDifference(None, reason="attribute and covariates say all of it: there is no standard error")
    freedom = min(counts) - 1
    law = t(freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    p = float(2 * law.sf(abs(value) / error))
    return MeanDifference(value, value - reach, value + reach, float(law.isf(0.025) + law.ppf(0.8)) * error, p, freedom)
