"""Agreement against scipy, scikit-learn and rows repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from evalfm.statistics import agreement as a


def pair(n=50, seed=0):
    generator = np.random.default_rng(seed)
    target = np.round(generator.normal(size=n) + 0.48, 1)
    return target, np.round(0.8 * target + generator.normal(size=n) * 0.3 + 0.1, 1)


def test_formulas_equal_references():
    target, prediction = pair()
    sums = a.moment_columns(target, prediction).sum(axis=0)
    assert a.mean_absolute_error(sums) == pytest.approx(metrics.mean_absolute_error(target, prediction))
    assert a.root_mean_square_error(sums) == pytest.approx(metrics.root_mean_squared_error(target, prediction))
    assert a.r_squared(sums) == pytest.approx(metrics.r2_score(target, prediction))
    assert a.pearson(sums) == pytest.approx(stats.pearsonr(target, prediction).statistic)
    covariance = np.cov(target, prediction, ddof=0)
    lin = 2 * covariance[0, 1] / (covariance.trace() + (target.mean() - prediction.mean()) ** 2)
    assert a.concordance(sums) == pytest.approx(lin)
    gap = prediction - target
    assert a.bias(sums) == pytest.approx(gap.mean())
    assert a.lower_limit(sums) == pytest.approx(gap.mean() - 1.96 * gap.std(ddof=1))
    assert a.upper_limit(sums) == pytest.approx(gap.mean() + 1.96 * gap.std(ddof=1))


def test_formulas_on_counts_are_those_of_rows_repeated():
    target, prediction = pair()
    columns = a.moment_columns(target, prediction)
    weights = np.random.default_rng(0).integers(0, 4, 50)
    formulas = (
        a.mean_absolute_error,
        a.root_mean_square_error,
        a.r_squared,
        a.pearson,
        a.concordance,
        a.lower_limit,
    )
    repeated = a.moment_columns(np.repeat(target, weights), np.repeat(prediction, weights)).sum(axis=0)
    for formula in formulas:
        assert formula(weights @ columns) == pytest.approx(formula(repeated), rel=1e-10)


def test_a_large_offset_loses_no_digits():
    target, prediction = pair()
    near = a.moment_columns(target, prediction).sum(axis=0)
    far = a.moment_columns(target + 1e6, prediction + 1e6).sum(axis=0)
    for formula in (a.r_squared, a.pearson, a.concordance):
        assert formula(far) == pytest.approx(formula(near), rel=1e-7)


def test_constant_sides_have_no_correlation():
    flat = np.full(5, 0.3)
    rising = np.arange(5.0)
    sums = a.moment_columns(rising, flat).sum(axis=0)
    assert np.isnan(a.pearson(sums))
    assert a.concordance(sums) == pytest.approx(0.0)
    sums = a.moment_columns(flat, rising).sum(axis=0)
    assert np.isnan(a.r_squared(sums))
    assert np.isnan(a.concordance(a.moment_columns(flat, flat).sum(axis=0)))
    assert np.isnan(a.spearman(rising, flat)[0])
    assert np.isnan(a.lower_limit(a.moment_columns([1.0], [2.0]).sum(axis=0)))


def test_spearman_equals_scipy_with_ties():
    target, prediction = pair()
    assert a.spearman(target, prediction)[0] == pytest.approx(stats.spearmanr(target, prediction).statistic)


def test_weighted_spearman_is_that_of_rows_repeated():
    target, prediction = pair()
    weights = np.random.default_rng(0).integers(0, 4, (10, 50))
    expected = [stats.spearmanr(np.repeat(target, w), np.repeat(prediction, w)).statistic for w in weights]
    np.testing.assert_allclose(a.spearman(target, prediction, weights.astype(float)), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_concordance_never_exceeds_pearson_and_spearman_follows_order(rows):
    target, prediction = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    sums = a.moment_columns(target, prediction).sum(axis=0)
    if np.ptp(target) and np.ptp(prediction):
        assert abs(a.concordance(sums)) <= abs(a.pearson(sums)) + 1e-12
        rank = a.spearman(target, prediction)[0]
        assert a.spearman(np.exp(target), prediction**3)[0] == pytest.approx(rank, abs=1e-12)
        assert a.spearman(-target, prediction)[0] == pytest.approx(-rank, abs=1e-12)
