"""Net benefit by hand, against the bootstrap over patients, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from evalfm.statistics.net_benefit import THRESHOLDS, net_benefit


def study(patients=150, images=3, seed=0):
    generator = np.random.default_rng(seed)
    line = (np.repeat(generator.normal(size=patients), images) + generator.normal(size=patients * images)) * 1.2 - 1.5
    return (
        (generator.random(len(line)) < expit(line)).astype(float),
        expit(line),
        np.repeat(np.arange(patients), images),
    )


def test_by_hand_as_in_dcurves():
    """Ten images: at .2 five are called, three of them rightly; at .6 two, one rightly."""
    target = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    score = [0.9, 0.5, 0.3, 0.1, 0.7, 0.2, 0.1, 0.1, 0.05, 0.01]
    found = net_benefit(target, score, np.arange(10), [0.2, 0.6])
    assert found.model == pytest.approx([3 / 10 - 2 / 10 * 0.25, 1 / 10 - 1 / 10 * 1.5])
    assert found.treat_all == pytest.approx([0.4 - 0.6 * 0.25, 0.4 - 0.6 * 1.5])
    assert found.gain == pytest.approx([0.25 - 0.25, -0.05 - 0])
    assert found.prevalence == 0.4
    # At a prevalence of .1: sensitivity · .1 − false alarms · .9 · odds.
    stated = net_benefit(target, score, np.arange(10), [0.2, 0.6], prevalence=0.1)
    assert stated.model == pytest.approx([0.75 * 0.1 - 2 / 6 * 0.9 * 0.25, 0.25 * 0.1 - 1 / 6 * 0.9 * 1.5])
    assert stated.treat_all == pytest.approx([0.1 - 0.9 * 0.25, 0.1 - 0.9 * 1.5])
    assert stated.gain == pytest.approx(stated.model)


def test_a_score_at_the_threshold_is_called():
    found = net_benefit([1, 0], [0.5, 0.4], np.arange(2), [0.5])
    assert found.model == pytest.approx([0.5])


def test_at_its_own_prevalence_a_stated_one_changes_no_value():
    target, score, codes = study()
    plain, stated = net_benefit(target, score, codes), net_benefit(target, score, codes, prevalence=target.mean())
    for name in ("model", "treat_all", "gain"):
        np.testing.assert_allclose(getattr(stated, name), getattr(plain, name), atol=1e-12)


@pytest.mark.parametrize("prevalence", [None, 0.05])
def test_intervals_are_as_wide_as_patients_drawn_again_vary(prevalence):
    target, score, codes = study()
    found = net_benefit(target, score, codes, [0.1, 0.3, 0.5], prevalence)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(600):
        rows = (generator.integers(0, 150, 150)[:, None] * 3 + np.arange(3)).ravel()
        drawn.append(net_benefit(target[rows], score[rows], codes, [0.1, 0.3, 0.5], prevalence))
    for name, low in (("model", found.low), ("gain", found.gain_low)):
        spread = np.std([getattr(each, name) for each in drawn], axis=0)
        np.testing.assert_allclose((getattr(found, name) - low) / 1.976, spread, rtol=0.15)


def test_intervals_cover():
    big = study(200_000, 1, 999)
    truth = net_benefit(*big, [0.1, 0.3, 0.5])
    held = np.zeros((2, 3))
    for seed in range(200):
        found = net_benefit(*study(100, 3, seed), [0.1, 0.3, 0.5])
        held[0] += (found.low <= truth.model) & (truth.model <= found.high)
        held[1] += (found.gain_low <= truth.gain) & (truth.gain <= found.gain_high)
    # Of 200 at 95 % fewer than 179 have probability 1e-3.
    assert held.min() >= 179


def test_no_model_is_worth_more_than_one_that_knows():
    target, score, codes = study()
    perfect = net_benefit(target, target * 0.98 + 0.01, codes, THRESHOLDS[1:-1])
    assert perfect.model == pytest.approx(np.full(97, target.mean()))
    found = net_benefit(target, score, codes, THRESHOLDS[1:-1])
    assert (found.model <= perfect.model + 1e-12).all()


def test_what_cannot_be_had_is_refused():
    for options in ({"thresholds": [0.0]}, {"thresholds": [1.0]}, {"prevalence": 1.0}):
        with pytest.raises(ValueError, match="between 0 and 1"):
            net_benefit([0, 1], [0.1, 0.2], np.arange(2), **options)
    for target, codes in (([1, 1], [0, 1]), ([0, 1], [0, 0])):
        with pytest.raises(ValueError, match="both classes and two patients"):
            net_benefit(target, [0.1, 0.2], np.array(codes))
