"""The share of positives as a smooth function of the probability, with a band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import expit, logit

from evalfm.statistics.calibration import CLIP
from evalfm.statistics.resampling import Positions, Values

KNOTS = (0.05, 0.35, 0.65, 0.95)
"""Quantiles of the logits at which the pieces of the curve meet (Harrell 2015)."""
ENOUGH_FOR_A_CURVE = 30
"""Images of either class below which the curve is the straight line on the logit, of one parameter and not three."""
_ITERATIONS = 60


@dataclass(frozen=True)
class CalibrationCurve:
    """What share of the images with a probability is positive.

    Attributes:
        probability: [G] rising, from the lowest score to the highest.
        share: [G].
        low, high: [G] of the pointwise 95 % band.
    """

    probability: Values
    share: Values
    low: Values
    high: Values


def natural_spline(value: ArrayLike, knots: ArrayLike) -> Values:
    """Basis [N, K − 1] of cubic pieces between K knots, straight beyond the outer ones (Harrell 2015); straight for 2.

    >>> natural_spline([0.0, 1.0, 4.0], [0.0, 1.0, 2.0]).round(3).tolist()
    [[0.0, 0.0], [1.0, 0.25], [4.0, 4.5]]
    """
    x, at = np.asarray(value, dtype=np.float64), np.asarray(knots, dtype=np.float64)
    columns, last, before = [x], at[-1], at[-2]
    cubes = np.maximum(x[:, None] - at, 0.0) ** 3
    for place, knot in enumerate(at[:-2]):
        straight = cubes[:, -2] * (last - knot) - cubes[:, -1] * (before - knot)
        columns.append((cubes[:, place] - straight / (last - before)) / (last - at[0]) ** 2)
    return np.stack(columns, axis=1)


def calibration_curve(
    target: ArrayLike, score: ArrayLike, codes: Positions, points: int = 101
) -> CalibrationCurve | None:
    """Logistic regression of the label on a natural spline of the logit, with a band clustered by patient.

    None where a class is missing, the scores are constant or separate the classes, or there is one patient. Four knots,
    three parameters beside the intercept; one below 30 positive or negative images. The band is that of the sandwich
    covariance over patients with P / (P − 1), t with P − 1 degrees of freedom, on the logit, pointwise.

    Args:
        target, score: labels 0 or 1 and probabilities, [N]; those of all folds together.
        codes: patient code of each row, [N], 0 … P − 1.
        points: of the curve.

    >>> generator = np.random.default_rng(0)
    >>> score = generator.random(3000)
    >>> curve = calibration_curve(generator.random(3000) < score**2, score, np.arange(3000), points=3)
    >>> curve.probability.round(1).tolist(), abs(curve.share - [0, 0.25, 1]).max() < 0.05
    ([0.0, 0.5, 1.0], np.True_)
    """
    label = np.asarray(target, dtype=np.float64)
    x = logit(np.clip(np.asarray(score, dtype=np.float64), CLIP, 1 - CLIP))
    patients = np.unique(codes)
    if label.min() == label.max() or np.ptp(x) < 1e-9 or len(patients) < 2:
        return None
    knots = np.unique(np.quantile(x, KNOTS))
    if min(label.sum(), (1 - label).sum()) < ENOUGH_FOR_A_CURVE or len(knots) < 3:
        knots = np.array([x.min(), x.max()])
    probability = np.linspace(expit(x.min()), expit(x.max()), points)
    basis, wanted = natural_spline(x, knots), natural_spline(logit(np.clip(probability, CLIP, 1 - CLIP)), knots)
    centre, scale = basis.mean(axis=0), basis.std(axis=0)
    design, there = (np.hstack([np.ones((len(each), 1)), (each - centre) / scale]) for each in (basis, wanted))
    fitted = _fit(design, label)
    if fitted is None:
        return None
    weights, inverse = fitted
    residual = label - expit(design @ weights)
    place = np.searchsorted(patients, codes)
    summed = np.stack([np.bincount(place, each) for each in (design * residual[:, None]).T], axis=1)
    covariance = inverse @ (summed.T @ summed) @ inverse * len(patients) / (len(patients) - 1)
    error = np.sqrt(np.maximum(np.einsum("gi,ij,gj->g", there, covariance, there), 0.0))
    reach = float(stats.t.ppf(0.975, len(patients) - 1)) * error
    line = there @ weights
    return CalibrationCurve(probability, expit(line), expit(line - reach), expit(line + reach))


def _fit(design: Values, label: Values) -> tuple[Values, Values] | None:
    """Coefficients of the largest likelihood and the inverse information, by Newton's method; None if there is none."""
    weights = np.zeros(design.shape[1])

    def likelihood(at: Values) -> float:
        line = design @ at
        return float((label * line - np.logaddexp(0, line)).sum())

    best = likelihood(weights)
    for _ in range(_ITERATIONS):
        chance = expit(design @ weights)
        information = design.T @ (design * (chance * (1 - chance))[:, None])
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (label - chance))
        size = 1.0
        while likelihood(weights + size * step) < best - 1e-12 * abs(best) and size > 1e-4:
            size /= 2
        weights = weights + size * step
        best = likelihood(weights)
        if np.abs(step).max() < 1e-8 * (1 + np.abs(weights).max()):
            return weights, np.asarray(np.linalg.inv(information), dtype=np.float64)
    return None
