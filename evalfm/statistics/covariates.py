"""What an effect is adjusted for: natural cubic splines of numbers, and a basis of all that the columns span."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.resampling import Values

DEGREES_OF_FREEDOM = 3
"""Of the spline of a number: knots at its ends and at the quantiles between them."""
_RANK = 1e-7
"""Columns that others say up to this share of their length add nothing."""


def natural_spline(values: ArrayLike, degrees_of_freedom: int = DEGREES_OF_FREEDOM) -> Values:
    """Columns [N, K − 1] that span, beside a constant, the natural cubic splines of ``values`` [N] with K knots.

    Knots lie at the ends and at evenly spaced quantiles (thirds for 3 degrees of freedom), as in R's ``ns``; beyond
    the ends there is nothing. Quantiles that coincide, as ties make them, are taken of the different values instead,
    and a column of K different values has K knots at most: two values give one column, which is linear, and one value
    none. Values are first brought to [0, 1].

    >>> natural_spline([0, 1, 1, 0]).tolist(), natural_spline(np.arange(20)).shape, natural_spline([5, 5]).shape
    ([[0.0], [1.0], [1.0], [0.0]], (20, 3), (2, 0))
    """
    value = np.asarray(values, dtype=np.float64)
    different = np.unique(value)
    if len(different) < 2:
        return np.empty((len(value), 0))
    share = np.linspace(0, 1, degrees_of_freedom + 1)
    knots = different
    if len(different) > degrees_of_freedom:
        knots = np.unique(np.quantile(value, share))
        knots = knots if len(knots) > degrees_of_freedom else np.quantile(different, share)
    low, reach = float(different[0]), float(different[-1] - different[0])
    x, at = (value - low) / reach, (knots - low) / reach
    columns = [x]
    if len(at) > 2:
        last = _bent(x, at[-2], at[-1])
        columns += [_bent(x, knot, at[-1]) - last for knot in at[:-2]]
    return np.stack(columns, axis=1)


def _bent(x: Values, knot: float, end: float) -> Values:
    """Truncated cubic at ``knot`` less that at ``end``, over their distance (Hastie et al. 2009, equation 5.5)."""
    return np.asarray((np.maximum(x - knot, 0) ** 3 - np.maximum(x - end, 0) ** 3) / (end - knot), dtype=np.float64)


def adjustment_basis(columns: Sequence[ArrayLike], rows: int) -> Values:
    """Orthonormal columns [N, q] that span a constant and every covariate, q ≥ 1.

    Columns of two values enter as they are, others by their natural spline; what others say already adds nothing.

    Args:
        columns: covariates, [N] each, finite.
        rows: N.

    >>> adjustment_basis([[0, 1, 0, 1], [0, 2, 0, 2]], 4).shape, adjustment_basis([], 4)[:, 0].tolist()
    ((4, 2), [0.5, 0.5, 0.5, 0.5])
    """
    constant = np.full((rows, 1), rows**-0.5)
    if not len(columns):
        return constant
    spread = np.concatenate([natural_spline(column) for column in columns], axis=1)
    spread = spread - spread.mean(axis=0)
    size = np.linalg.norm(spread, axis=0)
    spread = spread[:, size > _RANK * rows**0.5]
    if not spread.shape[1]:
        return constant
    vectors, values, _ = np.linalg.svd(spread / np.linalg.norm(spread, axis=0), full_matrices=False)
    return np.concatenate([constant, vectors[:, values > _RANK * values[0]]], axis=1)
