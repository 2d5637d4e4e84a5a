"""AUROC within one level of an attribute minus AUROC elsewhere, where a patient may stand in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from evalfm.statistics.auroc import class_patients, patient_contributions
from evalfm.statistics.resampling import Positions, Values

FEWEST = 10
"""Patients of either class at either level below which no gap is given."""
POWER = 0.8


@dataclass(frozen=True)
class StratumGap:
    """The gap with its interval and the two-sided p of 0.

    Attributes:
        detectable: the gap that would have been found with 80 % power at the 5 % level.
        reason: why there is no gap, or no interval of it.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None
    reason: str | None = None


def stratum_gap(
    target: ArrayLike,
    score: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> StratumGap:
    """AUROC of ``score`` [N] for ``target`` [N] where ``member`` [N] is true, minus where it is not.

    The variance is Obuchowski's (1997) within each level, less twice the covariance by patients who stand in both; t
    with (patients in the smaller level − 1) degrees of freedom. With ``folds`` the mean over folds.
    """
    label, inside = np.asarray(target).astype(bool), np.asarray(member).astype(bool)
    values, names = np.asarray(score, dtype=np.float64), np.asarray(patient).astype(str)
    counts = [class_patients(label[rows], names[rows]) for rows in (inside, ~inside)]
    if min(map(min, counts)) < FEWEST:
        return StratumGap(None, reason=f"needs {FEWEST} patients of either class at either level")
    fold = np.zeros(len(label)) if folds is None else np.asarray(folds)
    gaps, variances = [], []
    for each in np.unique(fold):
        rows = fold == each
        codes = np.unique(names[rows], return_inverse=True)[1]
        parts = [_part(label[rows], values[rows], codes, side) for side in (inside[rows], ~inside[rows])]
        if parts[0] is None or parts[1] is None:
            return StratumGap(None, reason="in some fold a level has fewer than two patients of a class")
        one, other = parts[0], parts[1]
        gaps.append(one.area - other.area)
        between = _summed(one.contributions, other.contributions, class_patients(label[rows], codes), codes)
        apart = one.variance + other.variance
        # Below rounding of the variances themselves the levels move as one.
        variances.append(apart - 2 * between if apart - 2 * between > 1e-12 * apart else 0.0)
    gap, error = float(np.mean(gaps)), float(np.sum(variances)) ** 0.5 / len(gaps)
    smaller = min(np.unique(names[inside]).size, np.unique(names[~inside]).size)
    # Two AUROCs that no resample could move, or that move together, leave only rounding.
    if error <= 1e-9:
        return StratumGap(gap, reason="it has no standard error: no interval")
    law = t(int(smaller) - 1)
    reach = float(law.isf((1 - level) / 2)) * error
    detectable = float(law.isf(0.025) + law.ppf(POWER)) * error
    return StratumGap(gap, gap - reach, gap + reach, float(2 * law.sf(abs(gap) / error)), detectable)


@dataclass(frozen=True)
class _Part:
    """AUROC at one level, what each patient of the fold adds to it [2, patients], and the variance."""

    area: float
    contributions: Values
    variance: float


def _part(label: NDArray[np.bool_], score: Values, codes: Positions, rows: NDArray[np.bool_]) -> _Part | None:
    """The level of ``rows``; None where it has no variance."""
    positives, negatives = class_patients(label[rows], codes[rows]) if rows.any() else (0, 0)
    if min(positives, negatives) < 2:
        return None
    area, *by = patient_contributions(label[rows], score[rows], codes[rows], int(codes.max()) + 1)
    contributions = np.stack(by)
    return _Part(area, contributions, _summed(contributions, contributions, (positives, negatives), codes[rows]))


def _summed(one: Values, other: Values, counts: tuple[int, int], codes: Positions) -> float:
    """Obuchowski's covariance of two AUROCs from their contributions [2, patients], positives before negatives."""
    there = np.unique(codes).size
    crossed = there / (there - 1) * (one[0] @ other[1] + one[1] @ other[0])
    return float(sum(count / (count - 1) * one[row] @ other[row] for row, count in enumerate(counts)) + crossed)
