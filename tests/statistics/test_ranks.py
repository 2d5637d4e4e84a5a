"""Rank sets against brute force and the studentized range, Friedman and Nemenyi against scipy and R, Kendall's τ."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from evalfm.statistics.comparison import Difference
from evalfm.statistics.ranks import (
    critical_p,
    friedman,
    kendall,
    negated,
    rank_sets,
    significantly_worse,
    task_ranks,
)


def differences(estimates: np.ndarray, covariance: np.ndarray, freedom: float | None = None) -> list[Difference]:
    found = []
    for one, other in combinations(range(len(estimates)), 2):
        error = float(covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]) ** 0.5
        value = float(estimates[one] - estimates[other])
        law = stats.norm() if freedom is None else stats.t(freedom)
        reach, p = law.isf(0.025) * error, 2 * law.sf(abs(value) / error)
        found.append(Difference(value, error, value - reach, value + reach, float(p), freedom, 100, "z"))
    return found


def errors(covariance: np.ndarray) -> list[float]:
    return [each.standard_error for each in differences(np.zeros(len(covariance)), covariance)]


def random_covariance(models: int, seed: int) -> np.ndarray:
    mixed = np.random.default_rng(seed).normal(size=(models, models))
    return np.asarray(mixed @ mixed.T + 0.3 * np.eye(models))


@pytest.mark.parametrize("models", [3, 5, 10])
def test_for_independent_equal_models_it_is_tukeys(models: int) -> None:
    reference = 2 * stats.norm.sf(stats.studentized_range(models, np.inf).ppf(0.95) / 2**0.5)
    assert critical_p(errors(np.eye(models))) == pytest.approx(reference, rel=0.04)


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_law_of_pairs_is_had_from_their_variances_alone(seed: int) -> None:
    covariance = random_covariance(6, seed)
    drawn = np.random.default_rng(100 + seed).multivariate_normal(np.zeros(6), covariance, size=100_000)
    sizes = errors(covariance)
    largest = np.max(
        [np.abs(drawn[:, i] - drawn[:, j]) / sizes[k] for k, (i, j) in enumerate(combinations(range(6), 2))], axis=0
    )
    assert critical_p(sizes) == pytest.approx(2 * stats.norm.sf(np.quantile(largest, 0.95)), rel=0.05)


def test_two_models_need_no_correction_and_the_same_call_gives_the_same() -> None:
    assert critical_p([0.3]) == 0.05
    assert critical_p([0.3], level=0.9) == 0.1
    sizes = errors(random_covariance(5, 1))
    assert critical_p(sizes) == critical_p(sizes)
    with pytest.raises(ValueError, match="4 are not all pairs"):
        critical_p([1.0] * 4)


def test_strong_correlation_costs_less_than_bonferroni_and_pairs_that_never_differ_nothing() -> None:
    # Three copies of two models: the nine pairs between them are one difference.
    sizes = [0.0 if (one < 3) == (other < 3) else 0.2 for one, other in combinations(range(6), 2)]
    assert critical_p(sizes) == pytest.approx(0.05, abs=0.003)


def test_the_sets_count_who_is_better_and_who_is_worse() -> None:
    estimates = np.array([0.9, 0.7, 0.89, 0.5])
    found = differences(estimates, 1e-4 * np.eye(4))
    assert rank_sets(found) == [(1, 2), (3, 3), (1, 2), (4, 4)]
    assert rank_sets(found, lower_is_better=True) == [(3, 4), (2, 2), (3, 4), (1, 1)]
    assert rank_sets([]) == [(1, 1)]


def test_pairs_without_a_p_separate_nobody() -> None:
    never = Difference(0.2, 0.0, None, None, None, None, 100, "z", "the same in every patient")
    assert rank_sets([never]) == [(1, 2), (1, 2)]


def test_the_own_law_of_a_pair_counts() -> None:
    # |t| = 2.5 is p .012 by z and .067 by t with 4 degrees of freedom.
    assert rank_sets(differences(np.array([2.5, 0.0]), np.eye(2) / 2)) == [(1, 1), (2, 2)]
    assert rank_sets(differences(np.array([2.5, 0.0]), np.eye(2) / 2, freedom=4)) == [(1, 2), (1, 2)]


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_equal_models_are_told_apart_in_one_study_of_twenty(correlation: float) -> None:
    generator, studies, models = np.random.default_rng(5), 400, 6
    covariance = (1 - correlation) * np.eye(models) + correlation
    wrong = 0
    for estimates in generator.multivariate_normal(np.zeros(models), covariance, size=studies):
        wrong += any(each != (1, models) for each in rank_sets(differences(estimates, covariance), draws=20_000))
    # Binomial limits at 1e-3 about .05.
    assert stats.binom.ppf(0.001, studies, 0.05) <= wrong <= stats.binom.ppf(0.999, studies, 0.05)


def test_ten_models_near_each_other_have_their_true_ranks_in_the_sets() -> None:
    generator, studies = np.random.default_rng(6), 200
    true = 0.85 - 0.002 * np.arange(10)
    covariance = 0.02**2 * (0.4 * np.eye(10) + 0.6)
    best, every = 0, 0
    for estimates in generator.multivariate_normal(true, covariance, size=studies):
        sets = rank_sets(differences(estimates, covariance), draws=20_000)
        inside = [low <= rank <= high for rank, (low, high) in enumerate(sets, start=1)]
        best, every = best + inside[0], every + all(inside)
    assert best >= every >= stats.binom.ppf(0.001, studies, 0.95)


def test_only_a_worse_one_is_significantly_worse() -> None:
    below = Difference(-0.1, 0.02, -0.14, -0.06, 1e-6, None, 100, "z")
    assert significantly_worse(below, 0.01)
    assert not significantly_worse(negated(below), 0.01)
    assert significantly_worse(negated(below), 0.01, lower_is_better=True)
    assert not significantly_worse(below, 0.01, lower_is_better=True)
    assert not significantly_worse(below, 0.05)
    assert not significantly_worse(below, None)


def test_the_other_way_round_is_the_other_way_round() -> None:
    one = differences(np.array([0.3, 0.1]), 0.01 * np.eye(2))[0]
    other = differences(np.array([0.1, 0.3]), 0.01 * np.eye(2))[0]
    assert negated(one) == replace(other, p=one.p, low=pytest.approx(other.low), high=pytest.approx(other.high))
    assert negated(negated(one)) == one


def tables() -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    plain = generator.normal(size=(8, 4)) + np.array([0.6, 0.2, 0.0, -0.5])
    return [plain, np.round(plain, 0), generator.normal(size=(5, 3))]


@pytest.mark.parametrize("scores", tables())
def test_friedman_is_scipys(scores: np.ndarray) -> None:
    found, reference = friedman(scores), stats.friedmanchisquare(*scores.T)
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.degrees_of_freedom == scores.shape[1] - 1


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
@pytest.mark.parametrize("scores", tables()[:2])
def test_friedman_is_rs(scores: np.ndarray) -> None:
    values = ",".join(map(str, scores.ravel()))
    code = f"r <- friedman.test(matrix(c({values}), nrow={len(scores)}, byrow=TRUE)); cat(r$statistic, r$p.value)"
    said = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout.split()
    found = friedman(scores)
    assert (found.statistic, found.p) == (
        pytest.approx(float(said[0]), rel=1e-5),
        pytest.approx(float(said[1]), rel=1e-4),
    )


def test_nemenyi_is_that_of_the_tables_and_its_p_crosses_five_percent_there() -> None:
    # Demšar (2006): q of four classifiers 2.569, of fourteen tasks CD = 2.569 √(4 · 5 / (6 · 14)) = 1.25.
    generator = np.random.default_rng(8)
    scores = generator.normal(size=(14, 4)) + np.array([0.8, 0.3, 0.0, -0.4])
    found = friedman(scores)
    assert found.critical_difference == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)
    ranks = task_ranks(scores).mean(axis=0)
    for one, other in combinations(range(4), 2):
        assert (found.pairs[one, other] < 0.05) == (abs(ranks[one] - ranks[other]) > found.critical_difference)
        # scikit-posthocs: q = |difference| / √(k (k + 1) / (6 n)), p of q √2 by the studentized range.
        q = abs(ranks[one] - ranks[other]) / (4 * 5 / (6 * 14)) ** 0.5
        assert found.pairs[one, other] == pytest.approx(stats.studentized_range(4, np.inf).sf(q * 2**0.5), abs=1e-9)
    assert np.array_equal(found.pairs, found.pairs.T)


def test_friedman_needs_five_tasks_three_models_and_an_order() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match="needs 5 tasks and three models; there are 4 and 3"):
        friedman(scores[:4])
    with pytest.raises(ValueError, match="there are 5 and 2"):
        friedman(scores[:, :2])
    with pytest.raises(ValueError, match="alike"):
        friedman(np.ones((5, 3)))


@pytest.mark.parametrize("make", [lambda r: r.normal(size=9), lambda r: r.integers(0, 4, 9).astype(float)])
def test_tau_is_the_share_of_pairs_in_one_order(make: Callable[[np.random.Generator], np.ndarray]) -> None:
    generator = np.random.default_rng(3)
    first, second = make(generator), make(generator)
    signs = [
        (np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in combinations(range(len(first)), 2)
    ]
    products = sum(a * b for a, b in signs)
    untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    assert kendall(first, second).tau == pytest.approx(products / untied**0.5)


def test_tau_has_an_interval_from_five_on_that_is_open_to_one_where_orders_agree() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]).low is None
    whole = kendall(np.arange(5), np.arange(5))
    assert (whole.tau, whole.high) == (1.0, 1.0)
    assert whole.low == pytest.approx(np.tanh(np.arctanh(0.9) - 1.959964 * 0.437**0.5), abs=1e-6)
    turned = kendall(np.arange(5), -np.arange(5))
    assert (turned.tau, turned.low, turned.high) == (-1.0, -1.0, pytest.approx(-whole.low))
    assert whole.approximate
    assert turned.approximate
    assert not kendall(np.arange(6), [1, 0, 3, 2, 5, 4]).approximate
    with pytest.raises(ValueError, match="ties only"):
        kendall([1, 1, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="two models"):
        kendall([1], [1])


@pytest.mark.parametrize(("models", "correlation"), [(6, 0.0), (12, 0.7)])
def test_the_interval_of_tau_covers(models: int, correlation: float) -> None:
    generator, studies = np.random.default_rng(9), 400
    true, inside = 2 / np.pi * np.arcsin(correlation), 0
    for _ in range(studies):
        one = generator.normal(size=models)
        other = correlation * one + (1 - correlation**2) ** 0.5 * generator.normal(size=models)
        found = kendall(one, other)
        inside += found.low <= true <= found.high
    assert inside >= stats.binom.ppf(0.001, studies, 0.95)
