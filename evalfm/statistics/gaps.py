"""Gaps at the operating point: rates, predictive values and calibration at a level of an attribute against the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm, t

from evalfm.statistics.adjusted import LevelSizes, mean_difference
from evalfm.statistics.association import POWER, Effect, by_t, effective_clusters
from evalfm.statistics.calibration import CLIP, calibration_in_the_large
from evalfm.statistics.resampling import Mask, Positions, Values

RATES, VALUES, CALIBRATION = ("sensitivity", "specificity"), ("ppv", "npv"), ("mean_error", "intercept")


@dataclass(frozen=True)
class LevelGap:
    """One figure at a level and elsewhere.

    Attributes:
        here, elsewhere: the two figures; None where undefined.
        difference: here − elsewhere, with interval and p; absent with its reason.
    """

    here: float | None
    elsewhere: float | None
    difference: Effect


def pooled_variance(values: Values, member: Mask, codes: Positions) -> float:
    """Variance of a difference of means under equal spread at both levels, rows of a patient together.

    The spread a is pooled: Σ over levels and patients of T² over Σ over levels of N (1 − 1 / P), T a patient's sum of
    ``values`` (centred), N rows and P patients of the level. The variance is a · Σ 1 / N, less twice the covariance by
    patients who stand in both.

    Args:
        values: centred, [N].
        member: whether the row is of the level, [N].
        codes: patient of each row, [N], from 0.

    >>> round(pooled_variance(np.array([-1.0, 1, -1, 1]), np.array([True, True, False, False]), np.arange(4)), 3)
    2.0
    """
    count = int(codes.max()) + 1
    sums = [np.bincount(codes[rows], weights=values[rows], minlength=count) for rows in (member, ~member)]
    sizes = [int(rows.sum()) for rows in (member, ~member)]
    patients = [len(np.unique(codes[rows])) for rows in (member, ~member)]
    free = sum(size * (1 - 1 / each) for size, each in zip(sizes, patients, strict=True))
    spread = float(sum(each @ each for each in sums)) / free if free > 0 else 0.0
    few = float(np.prod([each / (each - 1) for each in patients if each > 1])) ** 0.5
    own, shared = spread * (1 / sizes[0] + 1 / sizes[1]), float(sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    return float(own - 2 * few * shared)


def difference_limits(
    one: tuple[float, float, float], other: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float]:
    """Limits of a difference from the estimates and limits of its two terms (Newcombe 1998; Zou and Donner 2008).

    >>> [round(end, 3) for end in difference_limits((0.9, 0.8, 0.95), (0.7, 0.6, 0.78))]
    [0.072, 0.312]
    """
    (value, low, high), (second, below, above) = one, other
    apart = value - second

    def reach(first: float, last: float) -> float:
        return float(max(0.0, first**2 + last**2 - 2 * correlation * first * last) ** 0.5)

    return apart - reach(value - low, above - second), apart + reach(high - value, second - below)


def effective_rows(values: Values, codes: Positions) -> float:
    """Rows of patients of their own that would give the mean of ``values`` 0 or 1 [N] the same error; at most N.

    Where all values are alike nothing tells how patients' rows go together, and (Σn)² / Σn² stands.

    >>> effective_rows(np.array([0.0, 1.0, 0.0, 1.0]), np.arange(4)), effective_rows(np.ones(4), np.array([0, 0, 1, 1]))
    (4.0, 2.0)
    """
    share, rows = float(values.mean()), len(values)
    sums = np.bincount(codes, weights=values - share)
    variance = float(sums @ sums) / rows**2
    own = share * (1 - share)
    return min(float(rows), own / variance) if own > 0 and variance > 0 else effective_clusters(codes)


def wilson_limits(share: float, rows: float, z: float) -> tuple[float, float]:
    """Wilson's (1927) limits of a share of ``rows`` rows, which may be effective ones, ``z`` errors to either side.

    >>> [round(end, 3) for end in wilson_limits(1.0, 10, 1.96)]
    [0.722, 1.0]
    """
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    return min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach))


def clustered_rate(hit: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> tuple[float, float, float]:
    """A share of 0 and 1 [N] with Wilson's limits of effective rows, t where patients have several rows.

    >>> [round(each, 3) for each in clustered_rate([1, 1, 1, 0], range(4))]
    [0.75, 0.301, 0.954]
    """
    values, codes = np.asarray(hit, dtype=np.float64), np.unique(np.asarray(patient), return_inverse=True)[1]
    share, several = float(values.mean()), len(np.unique(codes)) < len(codes)
    freedom = max(1, int(effective_clusters(codes)) - 1) if several else None
    return (share, *wilson_limits(share, effective_rows(values, codes), _critical(freedom, level)))


def rate_gap(hit: ArrayLike, member: ArrayLike, patient: ArrayLike, *, level: float = 0.95) -> LevelGap:
    """Difference of a rate, such as sensitivity among positives, at a level and elsewhere.

    p is by the score test: the variance of either rate is that of the common rate over its effective rows, less
    twice the covariance by patients who stand in both. The interval joins the two Wilson intervals of effective rows.
    Both are normal where a patient has one row, else t with (effective patients of the smaller level − 1) degrees of
    freedom.

    Args:
        hit: 0 or 1, [N].
        member: 0 or 1, [N].
        patient: patient id of each row, [N].
        level: coverage of the interval, a fraction.

    >>> hit, member = [1] * 18 + [0] * 2 + [1] * 20 + [0] * 20, [1] * 20 + [0] * 40
    >>> gap = rate_gap(hit, member, range(60))
    >>> gap.here, gap.elsewhere, round(gap.difference.low, 2), round(gap.difference.high, 2), round(gap.difference.p, 3)
    (0.9, 0.5, 0.15, 0.56, 0.002)
    """
    values, inside = np.asarray(hit, dtype=np.float64), np.asarray(member).astype(bool)
    codes = np.unique(np.asarray(patient), return_inverse=True)[1]
    parts = (inside, ~inside)
    here, elsewhere = (float(values[rows].mean()) if rows.any() else None for rows in parts)
    sizes = LevelSizes.of(inside, codes)
    lacking = sizes.lacking()
    if lacking is not None or here is None or elsewhere is None:
        return LevelGap(here, elsewhere, Effect(None, reason=lacking))
    apart = here - elsewhere
    correlation, common = _correlation(values, parts, codes), float(values.mean())
    critical = _critical(_freedom(sizes, codes), level)
    covered, errors = [], []
    for rows, rate in zip(parts, (here, elsewhere), strict=True):
        count = effective_rows(values[rows], codes[rows])
        covered.append((rate, *wilson_limits(rate, count, critical)))
        errors.append((common * (1 - common) / count) ** 0.5)
    low, high = difference_limits(covered[0], covered[1], correlation)
    variance = errors[0] ** 2 + errors[1] ** 2 - 2 * correlation * errors[0] * errors[1]
    if variance <= 1e-12:
        same = "both rates are the same 0 or 1: there is no test"
        return LevelGap(here, elsewhere, Effect(apart, low, high, reason=same))
    found = by_normal(apart, variance**0.5, (low, high), _freedom(sizes, codes))
    return LevelGap(here, elsewhere, found)


def by_normal(value: float, error: float, limits: tuple[float, float], freedom: int | None = None) -> Effect:
    """``value`` tested against 0 by its standard ``error`` > 0, normal or t, with an interval of its own.

    >>> round(by_normal(1.96, 1.0, (0.1, 3.0)).p, 3)
    0.05
    """
    law = norm() if freedom is None else t(freedom)
    detectable = float(law.isf(0.025) + law.ppf(POWER)) * error
    return Effect(value, *limits, detectable, float(2 * law.sf(abs(value) / error)), freedom)


def _correlation(values: Values, parts: tuple[Mask, Mask], codes: Positions) -> float:
    """Of the two levels' means, by patients who have rows at both."""
    count = int(codes.max()) + 1
    one, other = (
        np.bincount(codes[rows], weights=values[rows] - values[rows].mean(), minlength=count) for rows in parts
    )
    size = float(one @ one) * float(other @ other)
    return float(one @ other) / size**0.5 if size > 0 else 0.0


