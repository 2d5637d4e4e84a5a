"""Rates and thresholds against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from evalfm.statistics import classification as c

CONFUSED = {
    "accuracy": (c.accuracy, metrics.accuracy_score),
    "mean_recall": (c.mean_recall, metrics.balanced_accuracy_score),
    "macro_f1": (c.macro_f1, lambda t, p: metrics.f1_score(t, p, average="macro", zero_division=0)),
    "weighted_f1": (c.weighted_f1, lambda t, p: metrics.f1_score(t, p, average="weighted", zero_division=0)),
    "kappa": (
        c.quadratic_kappa,
        lambda t, p: metrics.cohen_kappa_score(t, p, weights="quadratic", labels=range(5)),
    ),
}


def rates(target, score, threshold):
    counts = c.call_columns(target, score, threshold).sum(axis=0)
    return counts, {
        "sensitivity": c.sensitivity(counts),
        "specificity": c.specificity(counts),
        "f1": c.f1(counts),
        "balanced": c.balanced_accuracy(counts),
    }


def test_rates_equal_sklearn():
    generator = np.random.default_rng(0)
    target, score = generator.integers(0, 2, 80), np.round(generator.random(80), 1)
    counts, found = rates(target, score, 0.6)
    called = score >= 0.6
    assert counts.sum() == 80
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(target, called))
    assert found["specificity"] == pytest.approx(metrics.recall_score(target, called, pos_label=0))
    assert found["f1"] == pytest.approx(metrics.f1_score(target, called))
    assert found["balanced"] == pytest.approx(metrics.balanced_accuracy_score(target, called))


def test_a_score_at_the_threshold_is_positive():
    counts, _ = rates([1, 0], [0.5, 0.5], 0.5)
    assert counts.tolist() == [1, 1, 0, 0]


def test_each_row_may_have_its_own_threshold():
    counts, _ = rates([1, 1], [0.5, 0.5], np.array([0.4, 0.6]))
    assert counts.tolist() == [1, 0, 1, 0]


def test_rates_without_their_denominator_are_undefined():
    _, found = rates([0, 0], [0.1, 0.2], 0.5)
    assert np.isnan(found["sensitivity"])
    assert np.isnan(found["f1"])
    assert np.isnan(found["balanced"])
    assert found["specificity"] == 1.0


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", CONFUSED)
@pytest.mark.parametrize("seed", range(4))
def test_confusion_formulas_equal_sklearn_also_where_classes_are_missing(name, seed):
    generator = np.random.default_rng(seed)
    target = generator.choice([0, 1, 3], 40)
    predicted = generator.choice([0, 1, 2, 3], 40)
    formula, reference = CONFUSED[name]
    sums = c.confusion_columns(target, predicted, 5).sum(axis=0)
    assert float(formula(sums)) == pytest.approx(reference(target, predicted), abs=1e-12)


def test_kappa_of_chance_alone_is_undefined():
    assert np.isnan(c.quadratic_kappa(c.confusion_columns(np.array([1, 1]), np.array([1, 1]), 3).sum(axis=0)))


def test_formulas_work_on_blocks():
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 9, (6, 9)).astype(float)
    for formula, _ in CONFUSED.values():
        np.testing.assert_allclose(formula(blocks), [formula(row) for row in blocks])


@pytest.mark.parametrize("wrong", [[0.5], [-1], [3], [np.nan]])
def test_class_labels_must_be_class_numbers(wrong):
    with pytest.raises(ValueError, match="0 to 2"):
        c.class_indices(wrong, 3)


def test_separated_classes_get_the_middle_of_the_gap():
    for rule in ("youden", "f1", "sensitivity=1", "specificity=1"):
        assert c.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], rule) == pytest.approx(0.5)


def test_ties_between_operating_points_go_to_the_more_sensitive_one():
    # Youden .5 both at {.9} and at {.9, .5, .4}.
    assert c.choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], "youden") == pytest.approx(0.25)


def test_fixed_levels_take_the_best_of_the_other_rate():
    target = np.r_[np.ones(10), np.zeros(10)]
    score = np.r_[np.arange(10, 20), np.arange(5, 15)] / 20
    threshold = c.choose_threshold(target, score, "sensitivity=.9")
    _, found = rates(target, score, threshold)
    assert found["sensitivity"] == 0.9
    assert found["specificity"] == 0.6
    _, found = rates(target, score, c.choose_threshold(target, score, "specificity=.9"))
    assert found["specificity"] == 0.9
    assert found["sensitivity"] == 0.6


def test_a_specificity_out_of_reach_calls_nobody():
    threshold = c.choose_threshold([0, 0, 1], [0.7, 0.7, 0.7], "specificity=.9")
    assert threshold > 0.7
    _, found = rates([0, 0, 1], [0.7, 0.7, 0.7], threshold)
    assert found["specificity"] == 1.0


def test_neighbouring_floats_are_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    _, found = rates([0, 1], [low, high], c.choose_threshold([0, 1], [low, high]))
    assert found["balanced"] == 1.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=30).filter(
        lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
    )
)
def test_no_other_threshold_is_better(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    everything = [rates(target, score, t)[1] for t in np.r_[np.unique(score), score.max() + 1]]
    chosen = {rule: rates(target, score, c.choose_threshold(target, score, rule))[1] for rule in ("youden", "f1")}
    assert chosen["youden"]["balanced"] == pytest.approx(max(point["balanced"] for point in everything))
    assert chosen["f1"]["f1"] == pytest.approx(max(point["f1"] for point in everything))
    fixed = rates(target, score, c.choose_threshold(target, score, "sensitivity=.7"))[1]
    assert fixed["sensitivity"] >= 0.7
    assert fixed["specificity"] == max(p["specificity"] for p in everything if p["sensitivity"] >= 0.7)


@pytest.mark.parametrize("rule", ["yoden", "sensitivity", "sensitivity=0", "specificity=1.2", "sensitivity=x", "f1=.5"])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ValueError, match="rule"):
        c.choose_threshold([0, 1], [0.1, 0.9], rule)


def test_one_class_has_no_threshold():
    with pytest.raises(ValueError, match="alike"):
        c.choose_threshold([1, 1], [0.1, 0.9])
