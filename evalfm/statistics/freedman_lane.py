"""An adjusted effect tested by permuted residuals: it holds its level where few patients have the attribute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from evalfm.statistics.association import POWER, Effect
from evalfm.statistics.permutation import PERMUTATIONS, exchanges
from evalfm.statistics.resampling import Mask, Positions, Values

GRID = 96
"""Hypotheses on either side that are looked at before the end of the interval is bisected."""
FARTHEST = 60.0
"""How many standard errors from the estimate an end of the interval is looked for."""


@dataclass(frozen=True)
class PermutedEffect(Effect):
    """An effect whose p and interval come from permutations.

    Attributes:
        statistic: the effect over its standard error on the data.
        permutations: how many.
    """

    statistic: float | None = None
    permutations: int = 0


def permuted_effect(
    response: ArrayLike,
    attribute: ArrayLike,
    basis: Values,
    *,
    patient: ArrayLike | None = None,
    alike: ArrayLike | None = None,
    degrees_of_freedom: int,
    level: float = 0.95,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutedEffect:
    """Coefficient of ``attribute`` in response ~ basis + attribute, tested by Freedman and Lane (1983).

    Residuals of the response on the basis are permuted and made residuals again; the statistic is the coefficient over
    its HC2 standard error (MacKinnon and White 1985), summed within patients where these have several rows. The
    interval holds every value b for which the same test of ``response − b · attribute`` has p of at least 1 − level:
    its ends come from the same permutations.

    Args:
        response: [N].
        attribute: [N], finite.
        basis: orthonormal columns that hold the constant and the covariates, [N, q].
        patient: patient of each row, [N]; None: one row each. Residuals exchange as ``permutation.exchanges`` says.
        alike: kind of the patient, [N]; only patients of one kind exchange.
        degrees_of_freedom: for what could have been detected.
        level: coverage of the interval, a fraction.
        permutations: how many.
        seed: of the permutations.

    >>> attribute = np.arange(40) % 2
    >>> response = 0.8 * attribute + np.arange(40) * 7 % 40 / 20
    >>> found = permuted_effect(response, attribute, np.full((40, 1), 40**-0.5), degrees_of_freedom=19)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2), found.p < 0.001
    (0.85, 0.47, 1.24, True)
    """
    outcome = np.asarray(response, dtype=np.float64)
    moved = np.asarray(attribute, dtype=np.float64)
    rows = len(outcome)
    owner = np.arange(rows) if patient is None else np.unique(np.asarray(patient), return_inverse=True)[1]
    own, tied = _residual(outcome, basis), _residual(moved, basis)
    size = float(tied @ tied)
    if size <= 1e-9 * float(((moved - moved.mean()) ** 2).sum()):
        return PermutedEffect(None, reason="attribute and covariates say the same")
    leverage = (basis**2).sum(axis=1) + tied**2 / size
    # A row that nothing but its own column describes has no residual.
    weight = np.divide(tied, np.sqrt(np.maximum(1 - leverage, 0)), out=np.zeros(rows), where=1 - leverage > 1e-9)
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner)
    parts = _Parts(basis, tied, weight, order, np.cumsum(sizes) - sizes, bool((sizes > 1).any()))
    left = own - tied * (own @ tied) / size
    value = float(own @ tied) / size
    spread = _spread(parts, left[None])[0]
    if spread**0.5 <= 1e-9 * float(np.ptp(outcome)) * float(np.abs(weight).sum()):
        return PermutedEffect(None, reason="attribute and covariates say all of it: there is no standard error")
    error = float(spread**0.5) / size
    drawn = [
        _of_draws(parts, own[places], tied[places])
        for places in exchanges(owner, np.zeros(rows) if alike is None else alike, permutations, seed)
    ]
    law = _Law(*map(np.concatenate, zip(*drawn, strict=True)))
    statistic = value / error
    nothing = np.zeros(1)
    p = float(law.p(nothing, np.array([statistic]))[0])
    critical = float(np.quantile(np.abs(law.statistic(nothing)), level))
    detectable = (critical + float(t(degrees_of_freedom).ppf(POWER))) * error
    low, high = (law.end(value, error, side, 1 - level) for side in (-1, 1))
    return PermutedEffect(
        value,
        low,
        high,
        detectable if np.isfinite(detectable) else None,
        p,
        degrees_of_freedom,
        reason=None if low is not None and high is not None else "too few permutations differ for an interval",
        statistic=statistic,
        permutations=permutations,
    )


def _residual(values: Values, basis: Values) -> Values:
    """What ``basis`` leaves of values [N] or [B, N]."""
    return np.asarray(values - (values @ basis) @ basis.T)


@dataclass(frozen=True)
class _Parts:
    """What all permutations share: the attribute's residual, its weight in the spread, and rows by patient."""

    basis: Values
    tied: Values
    weight: Values
    order: Positions
    starts: Positions
    clustered: bool


