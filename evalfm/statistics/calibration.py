"""How well probabilities match outcomes: calibration error, in the large, and the calibration line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from evalfm.statistics.estimate import Interval
from evalfm.statistics.resampling import FromRows, FromSums, Positions, Values, blocks, ratio

BINS = 15
CLIP = 1e-6
FEWEST_IN_BIN = 10
"""Images for which a bin of the RMS calibration error is made."""
MOST_VARIANCE = 100.0
"""Variance of a count from which its mean absolute deviation is that of the normal, to .1 %."""
_DRAWS = 20_000
_ITERATIONS = 50
_LONGEST_STEP = 4.0


def equal_mass_bins(score: ArrayLike, bins: int = BINS) -> Positions:
    """Bin of each score [N], from 0 without gaps: as equally filled as ties allow, tied scores together.

    >>> equal_mass_bins([0.1, 0.2, 0.2, 0.9], bins=2).tolist()
    [0, 0, 0, 1]
    """
    value = np.asarray(score, dtype=np.float64)
    # The first row of a tie decides, so that one score never stands in two bins.
    first = np.searchsorted(np.sort(value), value, side="left")
    return np.unique(first * min(bins, len(value)) // len(value), return_inverse=True)[1].astype(np.intp)


def calibration_error(target: ArrayLike, score: ArrayLike, bins: int = BINS) -> float:
    """ECE: Σ n_b / n · |share of positives − mean probability| over equally filled bins.

    A sum of absolute values is above 0 for a calibrated score too: read it beside ``expected_calibration_error``.

    Args:
        target, score: labels 0 or 1 and probabilities, [N].
        bins: at most so many.

    >>> round(calibration_error([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.9], bins=2), 3)
    0.225
    """
    value = np.asarray(score, dtype=np.float64)
    gap = np.asarray(target, dtype=np.float64) - value
    return float(np.abs(np.bincount(equal_mass_bins(value, bins), gap)).sum() / len(gap))


def expected_calibration_error(score: ArrayLike, bins: int = BINS) -> float:
    """What ECE comes to, in the mean, where every label is drawn with the probability ``score`` [N] says.

    Exact: a bin's count of positives is a sum of unequal coins (Poisson binomial), of which the mean absolute deviation
    is taken; of the normal, √(2 / π) times the deviation, where the count's variance is above 100. Labels are taken as
    independent, those of one patient too.

    >>> round(expected_calibration_error(np.full(4, 0.5), bins=1), 4)  # |X / 4 − 1/2| of four coins
    0.1875
    """
    value = np.asarray(score, dtype=np.float64)
    member = equal_mass_bins(value, bins)
    return float(sum(_mean_deviation(value[member == each]) for each in range(member.max() + 1)) / len(value))


def _mean_deviation(chance: Values) -> float:
    """E |X − E X| of a sum of coins with these chances [n]."""
    chance = chance[(chance > 0) & (chance < 1)]
    variance = float((chance * (1 - chance)).sum())
    if variance > MOST_VARIANCE:
        return float((2 / np.pi * variance) ** 0.5)
    law = np.ones(1)
    for each in chance:
        law = np.append(law * (1 - each), 0.0) + np.append(0.0, law * each)
    return float(law @ np.abs(np.arange(len(law)) - chance.sum()))


class CalibrationRms(FromSums):
    """RMS calibration error √max(u, 0) as a function of patient weights; the bins stay as they are on the data.

    u = Σ n_b / n · (g_b² − v_b) is free of bias over equally filled bins: g_b is the mean of label − probability in a
    bin and v_b its variance, clustered by patient; (mean r² − g_b²) / (n_b − 1) at one image a patient.

    Args:
        target, score: labels 0 or 1 and probabilities, [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.
        bins: at most so many, and no more than leave ten images in each.

    >>> generator = np.random.default_rng(0)
    >>> score = generator.random(2000)
    >>> label = generator.random(2000) < np.clip(score + 0.1, 0, 1)
    >>> error = CalibrationRms(label, score, np.arange(2000), 2000)
    >>> found = error.own_interval()
    >>> round(error.on_the_data(), 2), round(found.low, 2), round(found.high, 2)
    (0.1, 0.08, 0.12)
    """

    def __init__(self, target: ArrayLike, score: ArrayLike, codes: Positions, patients: int, bins: int = BINS) -> None:
        value = np.asarray(score, dtype=np.float64)
        member = equal_mass_bins(value, max(1, min(bins, len(value) // FEWEST_IN_BIN)))
        self.bins = int(member.max()) + 1
        place, size = codes * self.bins + member, patients * self.bins
        rows = np.bincount(place, minlength=size).reshape(patients, self.bins).astype(np.float64)
        gap = np.bincount(place, np.asarray(target, dtype=np.float64) - value, size).reshape(patients, self.bins)
        self.rows, self.gap = rows, gap
        columns = np.concatenate([rows, gap, gap**2, gap * rows, rows**2, rows > 0], axis=1)
        super().__init__(columns, np.arange(patients), patients, self._of_sums)

    def _of_sums(self, sums: Values) -> Values:
        rows, gap, squares, products, rows_2, there = np.moveaxis(sums.reshape(*sums.shape[:-1], 6, self.bins), -2, 0)
        mean = ratio(gap, rows)
        variance = ratio(squares - 2 * mean * products + mean**2 * rows_2, rows**2) * ratio(there, there - 1)
        excess = ratio((rows * (mean**2 - variance)).sum(axis=-1), rows.sum(axis=-1))
        return np.sqrt(np.maximum(excess, 0.0))

    def own_interval(self) -> Interval | None:
        """By inversion: errors θ under which the observed Σ n_b / n · g_b² lies between its 2.5 and 97.5 % quantile.

        The gaps are scaled to θ and normal errors with their covariance, clustered by patient, are added to them.
        """
        rows, there = self.rows.sum(axis=0), (self.rows > 0).sum(axis=0)
        if there.min() < 2:
            return Interval.absent("a bin holds one patient only")
        gap, weight = self.gap.sum(axis=0) / rows, rows / rows.sum()
        apart = (self.gap - gap * self.rows) / rows * np.sqrt(there / (there - 1))
        values, axes = np.linalg.eigh(apart.T @ apart)
        noise = np.random.default_rng(0).normal(size=(_DRAWS, self.bins)) * np.sqrt(np.maximum(values, 0.0)) @ axes.T
        observed = float(weight @ gap**2)
        toward = gap / observed**0.5 if observed > 0 else np.ones(self.bins)
        along, of_noise = noise @ (weight * toward), noise**2 @ weight

        def quantile(error: float, level: float) -> float:
            return float(np.quantile(error**2 + 2 * error * along + of_noise, level))

        def bound(level: float) -> float:
            low, high = 0.0, 1.0 + observed**0.5
            if quantile(low, level) >= observed:
                return 0.0
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (middle, high) if quantile(middle, level) < observed else (low, middle)
            return low

        low, high = bound(0.975), bound(0.025)
        if high == 0.0:
            return Interval.absent("the gaps are smaller than chance leaves them in 97.5 % of samples")
        return Interval(low, high, None, "inversion of Σ w g², its errors", None, resampled=False)


@dataclass(frozen=True)
class CalibrationLine:
    """logit P(y = 1) = intercept + slope · logit(score), each [B]; NaN where there is no maximum."""

    intercept: Values
    slope: Values


def calibration_line(target: ArrayLike, score: ArrayLike, weights: Values | None = None) -> CalibrationLine:
    """Maximum-likelihood calibration intercept and slope under each row of ``weights`` [B, N] (None: ones).

    Probabilities are clipped to [1e-6, 1 − 1e-6]. Newton's method on all rows at once, started at the fit to
    the data. NaN where the labels are all alike, the scores are constant, or the scores separate the labels.

    Cox (1958): slope 1 and intercept 0 are right; a slope below 1 means probabilities that are too extreme.

    >>> line = calibration_line([0, 1, 0, 1, 0, 1], [0.1, 0.2, 0.4, 0.6, 0.8, 0.9])
    >>> abs(line.intercept).round(3).tolist(), line.slope.round(3).tolist()
    ([0.0], [0.367])
    """
    return _LineFit(target, score).under(weights)


class _LineFit:
    """What every weighting of one set of labels and scores shares: the standardised logits, and the fit to the data."""

    def __init__(self, target: ArrayLike, score: ArrayLike) -> None:
        self.label = np.asarray(target, dtype=np.float64)
        self.rows = len(self.label)
        predictor = logit(np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP))
        self.centre, self.scale = float(predictor.mean()), float(predictor.std())
        self.constant = not self.scale > 1e-12 * max(1.0, abs(self.centre))
        if self.constant:
            return
        self.predictor = (predictor - self.centre) / self.scale
        self.fitted = _newton(self.label, self.predictor, np.ones((1, self.rows)), np.zeros(2))

    def under(self, weights: Values | None) -> CalibrationLine:
        """The line under each row of ``weights`` [B, N] (None: ones)."""
        if self.constant:
            missing = np.full(1 if weights is None else len(weights), np.nan)
            return CalibrationLine(missing, missing.copy())
        fitted = self.fitted
        if weights is not None:
            start = fitted[0] if np.isfinite(fitted).all() else np.zeros(2)
            parts = [
                _newton(self.label, self.predictor, weights[a:b], start) for a, b in blocks(len(weights), self.rows)
            ]
            fitted = np.concatenate(parts) if parts else np.empty((0, 2))
        slope = fitted[:, 1] / self.scale
        return CalibrationLine(fitted[:, 0] - slope * self.centre, slope)


def calibration_line_statistic(
    target: ArrayLike, score: ArrayLike, codes: Positions, patients: int, which: Literal["slope", "intercept"]
) -> FromRows:
    """Calibration slope or intercept as a function of patient weights.

    Args:
        target, score: labels 0 or 1 and probabilities, [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.
        which: ``"slope"`` or ``"intercept"``.

    >>> label, score = [0, 1, 0, 1, 0, 1], [0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    >>> slope = calibration_line_statistic(label, score, np.arange(6), patients=6, which="slope")
    >>> round(slope.on_the_data(), 3)
    0.367
    """
    fit = _LineFit(target, score)
    return FromRows(codes, patients, lambda weights: getattr(fit.under(weights), which))


def calibration_in_the_large(target: ArrayLike, score: ArrayLike) -> float:
    """Intercept with the slope held at 1: how far the logits must shift for the mean probability to be right.

    NaN where the labels are all alike.

    >>> round(calibration_in_the_large([0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]), 3)
    -1.099
    """
    label, offset = _label_and_logit(target, score)
    return float(_shift(label, offset, np.ones((1, len(label))))[0])


def calibration_in_the_large_statistic(
    target: ArrayLike, score: ArrayLike, codes: Positions, patients: int
) -> FromRows:
    """The same as a function of patient weights.

    Args:
        target, score: labels 0 or 1 and probabilities, [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.

    >>> statistic = calibration_in_the_large_statistic([0, 0, 0, 1], np.full(4, 0.5), np.arange(4), patients=4)
    >>> round(statistic.on_the_data(), 3)
    -1.099
    """
    label, offset = _label_and_logit(target, score)
    start = float(np.nan_to_num(_shift(label, offset, np.ones((1, len(label))))[0]))
    return FromRows(codes, patients, lambda weights: _shift(label, offset, weights, start))


def _label_and_logit(target: ArrayLike, score: ArrayLike) -> tuple[Values, Values]:
    label = np.asarray(target, dtype=np.float64)
    return label, logit(np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP))


def _shift(label: Values, offset: Values, weights: Values, start: float = 0.0) -> Values:
    """Newton's method for the intercept beside ``offset`` [N] under each row of ``weights`` [B, N]; NaN if none."""
    observed, total = weights @ label, weights.sum(axis=1)
    shift = np.where((observed > 0) & (observed < total), start, np.nan)
    running = np.flatnonzero(~np.isnan(shift))
    for _ in range(_ITERATIONS):
        if not len(running):
            break
        expected = expit(shift[running, None] + offset)
        mass = weights[running] * expected
        gradient = observed[running] - mass.sum(axis=1)
        information = mass.sum(axis=1) - np.einsum("bi,bi->b", mass, expected)
        step = np.clip(ratio(gradient, information), -_LONGEST_STEP, _LONGEST_STEP)
        shift[running] += step
        running = running[np.abs(step) > 1e-6 * (1 + np.abs(shift[running]))]
    shift[running] = np.nan
    return shift


def _newton(label: Values, predictor: Values, weights: Values, start: Values) -> Values:
    """Weighted logistic regression on a standardised predictor: [B, 2] intercept, slope; NaN if none."""
    coefficients = np.tile(start, (len(weights), 1))
    design = np.stack([np.ones_like(predictor), predictor, predictor**2], axis=1)
    observed = (weights * label) @ design[:, :2]
    running = np.flatnonzero((observed[:, 0] > 0) & (observed[:, 0] < weights.sum(axis=1)))
    coefficients[np.setdiff1d(np.arange(len(weights)), running)] = np.nan
    current = weights if len(running) == len(weights) else weights[running]
    for _ in range(_ITERATIONS):
        if not len(running):
            return coefficients
        expected = expit(coefficients[running] @ design[:, :2].T)
        mass = current * expected
        gradient = observed[running] - mass @ design[:, :2]
        mass -= mass * expected
        information = mass @ design
        determinant = information[:, 0] * information[:, 2] - information[:, 1] ** 2
        solvable = determinant > 1e-12 * np.maximum(weights[running].sum(axis=1), 1.0) ** 2
        safe = np.where(solvable, determinant, 1.0)
        step = np.stack(
            [
                (information[:, 2] * gradient[:, 0] - information[:, 1] * gradient[:, 1]) / safe,
                (information[:, 0] * gradient[:, 1] - information[:, 1] * gradient[:, 0]) / safe,
            ],
            axis=1,
        )
        length = np.linalg.norm(step, axis=1, keepdims=True)
        step *= np.minimum(1.0, _LONGEST_STEP / np.maximum(length, _LONGEST_STEP))
        coefficients[running] += step
        coefficients[running[~solvable]] = np.nan
        # Newton's error is squared by each step: after one this short it is below 1e-9.
        going = solvable & (length[:, 0] > 1e-5 * (1 + np.abs(coefficients[running]).sum(axis=1)))
        if not going.all():
            running, current = running[going], current[going]
    coefficients[running] = np.nan
    return coefficients
