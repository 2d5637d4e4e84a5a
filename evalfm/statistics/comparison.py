"""Paired tests of two models on the same patients, corrections for several comparisons, detectable differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.auroc import macro_auroc_covariance
from evalfm.statistics.resampling import Positions, Values

SpeaksOf = Literal["encoders", "these trained heads"]
"""What a comparison is of."""


@dataclass(frozen=True)
class Difference:
    """First minus second, with the analytic p of record.

    Attributes:
        value: the difference on the data.
        standard_error: of test patients (clustered) and, where it is counted, of the training sample; 0 for two
            scores that never differ.
        low, high: interval at ``level``.
        p: two-sided; 1 where the two never differ, None where it cannot be given.
        degrees_of_freedom: of the t distribution, a fraction where it was matched to variances; None for the normal.
        n: patients.
        method: the test in words.
        reason: why ``p`` is None.
        training_error: standard error due to the training sample; None where it is not counted.
        test_error: standard error due to the test patients; None where it is not known apart.
    """

    value: float
    standard_error: float
    low: float | None
    high: float | None
    p: float | None
    degrees_of_freedom: float | None
    n: int
    method: str
    reason: str | None = None
    training_error: float | None = None
    test_error: float | None = None

    @property
    def speaks_of(self) -> SpeaksOf:
        """Encoders where training variance is counted; else of nothing but the heads that were trained once."""
        return "these trained heads" if self.training_error is None else "encoders"


@dataclass(frozen=True)
class ConfusionStatistic:
    """A number of the confusion matrix: of degree 0, so that twice the data give the same.

    Attributes:
        name: in words.
        formula: from confusion sums [..., K²], true class slow.
        gradient: of that at one matrix [K, K], true class first.
    """

    name: str
    formula: Callable[[Values], Values]
    gradient: Callable[[Values], Values]

    def influence(self, target: Positions, called: Positions, classes: int, codes: Positions) -> tuple[float, Values]:
        """The value, and the influence of each patient on it [P]: the infinitesimal jackknife (Efron 1982).

        The matrix is the sum of its patients' matrices; a patient's influence is the gradient times its own. They sum
        to 0.

        Args:
            target, called: true and predicted class numbers, [N].
            classes: K.
            codes: patient code of each row, [N], 0 … P − 1.

        Raises:
            ValueError: it is undefined on these rows.
        """
        cell = target * classes + called
        sums = np.bincount(cell, minlength=classes**2).astype(np.float64)
        value = float(self.formula(sums))
        if not np.isfinite(value):
            raise ValueError(f"{self.name} is undefined where all images are, and are called, one class")
        at = self.gradient(sums.reshape(classes, classes)).ravel()
        return value, np.bincount(codes, weights=at[cell]).astype(np.float64)


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

    The covariance is clustered by patient (Obuchowski 1997; z test) and computed once, in O(C N log N). At one row per
    patient ``[1, −1]`` is the paired test of DeLong (1988); a mean over seeds minus another is ``[½, ½, −½, −½]``.

    Args:
        target: 0 or 1, [N].
        patient: patient id of each row, [N]; None: every row is a patient.
        folds: fold of each row, [N]; pairs count within a fold.
        level: coverage of the interval, a fraction.

    Raises:
        ValueError: fewer than two positive or two negative patients.

    >>> label = [0, 0, 0, 1, 1, 1]
    >>> first, second = [0.1, 0.2, 0.5, 0.4, 0.8, 0.9], [0.2, 0.1, 0.4, 0.6, 0.3, 0.9]
    >>> seeds = np.array([first, second, [0.3, 0.6, 0.1, 0.2, 0.7, 0.5]])
    >>> (found,) = contrast_aurocs(label, seeds.T, [[0.5, 0.5, -1]])
    >>> round(found.value, 3), round(found.p, 3)
    (0.222, 0.532)
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
    """``contrast_aurocs`` of AUROCs averaged over K yes-or-no labels.

    Args:
        targets: 0, 1 or NaN, [N, K].
        scores: [N, K, C].
        contrasts: weights of the C models, [M, C].
        patient: patient id of each row, [N].
        folds: fold of each row, [N].
        level: coverage of the intervals, a fraction.

    Raises:
        ValueError: a label has fewer than two positive or two negative patients.

    >>> targets = np.array([[0, 1], [0, 0], [1, 1], [1, 0], [1, 1]])
    >>> scores = np.array([[[0.1, 0.3], [0.4, 0.5]], [[0.6, 0.7], [0.2, 0.6]], [[0.5, 0.4], [0.9, 0.8]],
    ...                    [[0.8, 0.6], [0.5, 0.4]], [[0.9, 0.9], [0.7, 0.5]]])
    >>> (difference,) = contrast_macro_aurocs(targets, scores, [[1, -1]])
    >>> round(difference.value, 3), round(difference.p, 3), difference.method
    (0.167, 0.573, 'paired DeLong, joint over 2 classes, z')
    """
    joint = macro_auroc_covariance(targets, scores, patient, folds)
    rows, labels = np.asarray(targets).shape
    n = rows if patient is None else int(np.unique(np.asarray(patient).astype(str)).size)
    name = "clustered DeLong (Obuchowski)" if patient is not None else "DeLong"
    over = f", joint over {labels} classes" if labels > 1 else ""
    differences = []
    for contrast in np.asarray(contrasts, dtype=np.float64):
        variance = float(contrast @ joint.covariance @ contrast)
        # Below rounding of the covariance itself the scores rank every pair alike.
        negligible = variance <= 1e-14 * float(np.trace(joint.covariance))
        error = 0.0 if negligible else variance**0.5
        value = float(contrast @ joint.auroc)
        differences.append(_difference(value, error, None, n, f"paired {name}{over}, z", level))
    return differences


def contrast_confusions(
    target: ArrayLike,
    called: ArrayLike,
    classes: int,
    metric: ConfusionStatistic,
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
        called: [N, C] class numbers that each of C models predicts.
        classes: K.
        metric: what is compared.
        contrasts, patient: as for ``contrast_aurocs``.

    Raises:
        ValueError: the metric is undefined (in a fold), or there are fewer than two patients (in a fold).

    >>> label, calls = np.array([0, 0, 1, 1, 1]), np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]])
    >>> accuracy = ConfusionStatistic(
    ...     "accuracy",
    ...     formula=lambda sums: (sums[..., 0] + sums[..., 3]) / sums.sum(axis=-1),
    ...     gradient=lambda matrix: (np.eye(2) - np.trace(matrix) / matrix.sum()) / matrix.sum(),
    ... )
    >>> (found,) = contrast_confusions(label, calls, 2, accuracy, [[1, -1]], ["a", "b", "c", "d", "e"])
    >>> round(found.value, 3), round(found.p, 3), found.degrees_of_freedom
    (0.4, 0.178, 4)
    """
    truth, answers = np.asarray(target), np.asarray(called)
    weights = np.asarray(contrasts, dtype=np.float64)
    names = np.asarray(patient).astype(str)
    fold = np.zeros(len(truth)) if folds is None else np.asarray(folds)
    values, variances, patients = np.zeros(len(weights)), np.zeros(len(weights)), 0
    folds_used = len(np.unique(fold))
    for rows in (fold == each for each in np.unique(fold)):
        codes = np.unique(names[rows], return_inverse=True)[1]
        count = int(codes.max()) + 1
        if count < 2:
            raise ValueError("a standard error needs at least two patients")
        models = [metric.influence(truth[rows], answer, classes, codes) for answer in answers[rows].T]
        values += weights @ np.array([value for value, _ in models]) / folds_used
        summed = weights @ np.stack([of_patient for _, of_patient in models]) / folds_used
        spread = np.abs(weights) @ np.stack([np.abs(of_patient).sum() for _, of_patient in models]) / folds_used
        summed[np.abs(summed) <= 1e-14 * spread[:, None]] = 0.0
        variances += count / (count - 1) * (summed**2).sum(axis=1)
        patients += count
    freedom = patients - folds_used
    method = f"paired influence values of {metric.name} by patient, t"
    return [
        _difference(float(value), float(variance) ** 0.5, freedom, patients, method, level)
        for value, variance in zip(values, variances, strict=True)
    ]


