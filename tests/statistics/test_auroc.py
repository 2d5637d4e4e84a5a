"""AUROC against scikit-learn, brute force and direct O(n²) covariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evalfm.statistics.auroc import Auroc, auroc, auroc_covariance, class_patients, weighted_auroc
from evalfm.statistics.resampling import identify


def kernel(positive, negative):
    """[m, n] 1 where the positive wins, .5 where level."""
    return (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])


def tied_data(n=120, seed=0, patients=40, scores=2):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.4).astype(float)
    score = np.round(generator.normal(size=(n, scores)) + target[:, None], 1)
    return target, score, generator.integers(0, patients, n)


def direct_obuchowski(target, scores, patient):
    """Obuchowski (1997) written out cluster by cluster from all pairs."""
    clusters = np.unique(patient)
    label = target == 1
    m, n = label.sum(), (~label).sum()
    with_positive = sum(label[patient == c].any() for c in clusters)
    with_negative = sum((~label[patient == c]).any() for c in clusters)
    areas, x_sums, y_sums = [], [], []
    for score in scores.T:
        pairs = kernel(score[label], score[~label])
        area = pairs.mean()
        x, y = pairs.mean(axis=1), pairs.mean(axis=0)
        areas.append(area)
        x_sums.append([x[patient[label] == c].sum() - (patient[label] == c).sum() * area for c in clusters])
        y_sums.append([y[patient[~label] == c].sum() - (patient[~label] == c).sum() * area for c in clusters])
    x_sums, y_sums = np.array(x_sums), np.array(y_sums)
    total = len(clusters)
    size = len(areas)
    covariance = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            s10 = with_positive / ((with_positive - 1) * m) * np.sum(x_sums[i] * x_sums[j])
            s01 = with_negative / ((with_negative - 1) * n) * np.sum(y_sums[i] * y_sums[j])
            s11 = total / (total - 1) * np.sum(x_sums[i] * y_sums[j])
            s11_back = total / (total - 1) * np.sum(x_sums[j] * y_sums[i])
            covariance[i, j] = s10 / m + s01 / n + (s11 + s11_back) / (m * n)
    return np.array(areas), covariance


def test_auroc_equals_sklearn_with_ties():
    target, score, _ = tied_data()
    assert len(np.unique(score[:, 0])) < len(target) / 2
    assert auroc(target, score[:, 0]) == pytest.approx(roc_auc_score(target, score[:, 0]), abs=1e-14)


def test_auroc_of_known_cases():
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875
    assert auroc([0, 1], [0, 1]) == 1.0
    assert auroc([1, 0], [0, 1]) == 0.0
    assert auroc([0, 1, 1], [5, 5, 5]) == 0.5
    assert np.isnan(auroc([1, 1], [0, 1]))
    assert np.isnan(auroc([0, 0], [0, 1]))


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match="0 or 1"):
        auroc([0, 2], [0.1, 0.2])


def test_weights_count_rows_repeated():
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).integers(0, 4, (20, 60)).astype(float)
    expected = [roc_auc_score(np.repeat(target, w.astype(int)), np.repeat(score[:, 0], w.astype(int))) for w in weights]
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), expected, atol=1e-14)


def test_fractional_weights_equal_sklearn_sample_weight():
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).random((5, 60))
    expected = [roc_auc_score(target, score[:, 0], sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), expected, atol=1e-12)


def test_weighted_auroc_in_blocks_is_the_same(monkeypatch):
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).random((13, 60))
    whole = weighted_auroc(target, score[:, 0], weights)
    monkeypatch.setattr("evalfm.statistics.resampling.BLOCK_ELEMENTS", 130)
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), whole, rtol=1e-14)


def test_weight_zero_on_one_class_has_no_auroc():
    assert np.isnan(weighted_auroc([0, 1], [0.0, 1.0], np.array([[0.0, 1.0], [1.0, 0.0]]))).all()


def test_within_folds_pairs_of_different_folds_never_count():
    # Fold 1's scores sit far above fold 0's: across folds the ranking is wrong, within each it is perfect.
    target = np.array([0, 1, 0, 1])
    score = np.array([0.1, 0.2, 5.0, 6.0])
    assert auroc(target, score, folds=[0, 0, 1, 1]) == 1.0
    assert auroc(target, score) == 0.75


def test_within_folds_is_the_mean_over_folds():
    target, score, _ = tied_data(90)
    folds = np.arange(90) % 3
    expected = np.mean([roc_auc_score(target[folds == f], score[folds == f, 0]) for f in range(3)])
    assert auroc(target, score[:, 0], folds) == pytest.approx(expected, abs=1e-14)
    target[folds == 2] = 0
    expected = np.mean([roc_auc_score(target[folds == f], score[folds == f, 0]) for f in range(2)])
    assert auroc(target, score[:, 0], folds) == pytest.approx(expected, abs=1e-14)


def test_covariance_equals_direct_delong_at_one_image_per_patient():
    target, score, _ = tied_data(80, scores=3)
    found = auroc_covariance(target, score)
    label = target == 1
    pairs = np.stack([kernel(s[label], s[~label]) for s in score.T])
    by_positive, by_negative = pairs.mean(axis=2), pairs.mean(axis=1)
    direct = np.cov(by_positive) / label.sum() + np.cov(by_negative) / (~label).sum()
    np.testing.assert_allclose(found.covariance, direct, atol=1e-10, rtol=1e-10)
    np.testing.assert_allclose(found.auroc, pairs.mean(axis=(1, 2)), atol=1e-14)
    np.testing.assert_allclose(
        auroc_covariance(target, score, np.arange(80)).covariance, direct, atol=1e-10, rtol=1e-10
    )


def test_clustered_covariance_equals_obuchowski_written_out():
    target, score, patient = tied_data(150, scores=3)
    found = auroc_covariance(target, score, patient)
    areas, covariance = direct_obuchowski(target, score, patient)
    np.testing.assert_allclose(found.auroc, areas, atol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-10, rtol=1e-10)
    assert (found.positive_patients, found.negative_patients) == class_patients(target, patient)
    assert np.all(np.linalg.eigvalsh(found.covariance) > 0)


@pytest.mark.parametrize("n", [4, 5, 7, 12])
def test_tiny_samples_with_ties_have_the_direct_covariance(n):
    for seed in range(20):
        generator = np.random.default_rng(seed)
        target = np.r_[1, 1, 0, 0, generator.integers(0, 2, n - 4)].astype(float)
        score = generator.integers(0, 3, (n, 2)).astype(float)
        label = target == 1
        pairs = np.stack([kernel(s[label], s[~label]) for s in score.T])
        direct = np.cov(pairs.mean(axis=2)) / label.sum() + np.cov(pairs.mean(axis=1)) / (~label).sum()
        np.testing.assert_allclose(auroc_covariance(target, score).covariance, direct, atol=1e-14)
        patient = np.r_[0, 1, 2, 3, generator.integers(0, 4, n - 4)]
        np.testing.assert_allclose(
            auroc_covariance(target, score, patient).covariance,
            direct_obuchowski(target, score, patient)[1],
            atol=1e-14,
        )


def test_repeating_every_image_of_a_patient_changes_neither_area_nor_clustered_variance():
    target, score, _ = tied_data(60, scores=1)
    once = auroc_covariance(target, score, np.arange(60))
    thrice = auroc_covariance(np.repeat(target, 3), np.repeat(score, 3, axis=0), np.repeat(np.arange(60), 3))
    np.testing.assert_allclose(thrice.auroc, once.auroc, atol=1e-14)
    np.testing.assert_allclose(thrice.covariance, once.covariance, atol=1e-12)
    unclustered = auroc_covariance(np.repeat(target, 3), np.repeat(score, 3, axis=0))
    assert unclustered.covariance[0, 0] < 0.5 * once.covariance[0, 0]


def test_fold_covariance_is_of_the_mean_over_folds():
    target, score, _ = tied_data(120)
    folds = np.arange(120) % 2
    parts = [auroc_covariance(target[folds == f], score[folds == f]) for f in (0, 1)]
    found = auroc_covariance(target, score, folds=folds)
    np.testing.assert_allclose(found.auroc, (parts[0].auroc + parts[1].auroc) / 2, atol=1e-14)
    np.testing.assert_allclose(found.covariance, (parts[0].covariance + parts[1].covariance) / 4, atol=1e-14)


def test_variance_needs_two_patients_of_each_class():
    with pytest.raises(ValueError, match="two positive"):
        auroc_covariance([1, 1, 0, 0], [1, 2, 3, 4], ["a", "a", "b", "c"])


def test_leaving_out_each_patient_equals_computing_without_it():
    target, score, patient = tied_data(70, patients=18)
    patients = identify(patient)
    found = Auroc(target, score[:, 0], patients.codes, patients.count).without_each()
    expected = [auroc(target[patients.codes != p], score[patients.codes != p, 0]) for p in range(patients.count)]
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_a_patient_with_both_kinds_counts_on_both_sides():
    assert class_patients([1, 0, 1, 0, 0], ["a", "a", "b", "c", "c"]) == (2, 2)


samples = st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_auroc_depends_on_order_alone(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    area = auroc(target, score)
    assert auroc(target, np.exp(score) + 3) == area
    assert auroc(target, -score) == pytest.approx(1 - area, abs=1e-15)
    assert auroc(1 - target, score) == pytest.approx(1 - area, abs=1e-15)
    assert auroc(np.tile(target, 2), np.tile(score, 2)) == pytest.approx(area, abs=1e-15)
    assert area == pytest.approx(kernel(score[target == 1], score[target == 0]).mean(), abs=1e-15)
