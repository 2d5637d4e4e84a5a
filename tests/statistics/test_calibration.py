"""Calibration against statsmodels, scikit-learn and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from scipy.stats import norm

from evalfm.statistics.calibration import (
    CalibrationRms,
    calibration_error,
    calibration_in_the_large,
    calibration_in_the_large_statistic,
    calibration_line,
    calibration_line_statistic,
    equal_mass_bins,
    expected_calibration_error,
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
    assert calibration_error(target, score, 10) == pytest.approx(expected, abs=1e-14)
    assert calibration_error([1, 1], [0.25, 0.75]) == pytest.approx(0.5)


def test_expected_calibration_error_is_the_mean_over_drawn_labels():
    for size, scale in ((60, 3.0), (300, 1.0)):
        score = expit(np.random.default_rng(0).normal(size=size) * scale - 2)
        generator = np.random.default_rng(1)
        drawn = [calibration_error(generator.random(size) < score, score) for _ in range(3000)]
        assert expected_calibration_error(score) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 3000**0.5)


def test_the_normal_takes_over_without_a_step(monkeypatch):
    score = np.random.default_rng(0).random(900)
    exact = expected_calibration_error(score, bins=2)
    monkeypatch.setattr("evalfm.statistics.calibration.MOST_VARIANCE", 1.0)
    assert expected_calibration_error(score, bins=2) == pytest.approx(exact, rel=2e-3)
    assert expected_calibration_error([0.0, 1.0, 1.0]) == 0.0


def slowly(target, score, codes, bins):
    """The RMS error's square before it is cut at 0, patient by patient."""
    member, excess = equal_mass_bins(score, bins), 0.0
    for each in range(member.max() + 1):
        inside = member == each
        gap, who = (target - score)[inside], codes[inside]
        moved = [(gap[who == one] - gap.mean()).sum() for one in np.unique(who)]
        clusters = len(moved)
        variance = np.sum(np.square(moved)) / len(gap) ** 2 * clusters / (clusters - 1)
        excess += len(gap) / len(score) * (gap.mean() ** 2 - variance)
    return excess


def test_rms_error_by_its_definition_and_by_the_unclustered_formula():
    target, score = scores(400)
    score = expit(2 * logit(score))
    codes = np.arange(400) // 4
    found = CalibrationRms(target, score, codes, 100)
    assert found.on_the_data() == pytest.approx(slowly(target, score, codes, 15) ** 0.5, abs=1e-12)
    member, expected = equal_mass_bins(score, 15), 0.0
    for each in range(15):
        gap = (target - score)[member == each]
        expected += len(gap) / 400 * (gap.mean() ** 2 - ((gap**2).mean() - gap.mean() ** 2) / (len(gap) - 1))
    alone = CalibrationRms(target, score, np.arange(400), 400)
    assert alone.on_the_data() == pytest.approx(expected**0.5, abs=1e-12)
    assert alone.on_the_data() != pytest.approx(found.on_the_data(), abs=1e-4)


def test_rms_error_under_weights_is_that_of_the_rows_repeated():
    target, score = scores(200)
    codes = np.arange(200) // 2
    weights = patient_weights(identify(codes), 3, np.random.default_rng(0))
    statistic = CalibrationRms(target, expit(3 * logit(score)), codes, 100)
    member = equal_mass_bins(expit(3 * logit(score)), 15)
    for row, value in zip(weights, statistic.values(weights), strict=True):
        rows = np.repeat(np.arange(200), row[codes].astype(int))
        # Every drawn patient is one of its own.
        drawn = np.concatenate([np.arange(int(row[c])) * 1000 + c for c in codes if row[c]])
        excess = 0.0
        for each in range(15):
            inside = member[rows] == each
            gap, who = (target - expit(3 * logit(score)))[rows][inside], drawn[inside]
            moved = [(gap[who == one] - gap.mean()).sum() for one in np.unique(who)]
            excess += len(gap) / len(rows) * gap.mean() ** 2
            excess -= np.sum(np.square(moved)) / len(gap) / len(rows) * len(moved) / (len(moved) - 1)
        assert value == pytest.approx(max(excess, 0) ** 0.5, abs=1e-10)


def test_rms_error_is_about_right_where_ece_is_not():
    """Of calibrated scores the square is 0 in the mean; ECE is what its expectation says."""
    squares, eces, expected = [], [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        score = expit(generator.normal(size=300) * 1.5 - 1)
        target = (generator.random(300) < score).astype(float)
        squares.append(slowly(target, score, np.arange(300), 15))
        eces.append(calibration_error(target, score))
        expected.append(expected_calibration_error(score))
    assert abs(np.mean(squares)) < 3 * np.std(squares) / 200**0.5
    assert np.mean(eces) == pytest.approx(np.mean(expected), abs=3 * np.std(eces) / 200**0.5)
    assert np.mean(eces) > 0.04


@pytest.mark.parametrize(("slope", "images"), [(1.0, 1), (0.6, 1), (0.6, 3)])
def test_the_interval_of_the_rms_error_covers(slope, images):
    true = expit(np.random.default_rng(99).normal(size=200_000) * 1.5 - 1)
    truth = np.sqrt(np.mean((expit(slope * logit(true)) - true) ** 2))
    held, made = 0, 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        patients = 300 // images
        shared, own = np.repeat(generator.normal(size=(2, patients)), images, axis=1), generator.normal(size=(2, 300))
        line, luck = own if images == 1 else (shared + own) / 2**0.5
        score = expit(line * 1.5 - 1)
        label = norm.cdf(luck) < expit(slope * logit(score))
        found = CalibrationRms(label, score, np.repeat(np.arange(patients), images), patients).own_interval()
        made += found.low is not None
        held += found.low is not None and found.low <= truth <= found.high
    # Of 100 at 95 % fewer than 87 have probability 1e-3; 2.5 % of calibrated scores have gaps that are too small.
    assert made >= 92
    assert held >= 0.87 * made


def test_gaps_smaller_than_chance_leaves_them_have_no_interval():
    score = np.full(300, 0.5) + np.linspace(-0.01, 0.01, 300)
    found = CalibrationRms(np.arange(300) % 2, score, np.arange(300), 300).own_interval()
    assert (found.low, found.high) == (None, None)
    assert "smaller than chance" in found.reason
    alone = CalibrationRms(np.arange(40) % 2, score[:40], np.zeros(40, dtype=int), 1)
    assert np.isnan(alone.on_the_data())
    assert alone.own_interval().reason == "a bin holds one patient only"


def test_in_the_large_under_weights_equals_an_offset_regression():
    target, score = scores(200)
    patients = identify(np.arange(200) // 2)
    weights = patient_weights(patients, 10, np.random.default_rng(0))
    expected = [
        sm.GLM(
            target,
            np.ones((200, 1)),
            family=sm.families.Binomial(),
            offset=logit(score),
            freq_weights=w[patients.codes],
        )
        .fit(tol=1e-12)
        .params[0]
        for w in weights
    ]
    found = calibration_in_the_large_statistic(target, score, patients.codes, patients.count)
    np.testing.assert_allclose(found.values(weights), expected, atol=1e-7)
    only = np.zeros((1, 100))
    only[0, patients.codes[target == 1][0]] = 1.0
    alike = target[patients.codes == patients.codes[target == 1][0]]
    assert np.isnan(found.values(only)[0]) == (alike.min() == alike.max())
    far = calibration_in_the_large([0, 1, 1, 1], [1e-9, 1e-9, 1e-9, 1e-9])
    assert expit(far + logit(1e-6)) == pytest.approx(0.75)
