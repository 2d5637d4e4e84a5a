"""Permuted residuals against all permutations, statsmodels' HC2, and drawn studies where a sandwich fails."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import binom

from evalfm.statistics import permutation
from evalfm.statistics.covariates import adjustment_basis
from evalfm.statistics.freedman_lane import permuted_effect


def drawn(rows: int, members: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=rows)
    member = np.zeros(rows)
    member[np.argsort(-x - generator.gumbel(size=rows))[:members]] = 1
    return 0.5 * x + generator.normal(size=rows), member, x


def by_hc2(response: np.ndarray, member: np.ndarray, basis: np.ndarray) -> tuple[float, float]:
    fitted = sm.OLS(response, np.column_stack([member, basis])).fit(cov_type="HC2")
    return float(fitted.params[0]), float(fitted.bse[0])


def test_value_and_statistic_are_those_of_least_squares_with_hc2() -> None:
    response, member, x = drawn(60, 15)
    basis = adjustment_basis([x], 60)
    found = permuted_effect(response, member, basis, degrees_of_freedom=14, permutations=19)
    value, error = by_hc2(response, member, basis)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.statistic == pytest.approx(value / error, rel=1e-9)


def test_p_is_the_share_of_all_permutations_of_residuals() -> None:
    response, member, x = drawn(7, 3, seed=3)
    basis = np.linalg.qr(np.column_stack([np.ones(7), x]))[0]
    left = response - basis @ (basis.T @ response)
    observed = abs(np.divide(*by_hc2(response, member, basis)))
    every = np.array([abs(np.divide(*by_hc2(left[list(order)], member, basis))) for order in permutations(range(7))])
    exact = np.mean(every >= observed * (1 - 1e-9))
    found = permuted_effect(response, member, basis, degrees_of_freedom=2, permutations=20_000)
    assert 0.05 < exact < 0.95
    assert abs(found.p - exact) < 4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4


def test_the_interval_is_what_the_same_test_does_not_reject() -> None:
    response, member, x = drawn(50, 12, seed=1)
    basis = adjustment_basis([x], 50)

    def p(tested: float) -> float:
        moved = response - tested * member
        return permuted_effect(moved, member, basis, degrees_of_freedom=11, permutations=399, seed=4).p

    found = permuted_effect(response, member, basis, degrees_of_freedom=11, permutations=399, seed=4)
    step = 1e-3 * (found.high - found.low)
    assert p(found.low + step) > 0.05 >= p(found.low - step)
    assert p(found.high - step) > 0.05 >= p(found.high + step)
    assert found.low < found.value < found.high
    wider = permuted_effect(response, member, basis, degrees_of_freedom=11, permutations=399, seed=4, level=0.99)
    assert wider.low < found.low
    assert wider.high > found.high


def test_scale_shift_and_covariates_move_it_as_they_should() -> None:
    response, member, x = drawn(50, 12, seed=2)
    basis = adjustment_basis([x], 50)
    found = permuted_effect(response, member, basis, degrees_of_freedom=11, permutations=199)
    moved = permuted_effect(3 * response + 7 - 4 * x, member, basis, degrees_of_freedom=11, permutations=199)
    assert moved.p == found.p
    assert (moved.value, moved.low, moved.high) == pytest.approx((3 * found.value, 3 * found.low, 3 * found.high))
    turned = permuted_effect(-response, member, basis, degrees_of_freedom=11, permutations=199)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_rows_of_a_patient_are_summed_and_exchange_together() -> None:
    generator = np.random.default_rng(5)
    patient = np.repeat(np.arange(30), 2)
    member = generator.random(60) < 0.3
    response = generator.normal(size=30)[patient] + 0.2 * generator.normal(size=60)
    constant = np.full((60, 1), 60**-0.5)
    found = permuted_effect(response, member, constant, patient=patient, degrees_of_freedom=20, permutations=99)
    tied = member - member.mean()
    size = tied @ tied
    value = tied @ response / size
    left = response - response.mean() - tied * value
    weighted = tied * left / np.sqrt(1 - 1 / 60 - tied**2 / size)
    error = np.bincount(patient, weights=weighted) @ np.bincount(patient, weights=weighted)
    assert found.statistic == pytest.approx(value * size / error**0.5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    response, member, x = drawn(50, 12)
    basis = adjustment_basis([x], 50)
    whole = permuted_effect(response, member, basis, degrees_of_freedom=11, permutations=99)
    monkeypatch.setattr(permutation, "CELLS", 50 * 7)
    assert permuted_effect(response, member, basis, degrees_of_freedom=11, permutations=99) == whole


def test_what_has_no_test_has_its_reason() -> None:
    response, member, x = drawn(50, 12)
    both = adjustment_basis([x, member], 50)
    assert (
        permuted_effect(response, member, both, degrees_of_freedom=11).reason == "attribute and covariates say the same"
    )
    told = permuted_effect(0.1 + 0.2 * member, member, adjustment_basis([x], 50), degrees_of_freedom=11)
    assert told.reason == "attribute and covariates say all of it: there is no standard error"
    few = permuted_effect(response, member, adjustment_basis([x], 50), degrees_of_freedom=11, permutations=9)
    assert (few.low, few.high) == (None, None)
    assert few.reason == "too few permutations differ for an interval"
    assert few.p >= 0.1


def test_the_level_holds_for_ten_of_three_hundred_with_skew_and_the_interval_covers() -> None:
    """Where least squares with HC2 and t rejects too often."""
    studies, rejected, covered, naive = 200, 0, 0, 0
    constant = np.full((300, 1), 300**-0.5)
    member = np.arange(300) < 10
    for seed in range(studies):
        response = np.exp(1.5 * np.random.default_rng(seed).normal(size=300))
        found = permuted_effect(response + 0.8 * member, member, constant, degrees_of_freedom=9, permutations=199)
        shifted = permuted_effect(response, member, constant, degrees_of_freedom=9, permutations=199)
        rejected += shifted.p <= 0.05
        covered += found.low <= 0.8 <= found.high
        value, error = by_hc2(response, member.astype(float), constant)
        naive += abs(value / error) > 2.26
    assert rejected <= binom.isf(1e-4, studies, 0.05)
    assert covered >= binom.ppf(1e-4, studies, 0.95)
    assert naive > binom.isf(1e-4, studies, 0.05)
