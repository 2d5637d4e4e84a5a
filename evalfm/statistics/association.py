"""How a fact goes with another, or with a measured value: odds ratios and mean differences, clustered by patient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from evalfm.statistics.estimate import Estimate
from evalfm.statistics.resampling import Values

FEWEST = 10
"""Patients of either level (for an AUROC: of either class) below which no figure is given."""
POWER = 0.8


def effective_clusters(patient: ArrayLike) -> float:
    """How many patients of equal many rows would say as much, (Σn)² / Σn² of the rows of each [N]; 0 without rows.

    >>> effective_clusters(["a", "b", "c"]), round(effective_clusters(["a"] * 8 + ["b", "c"]), 2)
    (3.0, 1.52)
    """
    sizes = np.unique(np.asarray(patient), return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def odds_ratio(first: ArrayLike, second: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Odds ratio of two binary facts, with an interval that is normal on the log scale and clustered by patient.

    Its variance sums, over patients, the squared sum of ±1 / n(cell) of their rows: the cluster-robust (sandwich)
    variance of the saturated logistic model, and Woolf's (1955) 1/a + 1/b + 1/c + 1/d where each patient has one row.
    With an empty cell one half is added to each (Haldane 1956, Anscombe 1956).

    Args:
        first, second: 0, 1 or NaN, [N]; rows with a NaN are left out.
        patient: patient id of each row, [N].
        level: coverage of the interval, a fraction.

    Returns:
        the ratio, > 0, with ``n`` of patients; absent where one of the facts is constant.

    >>> ratio = odds_ratio([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], ["a", "b", "c", "d", "e", "f"])
    >>> round(ratio.value, 2), round(ratio.low, 2), round(ratio.high, 2)
    (4.0, 0.13, 119.23)
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    known = np.isfinite(one) & np.isfinite(other)
    cell = (2 * one[known] + other[known]).astype(np.intp)
    groups = np.unique(np.asarray(patient)[known], return_inverse=True)[1]
    patients = int(groups.max()) + 1 if len(groups) else 0
    counts = np.bincount(cell, minlength=4).astype(np.float64)
    if 0 in (counts[2:].sum(), counts[:2].sum(), counts[[0, 2]].sum(), counts[[1, 3]].sum()):
        return Estimate.absent("one of the two is the same in every row", n=patients)
    note = None
    if (counts == 0).any():
        counts += 0.5
        note = "a combination never occurs; one half was added to each"
    sign = np.array([1.0, -1.0, -1.0, 1.0])
    logarithm = float((sign * np.log(counts)).sum())
    shares = np.bincount(groups, weights=(sign / counts)[cell], minlength=patients)
    # The halves that were added are no patient's; each counts as a row of its own would, by its share of the cell.
    added = float((0.5 / counts**2).sum()) if note else 0.0
    error = math.sqrt(float((shares**2).sum()) + added)
    reach = float(norm.ppf(0.5 + level / 2)) * error
    return Estimate(
        math.exp(logarithm),
        math.exp(logarithm - reach),
        math.exp(logarithm + reach),
        method="normal on the log scale, clustered by patient",
        n=patients,
        note=note,
    )


@dataclass(frozen=True)
class LinearGee:
    """Coefficients [p] and their covariance [p, p]."""

    coefficients: Values
    covariance: Values


def linear_gee(design: Values, response: Values, groups: NDArray[np.generic]) -> LinearGee:
    """Linear GEE with independence: least squares with a bias-reduced sandwich covariance, fit for few patients too.

    Mancl and DeRouen (2001): each group's residuals are multiplied by (I − H)⁻¹, H its block of the hat matrix, which
    undoes that a fit is nearer to its own data. Groups of one size are solved together.

    Args:
        design: [N, p], of full rank.
        response: [N].
        groups: patient id of each row, [N].

    Raises:
        numpy.linalg.LinAlgError: the design has not full rank.

    >>> design = np.array([[1.0, 0], [1, 0], [1, 1], [1, 1]])
    >>> fitted = linear_gee(design, np.array([1.0, 3, 4, 6]), np.array(["a", "b", "c", "d"]))
    >>> fitted.coefficients.round(6).tolist(), fitted.covariance.round(6).tolist()
    ([2.0, 3.0], [[2.0, -2.0], [-2.0, 4.0]])
    """
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ (design.T @ response)
    residual = response - design @ coefficients
    codes = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    meat = np.zeros_like(bread)
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        block, left = design[rows], residual[rows]
        hat = block @ bread @ block.transpose(0, 2, 1)
        adjusted = np.linalg.solve(np.eye(size) - hat, left[..., None])[..., 0]
        score = np.einsum("gkp,gk->gp", block, adjusted)
        meat += score.T @ score
    return LinearGee(coefficients, bread @ meat @ bread)


@dataclass(frozen=True)
class Effect:
    """What an attribute goes with, such as a difference of means or of AUROCs, and its t test.

    Attributes:
        value: on the scale of what is compared; None with the reason.
        low, high: ends of the interval.
        detectable: the value that a test at the 5 % level would find with 80 % power.
        p: two-sided, of 0, t with ``degrees_of_freedom``.
        reason: why there is no value, or no test of it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    p: float | None = None
    degrees_of_freedom: int | None = None
    reason: str | None = None


def by_t(value: float, error: float, degrees_of_freedom: int, level: float = 0.95) -> Effect:
    """Test ``value`` against 0 by its standard ``error`` > 0 and Student's t.

    >>> test = by_t(1.0, 0.5, 20)
    >>> [round(each, 3) for each in (test.low, test.high, test.p, test.detectable)]
    [-0.043, 2.043, 0.059, 1.473]
    """
    law = t(degrees_of_freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    detectable = float(law.isf(0.025) + law.ppf(POWER)) * error
    p = float(2 * law.sf(abs(value) / error))
    return Effect(value, value - reach, value + reach, detectable, p, degrees_of_freedom)