def _weighted(parts: _Parts, residuals: Values) -> Values:
    """Residuals [B, N] by their weight, summed within patients where there are several rows."""
    weighted = residuals * parts.weight
    return np.add.reduceat(weighted[:, parts.order], parts.starts, axis=1) if parts.clustered else weighted


def _spread(parts: _Parts, residuals: Values) -> Values:
    return np.asarray((_weighted(parts, residuals) ** 2).sum(axis=1))


def _of_draws(parts: _Parts, own: Values, tied: Values) -> tuple[Values, ...]:
    """Of permuted residuals of response and attribute [B, N]: two numerators and the three terms of the spread."""
    size = float(parts.tied @ parts.tied)
    above, across = own @ parts.tied, tied @ parts.tied
    mine = _weighted(parts, _residual(own, parts.basis) - np.outer(above / size, parts.tied))
    other = _weighted(parts, _residual(tied, parts.basis) - np.outer(across / size, parts.tied))
    return above, across, (mine**2).sum(axis=1), (mine * other).sum(axis=1), (other**2).sum(axis=1)


@dataclass(frozen=True)
class _Law:
    """The statistic of every permutation, [B], as a function of the value that is tested."""

    above: Values
    across: Values
    own: Values
    both: Values
    other: Values

    def statistic(self, tested: Values) -> Values:
        """Of ``response − tested · attribute`` for each value [H], [H, B]; as far out as can be without spread."""
        value = tested[:, None]
        above = self.above - value * self.across
        spread = np.maximum(self.own - 2 * value * self.both + value**2 * self.other, 0)
        none = spread <= 1e-24 * (self.own + value**2 * self.other)
        extreme = np.where(above == 0, 0.0, np.copysign(np.inf, above))
        return np.divide(above, np.sqrt(spread), out=extreme, where=~none)

    def p(self, tested: Values, observed: Values) -> Values:
        """Two-sided, [H]; the data count as one permutation."""
        # A draw that is the data itself must count, whatever rounding does to it.
        extreme = np.abs(self.statistic(tested)) >= np.abs(observed)[:, None] * (1 - 1e-9)
        return np.asarray((1 + extreme.sum(axis=1)) / (1 + len(self.own)))

    def end(self, value: float, error: float, side: int, alpha: float) -> float | None:
        """The value farthest to one side that is not rejected; None where none is within reach."""

        def accepted(steps: Values) -> Mask:
            return self.p(value + side * steps * error, steps) > alpha

        # Close together near the estimate, where the end nearly always lies.
        grid = FARTHEST ** np.linspace(0, 1, GRID) - 1
        kept = np.flatnonzero(accepted(grid))
        if not len(kept) or kept[-1] == GRID - 1:
            return None
        near, far = float(grid[kept[-1]]), float(grid[kept[-1] + 1])
        for _ in range(30):
            middle = (near + far) / 2
            near, far = (middle, far) if accepted(np.array([middle]))[0] else (near, middle)
        return value + side * near * error
