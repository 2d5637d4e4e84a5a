"""Paired tests and corrections against scipy and statsmodels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evalfm.statistics.auroc import auroc, auroc_covariance
from evalfm.statistics.comparison import (
    benjamini_hochberg,
    compare_means,
    contrast_aurocs,
    contrast_by_deletion,
    holm,
    minimal_detectable_difference,
    non_inferiority,
    patient_means,
)

from .paired import compare_auroc


def two_scores(n=150, seed=0):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.4).astype(float)
    shared = generator.normal(size=n)
    first = shared + generator.normal(size=n) + 1.5 * target
    second = shared + generator.normal(size=n) + target
    return target, first, second, generator.integers(0, 60, n)


def test_auroc_difference_by_the_clustered_covariance():
    target, first, second, patient = two_scores()
    found = compare_auroc(target, first, second, patient)
    covariance = auroc_covariance(target, np.c_[first, second], patient).covariance
    error = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) ** 0.5
    assert found.value == pytest.approx(auroc(target, first) - auroc(target, second), abs=1e-14)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / error), rel=1e-10)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.959964 * error, found.value + 1.959964 * error), abs=1e-7
    )
    assert found.n == len(np.unique(patient))
    assert found.p != pytest.approx(compare_auroc(target, first, second).p, rel=1e-3)


def test_swapping_the_scores_turns_the_sign_alone():
    target, first, second, patient = two_scores()
    one, other = compare_auroc(target, first, second, patient), compare_auroc(target, second, first, patient)
    assert one.value == pytest.approx(-other.value, abs=1e-15)
    assert one.p == pytest.approx(other.p, abs=1e-12)
    assert one.low == pytest.approx(-other.high, abs=1e-12)


def test_a_score_and_its_monotone_image_do_not_differ():
    target, first, _, patient = two_scores()
    found = compare_auroc(target, first, np.exp(first), patient)
    assert (found.value, found.standard_error, found.p) == (0.0, 0.0, 1.0)


def test_perfect_against_perfectly_wrong_has_no_p():
    found = compare_auroc([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert found.value == 1.0
    assert found.p is None
    assert "standard error" in found.reason


def test_size_under_the_null_with_four_images_per_patient():
    # 300 studies without a difference; at size .05 more than 31 rejections have probability below 1e-4.
    generator = np.random.default_rng(11)
    target = np.repeat(np.r_[np.ones(40), np.zeros(80)], 4)
    patient = np.repeat(np.arange(120), 4)
    clustered, single = 0, 0
    for _ in range(300):
        first, second = (
            np.repeat(generator.normal(size=120), 4) + generator.normal(size=480) + target for _ in range(2)
        )
        clustered += compare_auroc(target, first, second, patient).p < 0.05
        single += compare_auroc(target, first, second).p < 0.05
    assert clustered <= stats.binom.ppf(1 - 1e-4, 300, 0.05)
    assert single > stats.binom.ppf(1 - 1e-4, 300, 0.05)


def test_means_equal_scipy_on_per_patient_means():
    _, first, second, patient = two_scores()
    found = compare_means(first, second, patient)
    means = [(first - second)[patient == p].mean() for p in np.unique(patient)]
    reference = stats.ttest_1samp(means, 0)
    assert found.value == pytest.approx(np.mean(means))
    assert found.p == pytest.approx(reference.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-10)
    assert found.degrees_of_freedom == len(means) - 1


def test_patient_means_stand_in_the_order_of_names():
    assert patient_means([1.0, 5.0, 3.0], ["b", "a", "b"]).tolist() == [5.0, 2.0]


def test_equal_values_do_not_differ_and_missing_ones_are_refused():
    found = compare_means([0.5, 0.7], [0.5, 0.7], ["a", "b"])
    assert (found.value, found.p) == (0.0, 1.0)
    with pytest.raises(ValueError, match="every row"):
        compare_means([0.5, np.nan], [0.5, 0.7], ["a", "b"])
    with pytest.raises(ValueError, match="two patients"):
        compare_means([0.5, 0.6], [0.5, 0.7], ["a", "a"])


def test_corrections_equal_statsmodels():
    p = np.random.default_rng(0).random(12) ** 3
    p[3] = p[5]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-14)
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], atol=1e-14)


def test_missing_p_values_are_not_counted_in_the_family():
    assert holm([0.01, np.nan, 0.04]).tolist() == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert benjamini_hochberg([np.nan, 0.04]).tolist() == pytest.approx([np.nan, 0.04], nan_ok=True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_minimal_detectable_difference():
    assert minimal_detectable_difference(0.01) == pytest.approx(0.01 * (1.959964 + 0.841621), abs=1e-7)
    assert minimal_detectable_difference(0.01, comparisons=45) == pytest.approx(
        0.01 * (stats.norm.isf(0.05 / 90) + stats.norm.ppf(0.8))
    )


def test_folds_compare_within_folds_only():
    target, first, second, patient = two_scores()
    folds = patient % 3
    found = compare_auroc(target, first, second, patient, folds=folds)
    shifted = compare_auroc(target, first + 100 * folds, second, patient, folds=folds)
    assert found.value == pytest.approx(shifted.value, abs=1e-12)
    assert found.value == pytest.approx(auroc(target, first, folds) - auroc(target, second, folds), abs=1e-12)


def test_contrasts_of_several_aurocs_come_from_one_covariance():
    target, first, second, patient = two_scores()
    third = first[::-1].copy()
    contrasts = [[1, -1, 0], [0.5, 0.5, -1]]
    found = contrast_aurocs(target, np.c_[first, second, third], contrasts, patient)
    assert found[0].value == pytest.approx(compare_auroc(target, first, second, patient).value)
    assert found[0].p == pytest.approx(compare_auroc(target, first, second, patient).p)
    covariance = auroc_covariance(target, np.c_[first, second, third], patient).covariance
    weights = np.array(contrasts[1])
    assert found[1].standard_error == pytest.approx((weights @ covariance @ weights) ** 0.5)
    expected = (auroc(target, first) + auroc(target, second)) / 2 - auroc(target, third)
    assert found[1].value == pytest.approx(expected)


def test_non_inferiority_is_the_lower_bound_above_the_margin():
    target, first, second, patient = two_scores()
    found = compare_auroc(target, second, first, patient)
    lower = found.value - stats.norm.ppf(0.975) * found.standard_error
    assert non_inferiority(found, -lower) == pytest.approx(0.025, rel=1e-6)
    assert non_inferiority(found, 1.01 * -lower) < 0.025 < non_inferiority(found, 0.99 * -lower)
    errors = compare_means(np.abs(first), np.abs(second), patient)
    upper = errors.value + stats.t(errors.degrees_of_freedom).ppf(0.975) * errors.standard_error
    assert non_inferiority(errors, upper, lower_is_better=True) == pytest.approx(0.025, rel=1e-6)
    with pytest.raises(ValueError, match="positive"):
        non_inferiority(found, 0.0)


def without_each(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Column means of ``values`` [N, C] over images without each patient."""
    return np.stack([values[patient != each].mean(axis=0) for each in np.unique(patient)])


