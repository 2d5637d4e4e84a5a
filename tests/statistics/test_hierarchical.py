"""The mean difference over tasks against integration by brute force, its limits, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evalfm.statistics.hierarchical import ROPE, SCALES, mean_difference

X, S = np.array([0.03, 0.0, 0.05, 0.02]), np.array([0.012, 0.02, 0.015, 0.01])


def by_brute_force(x: np.ndarray, s: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of δ₀ and their posterior weights, integrating τ over a fine grid of its own."""
    means, taus = (
        np.linspace(-0.4, 0.4, 2001),
        np.concatenate([np.linspace(1e-5, 0.5, 4000), np.linspace(0.51, 5, 450)]),
    )
    prior = stats.halfcauchy(scale=scale).pdf(taus) * np.gradient(taus)
    logs = np.zeros((len(taus), len(means)))
    for value, error in zip(x, s, strict=True):
        logs += stats.norm.logpdf(value, means[None, :], np.sqrt(error**2 + taus[:, None] ** 2))
    posterior = (np.exp(logs - logs.max()) * prior[:, None]).sum(axis=0)
    return means, posterior / posterior.sum()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shift", [0.0, -0.06])
def test_it_is_the_integral_over_both_unknowns(scale: float, shift: float) -> None:
    found = mean_difference(X + shift, S, scale=scale)
    means, weight = by_brute_force(X + shift, S, scale)
    assert found.mean == pytest.approx(means @ weight, abs=3e-4)
    below = np.cumsum(weight)
    for value, at in ((found.low, 0.025), (found.high, 0.975)):
        assert np.interp(value, means, below) == pytest.approx(at, abs=3e-3)
    assert found.better == pytest.approx(weight[means > ROPE].sum(), abs=0.01)
    assert found.worse == pytest.approx(weight[means < -ROPE].sum(), abs=0.01)
    assert found.worse + found.equal + found.better == pytest.approx(1)


def test_tasks_that_cannot_differ_are_pooled_by_their_precision() -> None:
    found = mean_difference(X, S, scale=1e-9)
    precision = 1 / S**2
    mean, error = precision @ X / precision.sum(), precision.sum() ** -0.5
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == (pytest.approx(mean - 1.959964 * error), pytest.approx(mean + 1.959964 * error))


def test_turning_every_difference_turns_the_answer() -> None:
    one, other = mean_difference(X, S), mean_difference(-X, S)
    assert (one.mean, one.low, one.high) == (
        pytest.approx(-other.mean),
        pytest.approx(-other.high),
        pytest.approx(-other.low),
    )
    assert (one.better, one.worse) == (pytest.approx(other.worse), pytest.approx(other.better))


def test_larger_errors_and_wider_priors_make_it_less_sure() -> None:
    near, far = mean_difference(X, S), mean_difference(X, 2 * S)
    assert far.high - far.low > near.high - near.low
    wide = mean_difference(X, S, scale=SCALES[1])
    assert wide.high - wide.low > near.high - near.low
    assert wide.spread > near.spread


def test_what_is_no_pair_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="two tasks"):
        mean_difference([0.1], [0.1])
    with pytest.raises(ValueError, match="positive"):
        mean_difference([0.1, 0.2], [0.1, 0.0])
    with pytest.raises(ValueError, match="finite"):
        mean_difference([0.1, np.nan], [0.1, 0.1])


@pytest.mark.parametrize(
    ("tasks", "spread", "scale"), [(5, 0.02, SCALES[0]), (11, 0.02, SCALES[0]), (5, 0.05, SCALES[1])]
)
def test_the_interval_covers_the_mean_over_tasks(tasks: int, spread: float, scale: float) -> None:
    generator, studies, inside = np.random.default_rng(tasks), 200, 0
    for _ in range(studies):
        s = generator.uniform(0.008, 0.03, tasks)
        x = generator.normal(0.01, np.hypot(s, spread))
        found = mean_difference(x, s, scale=scale)
        inside += found.low <= 0.01 <= found.high
    assert inside >= stats.binom.ppf(0.001, studies, 0.93)
