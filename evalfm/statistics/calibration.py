"""Are probabilities what they say: Brier score, expected calibration error, calibration line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from evalfm.statistics.resampling import FromSums, Positions, Statistic, Values, blocks, ratio

BINS = 15
CLIP = 1e-6
_ITERATIONS = 50
_LONGEST_STEP = 4.0


def brier(target: ArrayLike, score: ArrayLike) -> float:
    """Mean squared difference of probability and label."""
    return float(np.mean((np.asarray(score, dtype=np.float64) - np.asarray(target, dtype=np.float64)) ** 2))


def equal_mass_bins(score: ArrayLike, bins: int = BINS) -> Positions:
    """Bin of each score [N], from 0 without gaps: as equally filled as ties allow, tied scores together."""
    value = np.asarray(score, dtype=np.float64)
    # The first row of a tie decides, so that one score never stands in two bins.
    first = np.searchsorted(np.sort(value), value, side="left")
    return np.unique(first * min(bins, len(value)) // len(value), return_inverse=True)[1].astype(np.intp)


def expected_calibration_error(target: ArrayLike, score: ArrayLike, bins: int = BINS) -> float:
    """Share-weighted mean over equal-mass bins of |observed share − mean probability|, in [0, 1]."""
    columns = _calibration_gaps(target, score, equal_mass_bins(score, bins))
    return float(_gap_of_sums(columns.sum(axis=0)))


def calibration_error_statistic(
    target: ArrayLike, score: ArrayLike, codes: Positions, patients: int, bins: int = BINS
) -> FromSums:
    """ECE as a function of patient weights; the bins stay as they are on the data."""
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
    """
    label = np.asarray(target, dtype=np.float64)
    predictor = logit(np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP))
    centre, scale = float(predictor.mean()), float(predictor.std())
    if not scale > 1e-12 * max(1.0, abs(centre)):
        missing = np.full(1 if weights is None else len(weights), np.nan)
        return CalibrationLine(missing, missing.copy())
    standard = (predictor - centre) / scale
    start = _newton(label, standard, np.ones((1, len(label))), np.zeros(2))
    found = start
    if weights is not None:
        origin = start[0] if np.isfinite(start).all() else np.zeros(2)
        parts = [_newton(label, standard, weights[a:b], origin) for a, b in blocks(len(weights), len(label))]
        found = np.concatenate(parts) if parts else np.empty((0, 2))
    slope = found[:, 1] / scale
    return CalibrationLine(found[:, 0] - slope * centre, slope)


class CalibrationCoefficient(Statistic):
    """Calibration slope or intercept as a function of patient weights.

    Args:
        target, score: [n] labels and probabilities.
        codes: [n] patient of each row.
        patients: P.
        which: ``"slope"`` or ``"intercept"``.
    """

    def __init__(self, target: ArrayLike, score: ArrayLike, codes: Positions, patients: int, which: str) -> None:
        self.patients = patients
        self.target = np.asarray(target, dtype=np.float64)
        self.score = np.asarray(score, dtype=np.float64)
        self.codes = codes
        self.which = which

    def values(self, weights: Values) -> Values:
        """The coefficient [B] under patient weights [B, P]."""
        parts = []
        for start, stop in blocks(len(weights), len(self.codes)):
            line = calibration_line(self.target, self.score, weights[start:stop][:, self.codes])
            parts.append(line.slope if self.which == "slope" else line.intercept)
        return np.concatenate(parts)


def calibration_in_the_large(target: ArrayLike, score: ArrayLike) -> float:
    """Intercept with the slope held at 1: how far the logits must shift for the mean probability to be right.

    NaN where the labels are all alike.
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
