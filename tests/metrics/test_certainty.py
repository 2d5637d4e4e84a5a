"""Brier score and calibration: of all folds together, absent without probabilities, none of them ranked but Brier."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from evalfm.metrics.certainty import CERTAINTY, LINE
from evalfm.statistics.calibration import calibration_in_the_large, calibration_line

from .made import Sampling, binary_metrics

QUICK = Sampling(resamples=200)


def study(n=600, sharpness=1.0, shift=0.0, seed=0):
    generator = np.random.default_rng(seed)
    line = generator.normal(size=n) * 1.5 - 1
    target = (generator.random(n) < expit(line)).astype(float)
    return target, expit(sharpness * line + shift), np.arange(n)


def test_the_intercept_is_in_the_large_and_not_that_of_the_line():
    target, score, patient = study(sharpness=2.0, shift=0.5)
    found = binary_metrics(target, score, patient, QUICK, threshold=None)
    assert found["calibration_intercept"].value == pytest.approx(calibration_in_the_large(target, score), abs=1e-9)
    line = calibration_line(target, score)
    assert found["calibration_slope"].value == pytest.approx(line.slope[0], abs=1e-9)
    assert abs(found["calibration_intercept"].value - line.intercept[0]) > 0.1
    shifted = expit(logit(score) + found["calibration_intercept"].value)
    assert shifted.mean() == pytest.approx(target.mean(), abs=1e-9)


def test_folds_that_have_no_fit_of_their_own_are_fitted_together():
    target, score, patient = study(60)
    folds = np.arange(60) // 3
    found = binary_metrics(target, score, patient, Sampling(folds=folds, resamples=200), threshold=None)
    for name, value in (
        ("calibration_slope", calibration_line(target, score).slope[0]),
        ("calibration_intercept", calibration_in_the_large(target, score)),
        ("brier", metrics.brier_score_loss(target, score)),
    ):
        assert found[name].value == pytest.approx(value, abs=1e-9)
        assert found[name].low < value < found[name].high


def test_a_calibrated_score_has_an_interval_that_holds_none_and_an_ece_that_was_to_be_expected():
    target, score, patient = study()
    found = binary_metrics(target, score, patient, QUICK, threshold=None)
    assert found["calibration_rms"].low == 0.0
    assert found["calibration_rms"].method.startswith("inversion")
    assert found["ece"].value == pytest.approx(found["ece_expected"].value, rel=0.6)
    assert found["ece"].value > 0.015
    rash = binary_metrics(target, expit(3 * logit(score)), patient, QUICK, threshold=None)
    assert rash["calibration_rms"].low > 0.05
    assert rash["ece"].value > 2 * rash["ece_expected"].value


def test_only_brier_ranks():
    every = [metric for pair in CERTAINTY for metric in pair] + list(LINE)
    assert {metric.name for metric in every if metric.contrast} == {"brier", "brier_calibrated"}


def test_what_is_no_probability_is_said():
    target, score, patient = study(60)
    found = binary_metrics(target, score * 3, patient, QUICK, threshold=None)
    for name in ("brier", "ece", "ece_expected", "calibration_rms", "calibration_slope", "calibration_intercept"):
        assert found[name].value is None
        assert found[name].reason == "scores outside [0, 1] are no probabilities"
