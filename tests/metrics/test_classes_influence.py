"""Influence values against statsmodels, numeric derivatives and the jackknife; paired tests made of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from evalfm.metrics.classes import OF_CLASSES, OF_GRADES, OF_HALVES
from evalfm.statistics import classification
from evalfm.statistics.classification import confusion_columns
from evalfm.statistics.comparison import ConfusionStatistic, compare_means, contrast_confusions
from evalfm.statistics.resampling import FromSums

PAIR = [[1.0, -1.0]]
ACCURACY = ConfusionStatistic(
    "accuracy",
    classification.accuracy,
    lambda matrix: (np.eye(len(matrix)) - np.trace(matrix) / matrix.sum()) / matrix.sum(),
)
STATISTICS = (OF_GRADES, *OF_CLASSES, *OF_HALVES, ACCURACY)
MACRO_F1 = OF_CLASSES[1]
K = 4


def graded(n=200, patients=60, seed=0, classes=K):
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, n)
    called = np.clip(np.round(target[:, None] + generator.normal(size=(n, 2))), 0, classes - 1).astype(int)
    return target, called, generator.integers(0, patients, n)


def codes_of(patient):
    return np.unique(patient, return_inverse=True)[1]


@pytest.mark.parametrize("metric", STATISTICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("missing", [None, 2])
def test_influences_are_the_derivative_and_sum_to_nothing(metric, missing):
    target, called, patient = graded()
    if missing is not None:
        # A class that neither occurs nor is called.
        target[target == missing], called[called == missing] = 0, 0
    codes = codes_of(patient)
    value, of_patient = metric.influence(target, called[:, 0], K, codes)
    columns = confusion_columns(target, called[:, 0], K)
    sums = np.stack([columns[codes == code].sum(axis=0) for code in range(codes.max() + 1)])
    formula, step = metric.formula, 1e-6
    whole = sums.sum(axis=0)
    numeric = [(formula(whole + step * own) - formula(whole - step * own)) / (2 * step) for own in sums]
    np.testing.assert_allclose(of_patient, numeric, atol=1e-9)
    assert value == pytest.approx(float(formula(sums.sum(axis=0))), abs=1e-14)
    assert of_patient.sum() == pytest.approx(0, abs=1e-14)


def test_kappa_at_one_image_per_patient_has_the_variance_of_fleiss_cohen_and_everitt():
    target, called, _ = graded()
    value, of_patient = OF_GRADES.influence(target, called[:, 0], K, np.arange(200))
    table = confusion_columns(target, called[:, 0], K).sum(axis=0).reshape(K, K)
    expected = cohens_kappa(table, wt="quadratic")
    assert value == pytest.approx(expected.kappa, abs=1e-12)
    assert (of_patient**2).sum() == pytest.approx(expected.var_kappa, rel=1e-10)


@pytest.mark.parametrize("metric", STATISTICS, ids=lambda metric: metric.name)
def test_the_jackknife_over_patients_agrees(metric):
    target, called, patient = graded(n=900, patients=300)
    codes = codes_of(patient)
    count = codes.max() + 1
    deleted = [
        FromSums(confusion_columns(target, answer, K), codes, count, metric.formula).without_each()
        for answer in called.T
    ]
    gap = deleted[0] - deleted[1]
    jackknife = ((count - 1) / count * ((gap - gap.mean()) ** 2).sum()) ** 0.5
    (found,) = contrast_confusions(target, called, K, metric, PAIR, patient)
    assert found.standard_error == pytest.approx(jackknife, rel=0.02)
    assert found.degrees_of_freedom == count - 1


def test_accuracy_at_one_image_per_patient_is_the_paired_t_test():
    target, called, _ = graded()
    right = called == target[:, None]
    (found,) = contrast_confusions(target, called, K, ACCURACY, PAIR, np.arange(200))
    expected = compare_means(right[:, 0], right[:, 1], np.arange(200))
    assert found.value == pytest.approx(expected.value, abs=1e-14)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-10)
    assert found.p == pytest.approx(expected.p, rel=1e-10)


def test_repeating_every_image_of_a_patient_changes_nothing():
    target, called, _ = graded(n=60)
    once = contrast_confusions(target, called, K, OF_GRADES, PAIR, np.arange(60))[0]
    thrice = contrast_confusions(
        np.repeat(target, 3), np.repeat(called, 3, axis=0), K, OF_GRADES, PAIR, np.repeat(np.arange(60), 3)
    )[0]
    assert thrice.standard_error == pytest.approx(once.standard_error, rel=1e-12)
    assert thrice.p == pytest.approx(once.p, rel=1e-12)


def test_folds_are_averaged():
    target, called, patient = graded()
    folds = patient % 2
    (found,) = contrast_confusions(target, called, K, OF_GRADES, PAIR, patient, folds=folds)
    parts = [
        contrast_confusions(target[rows], called[rows], K, OF_GRADES, PAIR, patient[rows])[0]
        for rows in (folds == 0, folds == 1)
    ]
    assert found.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    assert found.standard_error == pytest.approx(np.hypot(*(part.standard_error for part in parts)) / 2)
    assert found.degrees_of_freedom == len(np.unique(patient)) - 2


def test_equal_answers_do_not_differ_and_seeds_are_averaged_as_metrics():
    target, called, patient = graded()
    three = np.c_[called, called[:, :1]]
    same, mean = contrast_confusions(target, three, K, MACRO_F1, [[1, 0, -1], [0.5, -1, 0.5]], patient)
    assert (same.value, same.standard_error, same.p) == (0.0, 0.0, 1.0)
    (plain,) = contrast_confusions(target, called, K, MACRO_F1, PAIR, patient)
    assert mean.p == pytest.approx(plain.p)


def test_what_is_undefined_is_refused():
    ones = np.ones(10, dtype=int)
    with pytest.raises(ValueError, match="quadratic_kappa is undefined"):
        contrast_confusions(ones, np.c_[ones, ones], K, OF_GRADES, PAIR, np.arange(10))
    target, called, _ = graded(n=10)
    with pytest.raises(ValueError, match="two patients"):
        contrast_confusions(target, called, K, ACCURACY, PAIR, np.zeros(10))


def test_size_under_the_null_with_three_or_four_images_per_patient():
    # 300 studies without a difference; at size .05 more than 31 rejections have probability below 1e-4.
    most = stats.binom.ppf(1 - 1e-4, 300, 0.05)
    metrics = (OF_GRADES, MACRO_F1)
    clustered, single = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0)
    for seed in range(300):
        generator = np.random.default_rng(seed)
        patient = np.repeat(np.arange(90), generator.integers(3, 5, 90))
        n = len(patient)
        target = generator.integers(0, K, 90)[patient]
        noise = (generator.normal(size=(90, 2))[patient] + 0.5 * generator.normal(size=(n, 2))) / 1.1
        called = np.clip(np.round(target[:, None] + noise), 0, K - 1).astype(int)
        for metric in metrics:
            clustered[metric] += contrast_confusions(target, called, K, metric, PAIR, patient)[0].p < 0.05
            single[metric] += contrast_confusions(target, called, K, metric, PAIR, np.arange(n))[0].p < 0.05
    assert max(clustered.values()) <= most
    assert min(single.values()) > most
