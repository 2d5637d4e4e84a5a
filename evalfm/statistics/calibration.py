"""How well probabilities match outcomes: Brier score, calibration error and line, and temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from evalfm.statistics.resampling import FromRows, FromSums, Positions, Values, blocks, ratio

BINS = 15
CLIP = 1e-6
CERTAIN = 1e-12
COLDEST, HOTTEST = 0.01, 100.0
"""The bounds of the temperature; validation data that .5 separates without error give the coldest."""
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


def calibration_error_statistic(
    target: ArrayLike, score: ArrayLike, codes: Positions, patients: int, bins: int = BINS
) -> FromSums:
    """ECE as a function of patient weights; the bins stay as they are on the data.

    Args:
        target, score: labels 0 or 1 and probabilities, [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.
        bins: at most so many.

    >>> statistic = calibration_error_statistic([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.9], np.arange(4), patients=4, bins=2)
    >>> round(statistic.on_the_data(), 3)
    0.225
    """
    columns = _calibration_gaps(target, score, equal_mass_bins(score, bins))
    return FromSums(columns, codes, patients, _gap_of_sums)


def _calibration_gaps(target: ArrayLike, score: ArrayLike, member: Positions) -> Values:
    """[N, 1 + bins]: one, and label minus probability in the column of the row's bin."""
    gap = np.asarray(target, dtype=np.float64) - np.asarray(score, dtype=np.float64)
    columns = np.zeros((len(gap), 1 + int(member.max()) + 1))
    columns[:, 0] = 1.0
    columns[np.arange(len(gap)), 1 + member] = gap
    return columns


def _gap_of_sums(sums: Values) -> Values:
    return ratio(np.abs(sums[..., 1:]).sum(axis=-1), sums[..., 0])


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
    label = np.asarray(target, dtype=np.float64)
    offset = logit(np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP))
    if label.min() == label.max():
        return float("nan")
    # The mean probability grows with the shift; at the ends of this range it passes the share of positives.
    prevalence = logit(label.mean())
    low, high = float(prevalence - offset.max()), float(prevalence - offset.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + offset).mean() < label.mean() else (low, middle)
    return (low + high) / 2


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


def fit_temperature(target: ArrayLike, probability: ArrayLike) -> float:
    """The temperature T > 0 of the smallest log-loss (Guo et al., ICML 2017); labels that are NaN do not count.

    The log-loss is convex in 1 / T. Above 1 the probabilities were too sure, below 1 not sure enough.

    Args:
        target: [N] 0 or 1 with ``probability`` [N] of the finding; or class numbers [N] with [N, K] over classes.
        probability: in [0, 1]; certainty counts as 1e-12, so that a certain mistake costs much and not all.

    Raises:
        ValueError: no label is known, or a probability is outside [0, 1].

    >>> round(fit_temperature([0, 1, 0, 1], [0.01, 0.99, 0.9, 0.95]), 2)
    2.19
    """
    label = np.asarray(target, dtype=np.float64)
    known = np.isfinite(label)
    given = np.clip(_checked(probability)[known], CERTAIN, 1 - CERTAIN)
    if not known.any():
        raise ValueError("no label is known")
    label = label[known]
    if given.ndim == 1:
        margin = logit(given) * (2 * label - 1)

        def loss(log_sharpness: float) -> float:
            return float(np.logaddexp(0, -margin * np.exp(log_sharpness)).mean())
    else:
        logarithm = np.log(given)
        place = label.astype(np.intp)[:, None]

        def loss(log_sharpness: float) -> float:
            scaled = log_softmax(logarithm * np.exp(log_sharpness), axis=1)
            return float(-np.take_along_axis(scaled, place, axis=1).mean())

    bounds = (float(-np.log(HOTTEST)), float(-np.log(COLDEST)))
    searched = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    # The bounded search never reaches its bounds, nor the plain probabilities where all are alike.
    best = min((float(searched.x), 0.0, *bounds), key=lambda each: (loss(each), abs(each)))
    return float(np.exp(-best))


def with_temperature(probability: ArrayLike, temperature: float) -> Values:
    """Probabilities at ``temperature``: [N] of a finding, or [N, K] over classes; their order does not change.

    Raises:
        ValueError: a probability is outside [0, 1].

    >>> with_temperature([0.1, 0.5, 0.9], 2.0).round(3).tolist()
    [0.25, 0.5, 0.75]
    """
    given = _checked(probability)
    with np.errstate(divide="ignore"):
        scaled = expit(logit(given) / temperature) if given.ndim == 1 else softmax(np.log(given) / temperature, axis=1)
    return np.asarray(scaled, dtype=np.float64)


def _checked(probability: ArrayLike) -> NDArray[np.float64]:
    value = np.asarray(probability, dtype=np.float64)
    if value.size and (value.min() < 0 or value.max() > 1):
        raise ValueError("scores outside [0, 1] are no probabilities")
    return value
