"""Temperature scaling: one number by which probabilities are made less sure, or surer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from evalfm.statistics.resampling import Values

CERTAIN = 1e-12
COLDEST, HOTTEST = 0.1, 100.0
"""The bounds of the temperature."""
PRIOR_IMAGES = 20.0
"""How many images whose labels follow the probabilities as they are stand beside those of val."""


def fit_temperature(target: ArrayLike, probability: ArrayLike) -> float:
    """The temperature T of the smallest log-loss (Guo et al., ICML 2017) with a weak prior towards 1.

    The prior is twenty images more, whose labels follow the probabilities as they are: to Σ log-loss comes 20 times the
    mean cross-entropy of the probabilities at T under those given, which is smallest at 1. Few images that .5 separates
    without error would else make the probabilities certain. The objective is convex in 1 / T. Above 1 the probabilities
    were too sure, below 1 not sure enough. Labels that are NaN do not count.

    Args:
        target: [N] 0 or 1 with ``probability`` [N] of the finding; or class numbers [N] with [N, K] over classes.
        probability: in [0, 1]; certainty counts as 1e-12, so that a certain mistake costs much and not all.

    Raises:
        ValueError: no label is known, or a probability is outside [0, 1].

    >>> round(fit_temperature([0, 1, 0, 1], [0.01, 0.99, 0.9, 0.95]), 2)
    1.21
    """
    label = np.asarray(target, dtype=np.float64)
    known = np.isfinite(label)
    given = np.clip(_checked(probability)[known], CERTAIN, 1 - CERTAIN)
    if not known.any():
        raise ValueError("no label is known")
    label = label[known]
    both = np.stack([1 - given, given], axis=1) if given.ndim == 1 else given
    logarithm = np.log(both)
    seen = np.zeros_like(both)
    seen[np.arange(len(both)), label.astype(np.intp)] = 1.0
    weight = seen + PRIOR_IMAGES / len(both) * both / both.sum(axis=1, keepdims=True)

    def loss(log_sharpness: float) -> float:
        return float(-(weight * log_softmax(logarithm * np.exp(log_sharpness), axis=1)).sum())

    bounds = (float(-np.log(HOTTEST)), float(-np.log(COLDEST)))
    searched = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    # The bounded search never reaches its bounds, nor the plain probabilities where all are alike.
    best = min((float(searched.x), 0.0, *bounds), key=lambda each: (loss(each), abs(each)))
    return float(np.exp(-best))


def at_edge(temperature: float) -> bool:
    """Whether ``temperature`` is the lowest or highest that is tried.

    >>> at_edge(0.1), at_edge(1.3)
    (True, False)
    """
    return not COLDEST * 1.001 < temperature < HOTTEST / 1.001


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
