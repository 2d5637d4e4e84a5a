"""Temperature scaling: one number that makes probabilities as sure as they are right (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from evalfm.statistics.resampling import Values

CERTAIN = 1e-12
COLDEST, HOTTEST = 0.01, 100.0
"""Between which the temperature is looked for; val whose every image is on its side of .5 asks for the coldest."""


def fit_temperature(target: ArrayLike, probability: ArrayLike) -> float:
    """The temperature T > 0 of the smallest log-loss; labels that are NaN do not count.

    The log-loss is convex in 1 / T. Above 1 the probabilities were too sure, below 1 not sure enough.

    Args:
        target: [N] 0 or 1 with ``probability`` [N] of the finding; or class numbers [N] with [N, K] over classes.
        probability: in [0, 1]; certainty counts as 1e-12, so that a certain mistake costs much and not all.

    Raises:
        ValueError: no label is known, or a probability is outside [0, 1].
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
            told = log_softmax(logarithm * np.exp(log_sharpness), axis=1)
            return float(-np.take_along_axis(told, place, axis=1).mean())

    bounds = (float(-np.log(HOTTEST)), float(-np.log(COLDEST)))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    # The bounded search never reaches its bounds, nor the plain probabilities where all are alike.
    best = min((float(found.x), 0.0, *bounds), key=lambda each: (loss(each), abs(each)))
    return float(np.exp(-best))


def with_temperature(probability: ArrayLike, temperature: float) -> Values:
    """Probabilities at ``temperature``: [N] of a finding, or [N, K] over classes; their order does not change.

    Raises:
        ValueError: a probability is outside [0, 1].
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