def _freedom(sizes: LevelSizes, codes: Positions) -> int | None:
    """Degrees of freedom where patients have several rows; None, for the normal law, where each has one."""
    return sizes.degrees_of_freedom if len(np.unique(codes)) < len(codes) else None


def _critical(freedom: int | None, level: float) -> float:
    """How many errors an interval reaches."""
    tail = (1 - level) / 2
    return float(norm.isf(tail) if freedom is None else t(freedom).isf(tail))


@dataclass(frozen=True)
class _Ratio:
    """A likelihood ratio: its logarithm as counted (None: 0 / 0), and with half an image added, and the variance."""

    plain: float | None
    logarithm: float
    variance: float

    @classmethod
    def of(cls, above: tuple[Values, Positions], below: tuple[Values, Positions]) -> _Ratio:
        """Of the rates of two sets of rows: how often each is hit, and by whom."""
        rates = [float(values.mean()) for values, _ in (above, below)]
        held, variance = [], 0.0
        for values, codes in (above, below):
            rows = effective_rows(values, codes)
            share = (float(values.mean()) * rows + 0.5) / (rows + 1)
            held.append(share)
            variance += (1 - share) / (share * rows)
        with np.errstate(divide="ignore"):
            plain = None if max(rates) == 0 else float(np.log(rates[0]) - np.log(rates[1]))
        return cls(plain, float(np.log(held[0]) - np.log(held[1])), variance)

    def value(self, odds: float) -> float | None:
        """The predictive value at the prior log odds."""
        return None if self.plain is None else float(expit(odds + self.plain))

    def covered(self, odds: float, z: float) -> tuple[float, float, float]:
        """Predictive value and limits, by the ratio with half an image added."""
        low, high = (float(expit(odds + self.logarithm + side * z * self.variance**0.5)) for side in (-1, 1))
        value = self.value(odds)
        shown = float(expit(odds + self.logarithm)) if value is None else value
        return shown, min(low, shown), max(high, shown)


