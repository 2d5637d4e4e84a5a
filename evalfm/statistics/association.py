"""How strongly two yes-or-no facts go together: the odds ratio, with patients as the unit of its interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from evalfm.statistics.estimate import Estimate


def odds_ratio(first: ArrayLike, second: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Odds ratio of two binary facts [N], rows with an unknown (NaN) left out.

    The interval is normal on the log scale. Its variance sums, over patients, the squared sum of ±1 / n(cell) of their
    rows: the cluster-robust (sandwich) variance of the saturated logistic model, and Woolf's 1/a + 1/b + 1/c + 1/d
    where each patient has one row. With an empty cell one half is added to each (Haldane and Anscombe).

    Returns:
        the ratio, ``n`` of patients; absent where one of the facts is constant.
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
