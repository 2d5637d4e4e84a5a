"""Bootstrap-t: resamples of a statistic over its own standard error, on a scale where the error is steady."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.estimate import Interval
from evalfm.statistics.resampling import FromSums, Positions, Scale, Statistic, Values

MOST_ERRORS = 6.0
"""No bound lies further off than so many standard errors: without its outliers a resample has next to no error."""
HEAVY = 0.17
"""L-kurtosis from which tails are heavy: midway between the normal (.123) and t with four degrees of freedom (.217)."""

PLAIN = Scale("", lambda values: values, lambda values: values)
LOG = Scale("log", np.log, np.exp)
LOG_OF_REST = Scale("log of 1 − value", lambda values: -np.log(1 - values), lambda values: 1 - np.exp(-values))
FISHER = Scale("Fisher's z", np.arctanh, np.tanh)


class Errors(Statistic):
    """The standard error of ``of``, on its scale, under patient weights: by the delta method over patients.

    P / (P − 1) · Σ w (g · (s − mean s))², s a patient's sums and g the gradient of the formula at their total.

    >>> values = np.array([1.0, 2.0, 4.0, 7.0])
    >>> columns = np.stack([np.ones(4), values], axis=1)
    >>> mean = FromSums(columns, np.arange(4), 4, lambda sums: sums[..., 1] / sums[..., 0])
    >>> round(Errors(mean).on_the_data(), 6), round(float(values.std(ddof=1) / 2), 6)
    (1.322876, 1.322876)
    """

    def __init__(self, of: FromSums) -> None:
        self.of = of
        self.patients = of.patients
        # Not at the data: there a slope may be 0 by symmetry, such as that of a variance by a sum that is 0.
        away = np.linspace(0.5, 1.5, of.patients)[None] @ of.sums
        self.used = np.flatnonzero(_gradient(self._scaled, away)[0])
        own = of.sums[:, self.used]
        self.products = (own[:, :, None] * own[:, None, :]).reshape(len(own), -1)

    def _scaled(self, sums: Values) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = self.of.formula(sums)
            return value if self.of.scale is None else self.of.scale.there(value)

    def values(self, weights: Values) -> Values:
        """The error at each weighting, [B]."""
        totals, patients = weights @ self.of.sums, weights.sum(axis=1)
        gradient = _gradient(self._scaled, totals, self.used)
        squares = (weights @ self.products).reshape(len(weights), len(self.used), len(self.used))
        spread = np.einsum("bi,bij,bj->b", gradient, squares, gradient)
        spread -= np.einsum("bi,bi->b", gradient, totals[:, self.used]) ** 2 / patients
        return np.asarray(np.sqrt(np.maximum(spread, 0.0) * patients / (patients - 1)), dtype=np.float64)


def bootstrap_t(
    value: float, error: float, resampled: Values, errors: Values, scale: Scale = PLAIN, level: float = 0.95
) -> tuple[float, float] | None:
    """Bounds by the quantiles of (resample − value) / error on ``scale`` (Efron 1981; Hall 1988), or None.

    Args:
        value: the estimate on the data.
        error: its standard error on the scale.
        resampled, errors: [B] the same of the resamples.
        scale: where the errors stand.
        level: coverage aimed at.

    >>> generator = np.random.default_rng(0)
    >>> low, high = bootstrap_t(0.8, 0.02, generator.normal(0.8, 0.02, 2000), np.full(2000, 0.02))
    >>> round(low, 2), round(high, 2)
    (0.76, 0.84)
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = float(scale.there(np.asarray(value, dtype=np.float64)))
        deviation = (scale.there(resampled) - middle) / errors
    deviation = deviation[np.isfinite(deviation)]
    if not (np.isfinite(middle) and 0 < error < np.inf and len(deviation) >= 0.95 * len(resampled)):
        return None
    low, high = np.quantile(deviation, [(1 - level) / 2, (1 + level) / 2]).clip(-MOST_ERRORS, MOST_ERRORS)
    ends = scale.back(middle - np.array([high, low]) * error)
    return float(ends[0]), float(ends[1])


def studentised(value: float, statistic: FromSums, resampled: Values, errors: Values) -> Interval | None:
    """The interval of a statistic that has a scale, from its resamples [B] and their errors [B]; None without one."""
    if statistic.scale is None:
        return None
    bounds = bootstrap_t(value, Errors(statistic).on_the_data(), resampled, errors, statistic.scale)
    words = f" on {statistic.scale.name}" if statistic.scale.name else ""
    return None if bounds is None else Interval(*bounds, None, f"bootstrap-t{words}", None)


def l_kurtosis(values: ArrayLike) -> float:
    """Hosking's (1990) L-kurtosis of ``values`` [N]: .123 of a normal, .26 of t with three degrees of freedom.

    It is found well in small samples, unlike the fourth moment, which heavy tails do not have. NaN below four values,
    or where all are alike.

    >>> round(l_kurtosis([1, 2, 3, 4, 9]), 3), round(l_kurtosis([0, 0, 0, 0, 0, 0, 9]), 2)
    (0.444, 1.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count, place = len(ordered), np.arange(len(ordered), dtype=np.float64)
    if count < 4 or np.ptp(ordered) == 0:
        return float("nan")
    first = ordered.mean()
    second, third, fourth = (
        np.prod([(place - each) / (count - 1 - each) for each in range(power)], axis=0) @ ordered / count
        for power in (1, 2, 3)
    )
    return float((20 * fourth - 30 * third + 12 * second - first) / (2 * second - first))


def _gradient(function: Callable[[Values], Values], at: Values, columns: Positions | None = None) -> Values:
    """Central differences of ``function`` at each row of ``at`` [B, d], by the ``columns`` (all if None)."""
    wanted = np.arange(at.shape[1]) if columns is None else columns
    slopes = np.empty((len(at), len(wanted)))
    for place, column in enumerate(wanted):
        moved = np.zeros_like(at)
        moved[:, column] = 1e-6 * np.maximum(np.abs(at[:, column]), 1e-3 * np.abs(at).max(axis=1))
        with np.errstate(invalid="ignore"):
            slopes[:, place] = (function(at + moved) - function(at - moved)) / (2 * moved[:, column])
    return slopes