def predictive_gap(
    target: ArrayLike,
    called: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    prevalence: float,
    *,
    positive: bool = True,
    level: float = 0.95,
) -> LevelGap:
    """Difference of PPV (or NPV) at a level and elsewhere, were ``prevalence`` the same at both.

    At one prevalence predictive values differ where likelihood ratios do: p is of the difference of their logarithms
    (half an image added to every count, effective images, normal or t as for a rate), whatever the prevalence. The
    interval joins those of the two values on the logit scale. Patients who stand at both levels are not credited, which
    is conservative.

    Args:
        target, called: 0 or 1, [N].
        member: 0 or 1, [N].
        patient: patient id of each row, [N].
        prevalence: in (0, 1).
        positive: PPV, else NPV.
        level: coverage of the interval, a fraction.

    >>> target = [1] * 40 + [0] * 40
    >>> called = [1] * 30 + [0] * 10 + [1] * 4 + [0] * 16 + [1] * 10 + [0] * 10
    >>> gap = predictive_gap(target, called, ([1] * 20 + [0] * 20) * 2, range(80), 0.2)
    >>> round(gap.here, 3), round(gap.elsewhere, 3), round(gap.difference.p, 3)
    (0.556, 0.2, 0.004)
    """
    truth, said = np.asarray(target).astype(bool), np.asarray(called).astype(bool)
    inside, codes = np.asarray(member).astype(bool), np.unique(np.asarray(patient), return_inverse=True)[1]
    for label in (True, False):
        rows = truth == label
        lacking = LevelSizes.of(inside[rows], codes[rows]).lacking(f" at label {int(label)}")
        if lacking is not None:
            return LevelGap(None, None, Effect(None, reason=lacking))
    hit = (said if positive else ~said).astype(np.float64)
    odds = float(logit(prevalence if positive else 1 - prevalence))
    ratios = []
    for rows in (inside, ~inside):
        above, below = rows & (truth == positive), rows & (truth != positive)
        ratios.append(_Ratio.of((hit[above], codes[above]), (hit[below], codes[below])))
    one, other = ratios
    freedom = _freedom(LevelSizes.of(inside, codes), codes)
    z = _critical(freedom, level)
    limits = difference_limits(one.covered(odds, z), other.covered(odds, z))
    error = (one.variance + other.variance) ** 0.5
    law = norm() if freedom is None else t(freedom)
    p = float(2 * law.sf(abs(one.logarithm - other.logarithm) / error))
    here, elsewhere = one.value(odds), other.value(odds)
    if here is None or elsewhere is None:
        return LevelGap(here, elsewhere, Effect(None, reason="nothing is called at one of the levels"))
    return LevelGap(here, elsewhere, Effect(here - elsewhere, *limits, p=p))