def contrast_by_deletion(
    values: ArrayLike,
    deleted: ArrayLike,
    weights: ArrayLike,
    *,
    patients: int,
    folds: int = 1,
    level: float = 0.95,
) -> list[Difference]:
    """Weighted sums of any metric over models, by the jackknife over patients (Tukey 1958; Efron and Stein 1981).

    The estimate is the metric on the data; its variance (G − 1) / G · Σ (d − mean d)² over the G values d without each
    patient (or group of patients), so that images of one patient are a cluster. Of a mean over one image a patient it
    is the paired t test.

    Args:
        values: of each model on the data, [C].
        deleted: the same without each patient, or without each of G random groups of them, [G, C].
        weights: of each contrast, [M, C].
        patients: in the smallest group that the metric rests on; t has one degree of freedom less for each fold.
        folds: over which the metric is averaged.
        level: coverage of the interval, a fraction.

    Raises:
        ValueError: there are too few patients, or without one of them there is no value.

    >>> first, second = np.array([0.8, 0.7, 0.9, 0.6]), np.array([0.7, 0.7, 0.8, 0.4])
    >>> without = [[np.delete(each, place).mean() for each in (first, second)] for place in range(4)]
    >>> (found,) = contrast_by_deletion([first.mean(), second.mean()], without, [[1, -1]], patients=4)
    >>> round(found.value, 3), round(found.p, 4), found.degrees_of_freedom
    (0.1, 0.0917, 3)
    """
    left, of = np.asarray(deleted, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    freedom = min(patients, len(left)) - folds
    if freedom < 1:
        raise ValueError(f"a paired test needs at least {folds + 1} patients, and there are {min(patients, len(left))}")
    if not np.isfinite(left).all():
        raise ValueError("without one of the patients the metric has no value, so there are too few of them")
    totals, without = of @ np.asarray(values, dtype=np.float64), left @ of.T
    errors = np.sqrt((len(left) - 1) * without.var(axis=0))
    # What is the same in every patient differs in the last digits of its sums alone.
    errors[errors <= 1e-12 * len(left) * np.abs(left).max()] = 0.0
    method = "paired jackknife over patients, t"
    return [
        _difference(
            float(value) if error > 0 or abs(value) > 1e-14 else 0.0, float(error), freedom, patients, method, level
        )
        for value, error in zip(totals, errors, strict=True)
    ]


def compare_means(first: ArrayLike, second: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> Difference:
    """Paired t test on per-patient means of first − second (Dice, absolute errors).

    Args:
        first, second: values of two models on the same rows, [N].
        patient: patient id of each row, [N].
        level: coverage of the interval, a fraction.

    Raises:
        ValueError: a value is missing, or there are fewer than two patients.

    >>> found = compare_means([0.8, 0.7, 0.9, 0.6], [0.7, 0.7, 0.8, 0.5], ["a", "a", "b", "c"])
    >>> round(found.value, 3), round(found.p, 4), found.degrees_of_freedom
    (0.083, 0.0377, 2)
    """
    gap = patient_means(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), patient)
    if len(gap) < 2:
        raise ValueError("a paired t test needs at least two patients")
    error = float(gap.std(ddof=1) / len(gap) ** 0.5)
    if error <= 1e-14 * float(np.abs(gap).max()):
        error = 0.0
    return _difference(float(gap.mean()), error, len(gap) - 1, len(gap), "paired t on per-patient means", level)


def patient_means(values: ArrayLike, patient: ArrayLike) -> Values:
    """Mean of ``values`` [N] per patient, in the sorted order of patients.

    Raises:
        ValueError: a value is not finite.

    >>> patient_means([1.0, 3.0, 5.0], ["b", "b", "a"]).tolist()
    [5.0, 2.0]
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("paired tests need a value of both models for every row")
    codes = np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    return np.asarray(np.bincount(codes, weights=numbers) / np.bincount(codes), dtype=np.float64)


def holm(p_values: ArrayLike) -> Values:
    """Holm's (1979) adjusted p values for one family; NaN stays NaN and is not counted in the family.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    return _adjusted(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: ArrayLike) -> Values:
    """Benjamini and Hochberg's (1995) adjusted p values; NaN stays NaN and is not counted in the family.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    return _adjusted(p_values, lambda p: np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1])


def non_inferiority(difference: Difference, margin: float, *, lower_is_better: bool = False) -> float | None:
    """One-sided p of "first is worse than second by ``margin`` or more"; None where there is no standard error.

    Below .025 the lower 97.5 % bound of first − second lies above −margin (for errors: the upper below +margin).

    Raises:
        ValueError: the margin is not positive.

    >>> found = compare_means([0.8, 0.7, 0.9, 0.6], [0.7, 0.7, 0.8, 0.5], ["a", "b", "c", "d"])
    >>> round(non_inferiority(found, margin=0.05), 4)
    0.0077
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
    """The true difference that a two-sided test at ``alpha / comparisons`` would find with ``power``.

    (z₁₋α/₂ + z_power) × standard error of the difference: what "no difference" is to be read against.

    >>> round(minimal_detectable_difference(0.01), 4), round(minimal_detectable_difference(0.01, comparisons=10), 4)
    (0.028, 0.0365)
    """
    return float((stats.norm.isf(alpha / comparisons / 2) + stats.norm.ppf(power)) * standard_error)


def _difference(
    value: float, error: float, degrees_of_freedom: int | None, n: int, method: str, level: float
) -> Difference:
    if error == 0.0:
        if value == 0.0:
            return Difference(0.0, 0.0, None, None, 1.0, degrees_of_freedom, n, method, test_error=0.0)
        reason = "the difference is the same in every patient: it has no standard error"
        return Difference(value, 0.0, None, None, None, degrees_of_freedom, n, method, reason, test_error=0.0)
    law = stats.norm() if degrees_of_freedom is None else stats.t(degrees_of_freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    p = 2 * float(law.sf(abs(value) / error))
    return Difference(value, error, value - reach, value + reach, p, degrees_of_freedom, n, method, test_error=error)


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
