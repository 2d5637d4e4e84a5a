"""Calibration against statsmodels, scikit-learn and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit, softmax
from sklearn.metrics import log_loss, roc_auc_score

from evalfm.statistics.calibration import (
    COLDEST,
    HOTTEST,
    calibration_error_statistic,
    calibration_in_the_large,
    calibration_line,
    calibration_line_statistic,
    equal_mass_bins,
    fit_temperature,
    with_temperature,
)
from evalfm.statistics.resampling import identify, patient_weights


def scores(n=300, seed=0):
    generator = np.random.default_rng(seed)
    line = generator.normal(size=n) * 1.5 - 1
    return (generator.random(n) < expit(0.7 * line + 0.3)).astype(float), expit(line)


def test_line_equals_statsmodels():
    target, score = scores()
    reference = sm.Logit(target, sm.add_constant(logit(score))).fit(disp=0, tol=1e-12)
    line = calibration_line(target, score)
    assert line.intercept[0] == pytest.approx(reference.params[0], abs=1e-7)
    assert line.slope[0] == pytest.approx(reference.params[1], abs=1e-7)


def test_weighted_lines_equal_statsmodels_with_frequencies():
    target, score = scores(200)
    patients = identify(np.arange(200) // 2)
    weights = patient_weights(patients, 10, np.random.default_rng(0))
    expected = [
        sm.GLM(
            target,
            sm.add_constant(logit(score)),
            family=sm.families.Binomial(),
            freq_weights=w[patients.codes],
        ).fit(tol=1e-12)
        for w in weights
    ]
    for index, which in enumerate(("intercept", "slope")):
        found = calibration_line_statistic(target, score, patients.codes, patients.count, which).values(weights)
        np.testing.assert_allclose(found, [fit.params[index] for fit in expected], atol=1e-6)


def test_certain_probabilities_are_clipped():
    target = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    score = np.array([0.0, 1.0, 1.0, 0.0, 0.6, 0.4])
    clipped = np.clip(score, 1e-6, 1 - 1e-6)
    assert calibration_line(target, score).slope[0] == calibration_line(target, clipped).slope[0]
    assert np.isfinite(calibration_line(target, score).slope[0])


@pytest.mark.parametrize(
    ("target", "score"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([0, 1, 1], [0.1, 0.1, 0.9]),
        ([1, 1, 1], [0.1, 0.5, 0.9]),
        ([0, 1, 1], [0.3, 0.3, 0.3]),
    ],
    ids=["separated", "quasi-separated", "one class", "constant"],
)
def test_where_no_maximum_exists_there_is_no_line(target, score):
    line = calibration_line(target, score)
    assert np.isnan(line.slope[0])
    assert np.isnan(line.intercept[0])


def test_a_separated_resample_does_not_disturb_the_others():
    target, score = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.2, 0.4, 0.6, 0.8])
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 0, 2], [1, 1, 1, 1]])
    slope = calibration_line(target, score, weights).slope
    assert np.isnan(slope[1])
    assert slope[0] == slope[2] == pytest.approx(calibration_line(target, score).slope[0], abs=1e-9)


def test_perfect_calibration_has_slope_one_and_intercept_zero():
    generator = np.random.default_rng(1)
    score = expit(generator.normal(size=200_000))
    line = calibration_line((generator.random(200_000) < score).astype(float), score)
    assert line.slope[0] == pytest.approx(1, abs=0.03)
    assert line.intercept[0] == pytest.approx(0, abs=0.03)


def test_in_the_large_equals_an_offset_regression():
    target, score = scores()
    reference = sm.GLM(target, np.ones((300, 1)), family=sm.families.Binomial(), offset=logit(score)).fit(tol=1e-12)
    assert calibration_in_the_large(target, score) == pytest.approx(reference.params[0], abs=1e-6)
    assert np.isnan(calibration_in_the_large([1, 1], [0.2, 0.3]))


def test_bins_are_equally_filled_and_keep_ties_together():
    assert np.bincount(equal_mass_bins(np.random.default_rng(0).random(150), 15)).tolist() == [10] * 15
    tied = equal_mass_bins(np.r_[np.zeros(70), np.linspace(0.1, 1, 30)], 10)
    assert len(set(tied[:70])) == 1
    assert sorted(set(tied)) == list(range(tied.max() + 1))
    assert equal_mass_bins([0.5, 0.1]).tolist() == [1, 0]


def test_calibration_error_by_its_definition():
    target, score = scores(157)
    member = equal_mass_bins(score, 10)
    expected = sum(
        np.mean(member == b) * abs(target[member == b].mean() - score[member == b].mean()) for b in np.unique(member)
    )
    found = calibration_error_statistic(target, score, np.arange(157), 157, 10).on_the_data()
    assert found == pytest.approx(expected, abs=1e-14)
    assert calibration_error_statistic([1, 1], [0.25, 0.75], np.arange(2), 2).on_the_data() == pytest.approx(0.5)


def test_weighted_calibration_error_keeps_the_bins_of_the_data():
    target, score = scores(60)
    patients = identify(np.arange(60))
    weights = patient_weights(patients, 5, np.random.default_rng(0))
    member = equal_mass_bins(score, 6)
    expected = [
        sum(abs(np.sum((w * (target - score))[member == b])) for b in range(6)) / 60 for w in weights[:, patients.codes]
    ]
    found = calibration_error_statistic(target, score, patients.codes, 60, 6).values(weights)
    np.testing.assert_allclose(found, expected, atol=1e-14)


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
    losses = {t: log_loss(target, with_temperature(probability, t)) for t in (found, *np.geomspace(0.05, 20, 120))}
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
    assert fit_temperature([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(COLDEST, rel=1e-3)
    assert fit_temperature([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(HOTTEST, rel=1e-3)
    assert fit_temperature([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 1.0
    assert np.isfinite(fit_temperature([0, 1, 1], [0.0, 1.0, 0.0]))
    assert with_temperature([0.0, 1.0], 3.0).tolist() == [0.0, 1.0]


def test_unknown_labels_do_not_count():
    target, probability = sharpened(2.0)
    with_unknown = np.where(np.arange(len(target)) < 1000, np.nan, target)
    assert fit_temperature(with_unknown, probability) == fit_temperature(target[1000:], probability[1000:])


def test_what_is_no_probability_or_no_label_is_refused():
    with pytest.raises(ValueError, match="outside"):
        fit_temperature([0, 1], [0.2, 1.2])
    with pytest.raises(ValueError, match="no label"):
        fit_temperature([np.nan], [0.2])