def calibration_gap(
    target: ArrayLike, score: ArrayLike, member: ArrayLike, patient: ArrayLike, *, level: float = 0.95
) -> LevelGap:
    """Difference of the calibration intercept with slope 1 at a level and elsewhere, in logits.

    Errors are summed by patient (sandwich), t with (effective patients of the smaller level − 1) degrees of freedom,
    where each level has 10 patients with and 10 without the finding.

    Args:
        target: 0 or 1, [N].
        score: probabilities, [N].
        member: 0 or 1, [N].
        patient: patient id of each row, [N].
        level: coverage of the interval, a fraction.

    >>> target, score = [1] * 30 + [0] * 30 + [1] * 15 + [0] * 45, [0.5] * 120
    >>> gap = calibration_gap(target, score, [1] * 60 + [0] * 60, range(120))
    >>> round(gap.here, 3), round(gap.elsewhere, 3), round(gap.difference.p, 3)
    (0.0, -1.099, 0.008)
    """
    truth, inside = np.asarray(target).astype(bool), np.asarray(member).astype(bool)
    codes = np.unique(np.asarray(patient), return_inverse=True)[1]
    for label in (True, False):
        rows = truth == label
        lacking = LevelSizes.of(inside[rows], codes[rows]).lacking(f" at label {int(label)}")
        if lacking is not None:
            return LevelGap(None, None, Effect(None, reason=lacking))
    probability = np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP)
    shifts, moved = [], np.zeros((2, int(codes.max()) + 1))
    for place, rows in enumerate((inside, ~inside)):
        shift = calibration_in_the_large(truth[rows], probability[rows])
        expected = expit(logit(probability[rows]) + shift)
        share = (truth[rows] - expected) / (expected * (1 - expected)).sum()
        patients = len(np.unique(codes[rows]))
        moved[place] = np.bincount(codes[rows], weights=share, minlength=moved.shape[1])
        moved[place] *= (patients / (patients - 1)) ** 0.5
        shifts.append(shift)
    error = float(((moved[0] - moved[1]) ** 2).sum()) ** 0.5
    freedom = LevelSizes.of(inside, codes).degrees_of_freedom
    return LevelGap(shifts[0], shifts[1], by_t(shifts[0] - shifts[1], error, freedom, level))


def operating_gaps(
    target: ArrayLike,
    score: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    *,
    called: ArrayLike | None = None,
    prevalence: float | None = None,
    seed: int = 0,
) -> dict[str, LevelGap]:
    """Every gap: ``sensitivity``, ``specificity``, ``ppv``, ``npv``, ``mean_error`` and ``intercept``.

    ``mean_error`` is the mean of score − label, tested as ``mean_difference`` does. Rates and predictive values are
    left out without ``called``, calibration where a score is no probability. Images of all folds are taken together.

    Args:
        target: 0 or 1, [N].
        score: [N].
        member: 0 or 1, [N].
        patient: patient id of each row, [N].
        called: whether the score reaches its threshold, 0 or 1, [N]; None where there is none.
        prevalence: for predictive values; None is that of the rows.
        seed: of the permutations.

    >>> label, member = [0, 1] * 60, [0, 0, 1, 1] * 30
    >>> sorted(operating_gaps(label, [0.2 + 0.5 * y for y in label], member, range(120)))
    ['intercept', 'mean_error']
    """
    truth, value = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    inside, codes = np.asarray(member).astype(bool), np.unique(np.asarray(patient), return_inverse=True)[1]
    found: dict[str, LevelGap] = {}
    if called is not None:
        said = np.asarray(called).astype(bool)
        for name, rows, hit in (("sensitivity", truth, said), ("specificity", ~truth, ~said)):
            found[name] = rate_gap(hit[rows], inside[rows], codes[rows])
        common = float(truth.mean()) if prevalence is None else prevalence
        if 0 < common < 1:
            found["ppv"] = predictive_gap(truth, said, inside, codes, common)
            found["npv"] = predictive_gap(truth, said, inside, codes, common, positive=False)
    if value.min() >= 0 and value.max() <= 1:
        error = value - truth
        here, elsewhere = (float(error[rows].mean()) if rows.any() else None for rows in (inside, ~inside))
        found["mean_error"] = LevelGap(here, elsewhere, mean_difference(error, inside, codes, seed=seed))
        found["intercept"] = calibration_gap(truth, value, inside, codes)
    return found
