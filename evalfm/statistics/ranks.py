"""Ranks of several models: sets that hold the true rank, average ranks over tasks, and how far two orders agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.comparison import Difference
from evalfm.statistics.resampling import Values, blocks

DRAWS = 100_000
"""Of the joint normal; the level that is reached then has a standard error of .0007."""
FEWEST_TASKS = 5
"""From so many tasks on Friedman and Nemenyi are given."""
CLOSE = 0.6
"""Beyond so large a τ its interval is marked approximate."""
FEWEST_RANKED = 5
"""From so many models on Kendall's τ has an interval."""


def significantly_worse(
    difference: Difference, p: float | None, *, lower_is_better: bool = False, alpha: float = 0.05
) -> bool:
    """Whether the first is worse than the second: its corrected ``p`` is below ``alpha`` and it lies on the worse side.

    >>> better = Difference(0.1, 0.01, 0.08, 0.12, 1e-9, None, 100, "z")
    >>> significantly_worse(better, 1e-9), significantly_worse(better, 1e-9, lower_is_better=True)
    (False, True)
    """
    worse = difference.value > 0 if lower_is_better else difference.value < 0
    return p is not None and p < alpha and worse


def negated(difference: Difference) -> Difference:
    """Second minus first.

    >>> found = negated(Difference(0.1, 0.01, 0.08, 0.12, 1e-9, None, 100, "z"))
    >>> found.value, found.low, found.high, found.p
    (-0.1, -0.12, -0.08, 1e-09)
    """
    low, high = difference.low, difference.high
    return replace(
        difference, value=-difference.value, low=None if high is None else -high, high=None if low is None else -low
    )


