"""Temperature scaling against a grid, its prior, its edges, and what it leaves as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.statistics.calibration import calibration_error
from evalfm.statistics.temperature import COLDEST, HOTTEST, at_edge, fit_temperature, with_temperature


def sharpened(sharpness: float, n: int = 4000):
    generator = np.random.default_rng(1)
    true = expit(generator.normal(size=n))
    return (generator.random(n) < true).astype(float), expit(sharpness * logit(true))


def sharpened_classes(sharpness: float, n: int = 3000):
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(n, 4)) * 1.5
    target = np.array([generator.choice(4, p=row) for row in softmax(logits, axis=1)])
    return target.astype(float), softmax(sharpness * logits, axis=1)


@pytest.mark.parametrize("made", [sharpened, sharpened_classes])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_no_temperature_of_a_fine_grid_has_a_smaller_log_loss(made, sharpness):
    target, probability = made(sharpness)
    found = fit_temperature(target, probability)
    both = probability if probability.ndim == 2 else np.stack([1 - probability, probability], axis=1)

    def loss(temperature):
        scaled = with_temperature(both, temperature)
        return len(both) * log_loss(target, scaled) - 20 * (both * np.log(scaled)).sum(axis=1).mean()

    losses = {t: loss(t) for t in (found, *np.geomspace(0.1, 20, 120))}
    assert min(losses, key=losses.get) == found
    assert found == pytest.approx(sharpness, rel=0.15)


def test_the_order_and_so_auroc_does_not_change():
    target, probability = sharpened(3.0)
    for temperature in (0.5, 1.0, 7.0):
        assert roc_auc_score(target, with_temperature(probability, temperature)) == roc_auc_score(target, probability)
    assert with_temperature(probability, 1.0) == pytest.approx(probability)


def test_two_classes_as_one_column_or_two_are_the_same():
    target, probability = sharpened(2.0)
    both = np.stack([1 - probability, probability], axis=1)
    assert fit_temperature(target, both) == pytest.approx(fit_temperature(target, probability), rel=1e-4)
    assert with_temperature(both, 2.0)[:, 1] == pytest.approx(with_temperature(probability, 2.0))


def test_certain_and_separable_scores_stay_finite():
    assert COLDEST == 0.1
    assert 0.5 < fit_temperature([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) < 1
    assert fit_temperature([1, 1, 0, 0] * 500, [0.1, 0.2, 0.8, 0.9] * 500) == pytest.approx(HOTTEST, rel=1e-3)
    # So many images speak for it that the floor is all that is left.
    assert fit_temperature([0, 0, 1, 1] * 5000, [0.4, 0.45, 0.55, 0.6] * 5000) == pytest.approx(COLDEST, rel=1e-3)
    assert fit_temperature([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 1.0
    assert np.isfinite(fit_temperature([0, 1, 1], [0.0, 1.0, 0.0]))
    assert with_temperature([0.0, 1.0], 3.0).tolist() == [0.0, 1.0]


def test_the_edges_are_told():
    assert at_edge(COLDEST)
    assert at_edge(HOTTEST)
    assert not at_edge(1.0)


def test_val_that_is_separated_by_luck_does_not_triple_the_error():
    """Twenty val images of calibrated scores, drawn until .5 separates them; without the prior it is sevenfold."""
    ratios, seed = [], 0
    while len(ratios) < 40:
        seed += 1
        generator = np.random.default_rng(seed)
        val = generator.normal(size=20) * 3 - 1
        target = (generator.random(20) < expit(val)).astype(float)
        if ((val > 0) != target).any() or target.min() == target.max():
            continue
        test = generator.normal(size=2000) * 3 - 1
        label = (generator.random(2000) < expit(test)).astype(float)
        scaled = with_temperature(expit(test), fit_temperature(target, expit(val)))
        ratios.append(calibration_error(label, scaled) / calibration_error(label, expit(test)))
    assert np.mean(ratios) < 3


def test_unknown_labels_do_not_count():
    target, probability = sharpened(2.0)
    with_unknown = np.where(np.arange(len(target)) < 1000, np.nan, target)
    assert fit_temperature(with_unknown, probability) == fit_temperature(target[1000:], probability[1000:])


def test_what_is_no_probability_or_no_label_is_refused():
    with pytest.raises(ValueError, match="outside"):
        fit_temperature([0, 1], [0.2, 1.2])
    with pytest.raises(ValueError, match="no label"):
        fit_temperature([np.nan], [0.2])