def test_without_each_patient_a_mean_of_one_image_each_has_the_paired_t_test():
    generator = np.random.default_rng(0)
    values = generator.normal([0.2, 0.0], 1.0, (40, 2))
    (found,) = contrast_by_deletion(values.mean(axis=0), without_each(values, np.arange(40)), [[1, -1]], patients=40)
    expected = stats.ttest_rel(values[:, 0], values[:, 1])
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.degrees_of_freedom == 39
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_without_each_patient_unequal_clusters_have_the_sandwich():
    generator = np.random.default_rng(1)
    patient = np.repeat(np.arange(120), generator.integers(1, 9, 120))
    own = generator.normal(size=120)[patient]
    values = np.c_[own + generator.normal(size=len(patient)), np.zeros(len(patient))]
    (found,) = contrast_by_deletion(values.mean(axis=0), without_each(values, patient), [[1, -1]], patients=120)
    fit = sm.OLS(values[:, 0], np.ones(len(patient))).fit(cov_type="cluster", cov_kwds={"groups": patient})
    assert found.value == pytest.approx(float(fit.params[0]))
    assert found.standard_error == pytest.approx(float(fit.bse[0]), rel=0.03)


def test_the_difference_is_that_of_the_estimates_where_patients_with_many_images_differ():
    # On patients with one image the first is better, on those with nine the second: means of patients say the reverse.
    patient = np.r_[np.arange(60), np.repeat(np.arange(60, 80), 9)]
    gain = np.where(patient < 60, 0.1, -0.1) + np.random.default_rng(0).normal(0, 0.02, len(patient))
    values = np.c_[gain, np.zeros(len(patient))]
    (found,) = contrast_by_deletion(values.mean(axis=0), without_each(values, patient), [[1, -1]], patients=80)
    assert found.value == pytest.approx(gain.mean())
    assert found.value < 0 < compare_means(values[:, 0], values[:, 1], patient).value
    assert found.high < 0


def test_what_cannot_be_left_out_is_refused():
    with pytest.raises(ValueError, match="needs at least 2 patients, and there are 1"):
        contrast_by_deletion([0.5], [[0.5]], [[1]], patients=1)
    with pytest.raises(ValueError, match="at least 4 patients, and there are 3"):
        contrast_by_deletion([0.5], [[0.5], [0.4], [0.3], [0.1]], [[1]], patients=3, folds=3)
    with pytest.raises(ValueError, match="without one of the patients the metric has no value"):
        contrast_by_deletion([0.5], [[0.5], [np.nan], [0.3]], [[1]], patients=3)


def test_equal_models_have_no_difference_and_constant_ones_no_error():
    left = np.random.default_rng(0).random((30, 1))
    (same,) = contrast_by_deletion([0.5, 0.5], np.c_[left, left], [[1, -1]], patients=30)
    assert (same.value, same.standard_error, same.p) == (0.0, 0.0, 1.0)
    (apart,) = contrast_by_deletion([0.5, 0.4], np.c_[left, left - 0.1], [[1, -1]], patients=30)
    assert apart.p is None
    assert "the same in every patient" in str(apart.reason)


def test_a_difference_of_one_training_speaks_of_trained_heads():
    found = compare_means([0.8, 0.7, 0.9, 0.6], [0.7, 0.7, 0.8, 0.5], ["a", "a", "b", "c"])
    assert found.test_error == found.standard_error
    assert found.training_error is None
    assert found.speaks_of == "these trained heads"
    assert replace(found, training_error=0.0).speaks_of == "encoders"
