"""Flipped labels and the ceiling that they set, against scikit-learn on drawn labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evalfm.statistics.label_noise import auroc_ceiling, flip_labels, label_predictive_values

SHARES = st.floats(0.02, 0.98)
ERRORS = st.floats(0, 0.45)


def test_each_kind_of_label_is_flipped_at_its_own_rate():
    uniform = np.random.default_rng(0).random(200_000)
    label = (np.arange(200_000) % 5 == 0).astype(float)
    label[:100] = np.nan
    flipped = flip_labels(label, 0.3, 0.02, uniform)
    assert np.isnan(flipped[:100]).all()
    known = label[100:], flipped[100:]
    assert (known[1][known[0] == 1] == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (known[1][known[0] == 0] == 1).mean() == pytest.approx(0.02, abs=0.002)
    assert set(known[1]) == {0.0, 1.0}


@given(ERRORS, ERRORS, st.integers(0, 1000))
def test_a_larger_rate_flips_what_a_smaller_one_flips_and_more(one, other, seed):
    noise = np.random.default_rng(seed)
    label, uniform = noise.integers(0, 2, 50).astype(float), noise.random(50)
    low, high = sorted((one, other))
    first, second = (flip_labels(label, rate, rate, uniform) != label for rate in (low, high))
    assert not (first & ~second).any()
    assert not (flip_labels(label, 0, 0, uniform) != label).any()
    assert (flip_labels(label, 1, 1, uniform) != label).all()


@given(SHARES, ERRORS, ERRORS)
def test_predictive_values_are_those_of_bayes(true, missed, false):
    """From the truth to labels and back."""
    labelled = true * (1 - missed) + (1 - true) * false
    assume(0.01 < labelled < 0.99)
    found = label_predictive_values(labelled, missed, false)
    assert found is not None
    assert found[0] == pytest.approx(true * (1 - missed) / labelled)
    assert found[1] == pytest.approx((1 - true) * (1 - false) / (1 - labelled))


@pytest.mark.parametrize(("true", "missed", "false"), [(0.3, 0.1, 0.1), (0.05, 0.2, 0.01), (0.6, 0, 0.3)])
def test_the_ceiling_is_the_auroc_of_the_truth_on_such_labels(true, missed, false):
    noise = np.random.default_rng(1)
    truth = (noise.random(400_000) < true).astype(float)
    labels = flip_labels(truth, missed, false, noise.random(len(truth)))
    assert auroc_ceiling(labels.mean(), missed, false) == pytest.approx(roc_auc_score(labels, truth), abs=0.005)


def test_every_model_is_shrunk_by_one_factor():
    noise = np.random.default_rng(2)
    truth = (noise.random(400_000) < 0.2).astype(float)
    labels = flip_labels(truth, 0.15, 0.05, noise.random(len(truth)))
    factor = 2 * auroc_ceiling(labels.mean(), 0.15, 0.05) - 1
    for strength in (0.5, 1.5, 3.0):
        score = truth * strength + noise.normal(size=len(truth))
        expected = 0.5 + factor * (roc_auc_score(truth, score) - 0.5)
        assert roc_auc_score(labels, score) == pytest.approx(expected, abs=0.005)


def test_labels_that_cannot_be_have_no_ceiling():
    assert auroc_ceiling(0.03, 0.05, 0.05) is None, "more false positives than positives"
    assert auroc_ceiling(0.9, 0.2, 0.0) is None, "more positives than are not missed"
    assert auroc_ceiling(0.5, 0.5, 0.5) is None, "labels that say nothing"
    assert auroc_ceiling(0.05, 0.1, 0.05) is None, "every label 1 is false"
    with pytest.raises(ValueError, match="between 0 and 1"):
        flip_labels([1], 1.5, 0, [0.5])
