"""One difference over several tasks: a normal hierarchical model by a grid, without Markov chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq

from evalfm.statistics.resampling import Values

GRID = 400
"""Values of τ, equally probable under its prior."""
SCALES = (0.02, 0.1)
"""Of the half-Cauchy prior of τ, to show what it does. An interval is read from the wider one: with the other it covers
.89 to .91 of two and five tasks whose differences vary by .05 (`benchmarks/comparisons.py`)."""
ROPE = 0.01
"""Differences within ± this count as practically equal."""


@dataclass(frozen=True)
class MeanDifference:
    """The mean difference δ₀ over tasks.

    Attributes:
        mean: posterior mean of δ₀.
        low, high: its central credible interval.
        worse, equal, better: posterior probability that δ₀ is below −rope, within ± rope, above rope.
        spread: posterior mean of τ, the standard deviation of true differences over tasks.
        scale: of the prior of τ.
        tasks: how many.
    """

    mean: float
    low: float
    high: float
    worse: float
    equal: float
    better: float
    spread: float
    scale: float
    tasks: int


def mean_difference(
    differences: ArrayLike,
    standard_errors: ArrayLike,
    *,
    scale: float = SCALES[0],
    rope: float = ROPE,
    level: float = 0.95,
) -> MeanDifference:
    """δ₀ of x_i ~ N(δ_i, s_i²), δ_i ~ N(δ₀, τ²), with δ₀ flat and τ half-Cauchy (after Corani et al. 2017).

    For each of 400 values of τ, equally probable under its prior, δ₀ is normal and the likelihood of τ known; the
    posterior is the mixture of these normals.

    Args:
        differences: x of each task, [T].
        standard_errors: s of each task, [T], positive; with training variance where the differences speak of encoders.
        scale: of the half-Cauchy prior of τ, on the scale of the differences.
        rope: half width of the region of practical equivalence.
        level: of the credible interval.

    Raises:
        ValueError: fewer than two tasks, or a standard error that is not positive and finite.

    >>> found = mean_difference([0.03, 0.02, 0.04], [0.01, 0.01, 0.02])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3), round(found.better, 2)
    (0.028, 0.005, 0.052, 0.95)
    """
    x, s = np.asarray(differences, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if len(x) < 2 or x.shape != s.shape:
        raise ValueError("a mean over tasks needs two tasks at least, each with its standard error")
    if not (np.isfinite(x).all() and np.isfinite(s).all() and (s > 0).all()):
        raise ValueError("each task needs a finite difference and a positive standard error")
    taus = scale * np.tan(np.pi / 2 * (np.arange(GRID) + 0.5) / GRID)
    precision = 1 / (s**2 + taus[:, None] ** 2)
    total = precision.sum(axis=1)
    centre = precision @ x / total
    gaps = (x - centre[:, None]) ** 2
    logs = 0.5 * np.log(precision).sum(axis=1) - 0.5 * np.log(total) - 0.5 * (precision * gaps).sum(axis=1)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    reach = 1 / np.sqrt(total)

    def below(value: float) -> float:
        return float(weight @ stats.norm.cdf((value - centre) / reach))

    lost, won = below(-rope), 1 - below(rope)
    low, high = (_quantile(below, at, x, s) for at in ((1 - level) / 2, (1 + level) / 2))
    mean, spread = float(weight @ centre), float(weight @ taus)
    return MeanDifference(mean, low, high, lost, max(0.0, 1 - lost - won), won, spread, scale, len(x))


def _quantile(below: Callable[[float], float], at: float, x: Values, s: Values) -> float:
    width = float(np.ptp(x) + s.max())
    low, high = float(x.min()) - width, float(x.max()) + width
    while below(low) > at:
        low -= width
    while below(high) < at:
        high += width
    return float(brentq(lambda value: below(value) - at, low, high, xtol=1e-10))