def critical_p(standard_errors: ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> float:
    """Below which the smallest p over all pairs of K models falls in 1 − ``level`` of studies where all are equal.

    The differences are drawn from their joint normal (max-|t|). Its covariance follows from the variances D of the
    pairs alone: cov(d_ij, d_kl) = (D_il + D_jk − D_ik − D_jl) / 2. What is held against the result is each pair's p by
    its own law, so that pairs may have t with different degrees of freedom. For two models it is 1 − ``level``.

    Args:
        standard_errors: of the differences of all pairs, in the order of ``itertools.combinations``, [K(K − 1) / 2];
            pairs of 0 never differ and are left out.
        level: simultaneous over the pairs, a fraction.
        draws, seed: of the joint normal; the same give the same result.

    Raises:
        ValueError: the number of pairs is not K(K − 1) / 2 of any K.

    >>> critical_p([0.01]), round(critical_p([0.01, 0.01, 0.01]), 2)
    (0.05, 0.02)
    """
    errors = np.asarray(standard_errors, dtype=np.float64)
    models, pairs = _models(len(errors)), errors > 0
    if pairs.sum() < 2:
        return round(1 - level, 12)
    first, second = np.array(list(combinations(range(models), 2))).T
    squared = np.zeros((models, models))
    squared[first, second] = squared[second, first] = errors**2
    # Of the differences to the first model; every other pair is a difference of two of these.
    against = (squared[1:, :1] + squared[:1, 1:] - squared[1:, 1:]) / 2
    eigenvalues, vectors = np.linalg.eigh(against)
    root = np.vstack([np.zeros(models - 1), vectors * np.sqrt(np.maximum(eigenvalues, 0.0))])
    contrast = (root[first] - root[second])[pairs]
    # Where the variances belong to no joint law, clipped eigenvalues change them a little: scaled by what was drawn.
    sizes = np.sqrt((contrast**2).sum(axis=1))
    contrast = contrast[sizes > 0] / sizes[sizes > 0, None]
    generator, largest = np.random.default_rng(seed), np.empty(draws)
    for start, stop in blocks(draws, len(contrast)):
        drawn = generator.normal(size=(stop - start, models - 1))
        largest[start:stop] = np.abs(drawn @ contrast.T).max(axis=1)
    return float(2 * stats.norm.sf(np.quantile(largest, level)))


def rank_sets(
    differences: Sequence[Difference],
    *,
    lower_is_better: bool = False,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[tuple[int, int]]:
    """Sets of ranks that hold the true ones of all K models at once (Mogstad, Romano, Shaikh and Wilhelm 2024).

    Model j's set reaches from 1 + the number of models that are significantly better to K − the number of those that
    are significantly worse, by the pairs whose p is below ``critical_p``. Ties in truth may have any rank of theirs.
    Conservative by nature: the sets of near-equal models hold the true rank in nearly every study.

    Args:
        differences: first minus second of all pairs in the order of ``itertools.combinations``.
        lower_is_better: for errors.
        level: simultaneous over the models, a fraction.
        draws, seed: as of ``critical_p``.

    >>> far = Difference(0.2, 0.01, 0.18, 0.22, 1e-40, None, 100, "z")
    >>> near = Difference(0.005, 0.01, -0.015, 0.025, 0.62, None, 100, "z")
    >>> rank_sets([near, far, far])
    [(1, 2), (1, 2), (3, 3)]
    """
    models = _models(len(differences))
    at = critical_p([each.standard_error for each in differences], level=level, draws=draws, seed=seed)
    low, high = [1] * models, [models] * models
    for (first, second), each in zip(combinations(range(models), 2), differences, strict=True):
        if each.p is None or each.p >= at:
            continue
        better, worse = (first, second) if (each.value < 0) == lower_is_better else (second, first)
        low[worse] += 1
        high[better] -= 1
    return list(zip(low, high, strict=True))


def _models(pairs: int) -> int:
    models = (1 + isqrt(1 + 8 * pairs)) // 2
    if models * (models - 1) // 2 != pairs:
        raise ValueError(f"{pairs} are not all pairs of any number of models")
    return models


@dataclass(frozen=True)
class Friedman:
    """Friedman's (1937) test that all models rank alike over tasks, with Nemenyi's (1963) test of pairs.

    Attributes:
        statistic: χ² with ties corrected, and its degrees of freedom.
        p: by χ².
        critical_difference: between average ranks, of Nemenyi's test at the 5 % level.
        pairs: p of each pair, [K, K], 1 on the diagonal.
    """

    statistic: float
    degrees_of_freedom: int
    p: float
    critical_difference: float
    pairs: Values


def task_ranks(scores: ArrayLike) -> Values:
    """Rank of each model in each task, 1 the best, ties shared, of ``scores`` [T, K] of which higher is better.

    >>> task_ranks([[0.9, 0.8, 0.7], [0.5, 0.5, 0.9]]).tolist()
    [[1.0, 2.0, 3.0], [2.5, 2.5, 1.0]]
    """
    return np.asarray(stats.rankdata(-np.asarray(scores, dtype=np.float64), axis=1), dtype=np.float64)


def friedman(scores: ArrayLike) -> Friedman:
    """Friedman's and Nemenyi's tests of ``scores`` [T, K] of K models on T tasks, of which higher is better.

    The tasks are the sample: folds of one data set are not, and must not be given as tasks.

    Raises:
        ValueError: fewer than five tasks or three models, or every task ranks all models alike.

    >>> scores = [[0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [0.9, 0.7, 0.8], [0.7, 0.6, 0.5], [0.8, 0.6, 0.5]]
    >>> found = friedman(scores)
    >>> round(found.statistic, 1), round(found.p, 3), round(found.critical_difference, 2)
    (8.4, 0.015, 1.48)
    """
    ranks = task_ranks(scores)
    tasks, models = ranks.shape
    if tasks < FEWEST_TASKS or models < 3:
        raise ValueError(f"Friedman's test needs {FEWEST_TASKS} tasks and three models; there are {tasks} and {models}")
    spread = ((ranks - (models + 1) / 2) ** 2).sum()
    if spread == 0:
        raise ValueError("every task ranks all models alike")
    sums = ranks.sum(axis=0) - tasks * (models + 1) / 2
    # The sum of squared ranks about their mean is T K (K + 1) (K − 1) / 12 without ties.
    statistic = float((models - 1) * (sums**2).sum() / spread)
    unit = (models * (models + 1) / (6 * tasks)) ** 0.5
    law = stats.studentized_range(models, np.inf)
    gaps = np.abs(ranks.mean(axis=0)[:, None] - ranks.mean(axis=0)[None, :]) / unit
    pairs = np.ones((models, models))
    for first, second in combinations(range(models), 2):
        pairs[first, second] = pairs[second, first] = law.sf(gaps[first, second] * 2**0.5)
    critical = float(law.ppf(0.95)) / 2**0.5 * unit
    return Friedman(statistic, models - 1, float(stats.chi2.sf(statistic, models - 1)), critical, np.clip(pairs, 0, 1))


@dataclass(frozen=True)
class Agreement:
    """Kendall's τ-b of two orders of ``n`` models; ``low`` and ``high`` are its 95 % interval, None below five."""

    tau: float
    low: float | None
    high: float | None
    n: int

    @property
    def approximate(self) -> bool:
        """Whether coverage was not shown: orders that agree closely have .87 to .90 at eight and twelve models."""
        return self.low is not None and abs(self.tau) > CLOSE


def kendall(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> Agreement:
    """How far ``first`` and ``second`` [K], scores of the same models, put them into one order.

    From five models on with an interval: atanh τ has the variance .437 / (K − 4) (Fieller, Hartley and Pearson 1957),
    the models being a sample. Where the orders agree wholly, τ is taken half a pair inside for the open end.

    Raises:
        ValueError: fewer than two models, or an order has ties only.

    >>> kendall([1, 2, 3, 4], [1, 3, 2, 4]).low is None
    True
    >>> found = kendall([1, 2, 3, 4, 5, 6, 7, 8], [1, 3, 2, 4, 6, 5, 8, 7])
    >>> round(found.tau, 3), round(found.low, 3), round(found.high, 3)
    (0.786, 0.39, 0.936)
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    count = len(one)
    if count < 2:
        raise ValueError("an order needs two models at least")
    tau = round(float(stats.kendalltau(one, other).statistic), 12)
    if not np.isfinite(tau):
        raise ValueError("an order has ties only")
    if count < FEWEST_RANKED:
        return Agreement(tau, None, None, count)
    inside = 1 - 2 / (count * (count - 1))
    reach = float(stats.norm.isf((1 - level) / 2)) * (0.437 / (count - 4)) ** 0.5
    centre = np.arctanh(np.clip(tau, -inside, inside))
    low, high = np.tanh(centre - reach), np.tanh(centre + reach)
    return Agreement(tau, -1.0 if tau == -1 else float(low), 1.0 if tau == 1 else float(high), count)
