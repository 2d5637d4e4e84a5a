"""AUROC against scikit-learn, brute force and direct O(n²) covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from evalfm.statistics.auroc import (
    Auroc,
    auroc,
    average_precision_statistic,
    episode_auroc,
    weighted_auroc,
)
from evalfm.statistics.resampling import identify


def average_precision(target: Any, score: Any) -> float:
    return average_precision_statistic(target, score, np.arange(len(target)), len(target)).on_the_data()


def kernel(positive, negative):
    """[m, n] 1 where the positive wins, .5 where level."""
    return (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])


def tied_data(n=120, seed=0, patients=40, scores=2):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.4).astype(float)
    score = np.round(generator.normal(size=(n, scores)) + target[:, None], 1)
    return target, score, generator.integers(0, patients, n)


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


def test_leaving_out_each_patient_equals_computing_without_it():
    target, score, patient = tied_data(70, patients=18)
    patients = identify(patient)
    found = Auroc(target, score[:, 0], patients.codes, patients.count).without_each()
    expected = [auroc(target[patients.codes != p], score[patients.codes != p, 0]) for p in range(patients.count)]
    np.testing.assert_allclose(found, expected, atol=1e-13)


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=40).filter(
        lambda rows: any(label for label, _ in rows)
    )
)
def test_average_precision_equals_sklearn_with_ties(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score), abs=1e-14)


def test_average_precision_counts_patients_as_rows_repeated():
    generator = np.random.default_rng(0)
    target = (generator.random(60) < 0.3).astype(float)
    score = np.round(generator.normal(size=60) + target, 1)
    patients = identify(generator.integers(0, 25, 60))
    weights = generator.integers(0, 3, (20, patients.count)).astype(float)
    expected = []
    for row in weights:
        times = row[patients.codes].astype(int)
        expected.append(average_precision_score(np.repeat(target, times), np.repeat(score, times)))
    found = average_precision_statistic(target, score, patients.codes, patients.count).values(weights)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_without_a_positive_there_is_no_average_precision():
    assert np.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert average_precision([1], [0.3]) == 1.0


@pytest.mark.parametrize(("classes", "queries"), [(2, 1), (2, 10), (5, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_macro_auroc_of_episodes_is_scikit_learns(classes: int, queries: int, ties: bool):
    generator = np.random.default_rng(classes + queries)
    scores = generator.normal(size=(9, classes, queries, classes)) + 0.8 * np.eye(classes)[:, None]
    if ties:
        scores = scores.round(0)
    truth = np.repeat(np.arange(classes), queries)
    found = episode_auroc(scores)
    for episode, flat in enumerate(scores.reshape(9, -1, classes)):
        each = [roc_auc_score(truth == code, flat[:, code]) for code in range(classes)]
        assert found[episode] == pytest.approx(np.mean(each), abs=1e-12)


def test_equal_scores_are_at_chance_and_perfect_ones_at_one():
    assert episode_auroc(np.zeros((2, 3, 4, 3))).tolist() == [0.5, 0.5]
    perfect = np.broadcast_to(np.eye(3)[:, None], (3, 4, 3))[None]
    assert episode_auroc(perfect).tolist() == [1.0]
    assert episode_auroc(-perfect).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 4, 3), (2, 3, 4, 2), (2, 1, 4, 1), (2, 3, 0, 3)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="scores must be"):
        episode_auroc(np.zeros(shape))


def test_a_score_that_is_no_number_is_refused():
    scores = np.zeros((1, 2, 3, 2))
    scores[0, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        episode_auroc(scores)
