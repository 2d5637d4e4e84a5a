"""Two encoders on the same patients: paired tests, correction for how many, what could have been found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.auroc import macro_auroc_covariance
from evalfm.statistics.influence import influence
from evalfm.statistics.resampling import Values


@dataclass(frozen=True)
class Difference:
    """First minus second, with the analytic p of record.

    Attributes:
        value: the difference on the data.
        standard_error: clustered by patient; 0 for two scores that never differ.
        low, high: interval at ``level``.
        p: two-sided; 1 where the two never differ, None where it cannot be given.
        degrees_of_freedom: of the t distribution, None for the normal.
        n: patients.
        method: the test in words.
        reason: why ``p`` is None.
    """

    value: float
    standard_error: float
    low: float | None
    high: float | None
    p: float | None
    degrees_of_freedom: int | None
    n: int
    method: str
    reason: str | None = None


def compare_auroc(
    target: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> Difference:
    """ΔAUROC of two scores on the same rows by the patient-clustered covariance (Obuchowski 1997; z test).

    At one row per patient this is the paired test of DeLong (1988). With ``folds`` pairs count within a fold.

    Raises:
        ValueError: fewer than two positive or two negative patients.
    """
    scores = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)], axis=1)
    return contrast_aurocs(target, scores, [[1.0, -1.0]], patient, folds=folds, level=level)[0]


def contrast_aurocs(
    target: ArrayLike,
    scores: ArrayLike,
    contrasts: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> list[Difference]:
    """Weighted sums of the AUROCs of ``scores`` [N, C], one per row of ``contrasts`` [M, C], by one covariance.

    A mean over seeds minus another is ``[½, ½, −½, −½]``. The covariance is computed once, in O(C N log N).

    Raises:
        ValueError: as for ``compare_auroc``.
    """
    columns = np.asarray(scores, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)[:, None]
    return contrast_macro_aurocs(target, columns[:, None, :], contrasts, patient, folds=folds, level=level)


def contrast_macro_aurocs(
    targets: ArrayLike,
    scores: ArrayLike,
    contrasts: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> list[Difference]:
    """``contrast_aurocs`` of AUROCs averaged over K questions; arguments as for ``macro_auroc_covariance``.

    Raises:
        ValueError: a question has fewer than two positive or two negative patients.
    """
    found = macro_auroc_covariance(targets, scores, patient, folds)
    rows, questions = np.asarray(targets).shape
    n = rows if patient is None else int(np.unique(np.asarray(patient).astype(str)).size)
    name = "clustered DeLong (Obuchowski)" if patient is not None else "DeLong"
    over = f", joint over {questions} classes" if questions > 1 else ""
    differences = []
    for contrast in np.asarray(contrasts, dtype=np.float64):
        variance = float(contrast @ found.covariance @ contrast)
        # Below rounding of the covariance itself the scores rank every pair alike.
        negligible = variance <= 1e-14 * float(np.trace(found.covariance))
        error = 0.0 if negligible else variance**0.5
        value = float(contrast @ found.auroc)
        differences.append(_difference(value, error, None, n, f"paired {name}{over}, z", level))
    return differences


def contrast_confusions(
    target: ArrayLike,
    called: ArrayLike,
    classes: int,
    metric: str,
    contrasts: ArrayLike,
    patient: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> list[Difference]:
    """Weighted sums of a metric of the confusion matrix, one per row of ``contrasts`` [M, C].

    The standard error is that of the patients' influence values (delta method; t with patients − 1 degrees of
    freedom, less one for every further fold). With ``folds`` the mean over folds, whose patients are disjoint.

    Args:
        target: [N] class numbers.
        called: [N, C] class numbers that each of C models answers.
        classes: K.
        metric: one of ``influence.METRICS``.
        contrasts, patient: as for ``contrast_aurocs``.

    Raises:
        ValueError: the metric is undefined (in a fold), or there are fewer than two patients (in a fold).
    """
    truth, answers = np.asarray(target), np.asarray(called)
    weights = np.asarray(contrasts, dtype=np.float64)
    names = np.asarray(patient).astype(str)
    fold = np.zeros(len(truth)) if folds is None else np.asarray(folds)
    values, variances, patients, parts = np.zeros(len(weights)), np.zeros(len(weights)), 0, np.unique(fold)
    for rows in (fold == each for each in parts):
        codes = np.unique(names[rows], return_inverse=True)[1]
        count = int(codes.max()) + 1
        if count < 2:
            raise ValueError("a standard error needs at least two patients")
        found = [influence(truth[rows], answer, classes, metric, codes) for answer in answers[rows].T]
        values += weights @ np.array([each.value for each in found]) / len(parts)
        summed = weights @ np.stack([each.of_patient for each in found]) / len(parts)
        spread = np.abs(weights) @ np.stack([np.abs(each.of_patient).sum() for each in found]) / len(parts)
        summed[np.abs(summed) <= 1e-14 * spread[:, None]] = 0.0
        variances += count / (count - 1) * (summed**2).sum(axis=1)
        patients += count
    freedom = patients - len(parts)
    method = f"paired influence values of {metric} by patient, t"
    return [
        _difference(float(value), float(variance) ** 0.5, freedom, patients, method, level)
        for value, variance in zip(values, variances, strict=True)
    ]


def compare_means(first: ArrayLike, second: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> Difference:
    """Paired t test on per-patient means of first − second (Dice, absolute errors).

    Raises:
        ValueError: a value is missing, or there are fewer than two patients.
    """
    gap = patient_means(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), patient)
    if len(gap) < 2:
        raise ValueError("a paired t test needs at least two patients")
    error = float(gap.std(ddof=1) / len(gap) ** 0.5)
    if error <= 1e-14 * float(np.abs(gap).max()):
        error = 0.0
    return _difference(float(gap.mean()), error, len(gap) - 1, len(gap), "paired t on per-patient means", level)


def wilcoxon(first: ArrayLike, second: ArrayLike, patient: ArrayLike) -> float:
    """Two-sided p of the Wilcoxon signed-rank test on per-patient means of first − second; zeros are dropped.

    1 where the two never differ. A sensitivity analysis, not the p of record.
    """
    gap = patient_means(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), patient)
    if not np.any(gap):
        return 1.0
    return float(stats.wilcoxon(gap, zero_method="wilcox").pvalue)


def patient_means(values: ArrayLike, patient: ArrayLike) -> Values:
    """Mean of ``values`` [N] per patient, in the sorted order of patients.

    Raises:
        ValueError: a value is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("paired tests need a value for every row of both sides")
    codes = np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    return np.asarray(np.bincount(codes, weights=numbers) / np.bincount(codes), dtype=np.float64)


