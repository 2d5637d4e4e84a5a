"""Temperature scaling against a plain minimisation, and what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.statistics.temperature import COLDEST, HOTTEST, fit_temperature, with_temperature


def binary(sharpness: float, n: int = 4000):
    generator = np.random.default_rng(1)
    true = expit(generator.normal(size=n))
    return (generator.random(n) < true).astype(float), expit(sharpness * logit(true))


def several(sharpness: float, n: int = 3000):
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(n, 4)) * 1.5
    target = np.array([generator.choice(4, p=row) for row in softmax(logits, axis=1)])
    return target.astype(float), softmax(sharpness * logits, axis=1)


@pytest.mark.parametrize("made", [binary, several])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_no_temperature_of_a_fine_grid_has_a_smaller_log_loss(made, sharpness):
    target, probability = made(sharpness)
    found = fit_temperature(target, probability)
    losses = {t: log_loss(target, with_temperature(probability, t)) for t in (found, *np.geomspace(0.05, 20, 120))}
    assert min(losses, key=losses.get) == found
    assert found == pytest.approx(sharpness, rel=0.15)


def test_the_order_and_so_auroc_does_not_change():
    target, probability = binary(3.0)
    for temperature in (0.5, 1.0, 7.0):
        assert roc_auc_score(target, with_temperature(probability, temperature)) == roc_auc_score(target, probability)
    assert with_temperature(probability, 1.0) == pytest.approx(probability)


def test_two_classes_as_one_column_or_two_are_the_same():
    target, probability = binary(2.0)
    both = np.stack([1 - probability, probability], axis=1)
    assert fit_temperature(target, both) == pytest.approx(fit_temperature(target, probability), rel=1e-4)
    assert with_temperature(both, 2.0)[:, 1] == pytest.approx(with_temperature(probability, 2.0))


def test_certain_and_separable_scores_stay_finite():
    assert fit_temperature([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(COLDEST, rel=1e-3)
    assert fit_temperature([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(HOTTEST, rel=1e-3)
    assert fit_temperature([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 1.0
    assert np.isfinite(fit_temperature([0, 1, 1], [0.0, 1.0, 0.0]))
    assert with_temperature([0.0, 1.0], 3.0).tolist() == [0.0, 1.0]


def test_unknown_labels_do_not_count():
    target, probability = binary(2.0)
    with_unknown = np.where(np.arange(len(target)) < 1000, np.nan, target)
    assert fit_temperature(with_unknown, probability) == fit_temperature(target[1000:], probability[1000:])


def test_what_is_no_probability_or_no_label_is_refused():
    with pytest.raises(ValueError, match="outside"):
        fit_temperature([0, 1], [0.2, 1.2])
    with pytest.raises(ValueError, match="no label"):
        fit_temperature([np.nan], [0.2])