def holm(p_values: ArrayLike) -> Values:
    """Holm's (1979) adjusted p values for one family; NaN stays NaN and is not counted in the family."""
    return _adjusted(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: ArrayLike) -> Values:
    """Benjamini and Hochberg's (1995) adjusted p values; NaN stays NaN and is not counted in the family."""
    return _adjusted(p_values, lambda p: np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1])


def non_inferiority(difference: Difference, margin: float, *, lower_is_better: bool = False) -> float | None:
    """One-sided p of "first is worse than second by ``margin`` or more"; None where there is no standard error.

    Below .025 the lower 97.5 % bound of first − second lies above −margin (for errors: the upper below +margin).

    Raises:
        ValueError: the margin is not positive.
    """
    if margin <= 0:
        raise ValueError("a margin of non-inferiority is positive")
    if difference.standard_error == 0.0:
        return None
    better = -difference.value if lower_is_better else difference.value
    law = stats.norm() if difference.degrees_of_freedom is None else stats.t(difference.degrees_of_freedom)
    return float(law.sf((better + margin) / difference.standard_error))


def minimal_detectable_difference(
    standard_error: float, *, comparisons: int = 1, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The true difference that a two-sided test at ``alpha / comparisons`` finds with ``power``.

    (z₁₋α/₂ + z_power) × standard error of the difference: what "no difference" is to be read against.
    """
    return float((stats.norm.isf(alpha / comparisons / 2) + stats.norm.ppf(power)) * standard_error)


def _difference(
    value: float, error: float, degrees_of_freedom: int | None, n: int, method: str, level: float
) -> Difference:
    if error == 0.0:
        if value == 0.0:
            return Difference(0.0, 0.0, None, None, 1.0, degrees_of_freedom, n, method)
        reason = "the difference is the same in every patient: it has no standard error"
        return Difference(value, 0.0, None, None, None, degrees_of_freedom, n, method, reason)
    law = stats.norm() if degrees_of_freedom is None else stats.t(degrees_of_freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    p = 2 * float(law.sf(abs(value) / error))
    return Difference(value, error, value - reach, value + reach, p, degrees_of_freedom, n, method)


def _adjusted(p_values: ArrayLike, steps: Callable[[Values], Values]) -> Values:
    """``steps`` on the ascending known p values, put back in place and held at 1."""
    values = np.asarray(p_values, dtype=np.float64)
    if np.any((values < 0) | (values > 1)):
        raise ValueError("p values must lie between 0 and 1")
    result = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    result[order] = np.minimum(steps(values[order]), 1.0)
    return result
