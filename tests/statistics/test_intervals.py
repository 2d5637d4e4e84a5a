"""BCa against scipy, degenerate bootstraps, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats._resampling import BootstrapResult

from evalfm.statistics.auroc import Auroc
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import (
    Measured,
    acceleration,
    bca_interval,
    estimates,
    interval,
    over_episodes,
    percentile_interval,
)
from evalfm.statistics.resampling import FromRows, bootstrap, identify, mean_over_images


def skewed(n=40):
    values = np.random.default_rng(0).lognormal(size=n)
    patients = identify(np.arange(n))
    statistic = FromRows(patients.codes, n, lambda w: (w @ values**2) / (w @ values))
    return values, patients, statistic


def test_bca_equals_scipy_on_the_same_resamples():
    values, patients, statistic = skewed()
    resampled = bootstrap({"s": statistic}, patients, seed=1)["s"]
    given = BootstrapResult(confidence_interval=None, bootstrap_distribution=resampled, standard_error=None)

    def by_scipy(sample, axis=-1):
        return (sample**2).sum(axis=axis) / sample.sum(axis=axis)

    expected = stats.bootstrap(
        (values,), by_scipy, n_resamples=0, bootstrap_result=given, method="BCa", vectorized=True
    ).confidence_interval
    found = bca_interval(statistic.on_the_data(), resampled, statistic.without_each())
    assert found == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert found[0] != pytest.approx(percentile_interval(resampled)[0], rel=1e-3)


def test_bca_counts_resamples_level_with_the_estimate_by_half():
    """A share of thirty patients: one resample in seven is level with it."""
    hits = (np.arange(30) < 9).astype(float)
    patients = identify(np.arange(30))
    statistic = mean_over_images(hits, patients)
    resampled = bootstrap({"share": statistic}, patients, seed=3)["share"]
    assert np.mean(np.isclose(resampled, 0.3)) > 0.1
    given = BootstrapResult(confidence_interval=None, bootstrap_distribution=resampled.round(12), standard_error=None)
    expected = stats.bootstrap(
        (hits,),
        lambda sample, axis=-1: np.round(sample.mean(axis=axis), 12),
        n_resamples=0,
        bootstrap_result=given,
        method="BCa",
        vectorized=True,
    ).confidence_interval
    found = bca_interval(0.3, resampled, statistic.without_each())
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.filterwarnings("ignore:overflow")
def test_bca_of_values_whose_squares_are_no_numbers_is_none():
    assert bca_interval(1.0, np.linspace(0.0, 2.0, 2000), np.array([1e300, -1e300, 1.0])) is None


def test_percentile_is_the_central_95_per_cent():
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_acceleration_of_a_mean_is_its_skewness_over_six_root_n():
    values = np.random.default_rng(0).lognormal(size=500)
    deleted = (values.sum() - values) / 499
    assert acceleration(deleted) == pytest.approx(stats.skew(values) / (6 * 500**0.5), rel=1e-9)


def test_acceleration_of_groups_is_near_that_of_single_patients(monkeypatch):
    values = np.random.default_rng(0).lognormal(size=4000)
    statistic = FromRows(np.arange(4000), 4000, lambda w: (w @ values) / w.sum(axis=1))
    grouped = acceleration(statistic.without_each())
    monkeypatch.setattr("evalfm.statistics.resampling.EXACT_DELETIONS", 4000)
    exact = acceleration(statistic.without_each())
    assert grouped == pytest.approx(exact, abs=5 * 0.65 / 1000)


def test_acceleration_of_a_constant_is_zero():
    assert acceleration(np.ones(5)) == 0.0
    assert acceleration(np.array([np.nan])) == 0.0


def test_degenerate_bootstrap_has_no_interval_but_a_reason():
    made = interval(1.0, np.ones(100), np.ones(10))
    assert (made.low, made.high, made.percentile) == (None, None, None)
    assert "degenerate" in made.reason


def test_resamples_without_a_value_are_passed_over_only_if_few():
    resampled = np.arange(100.0)
    resampled[:5] = np.nan
    assert interval(50.0, resampled, np.arange(10.0)).reason is None
    resampled[:6] = np.nan
    assert interval(50.0, resampled, np.arange(10.0)).reason == "6% of the resamples have no value"


def test_an_extreme_estimate_falls_back_to_the_percentile():
    made = interval(1000.0, np.arange(101.0), np.arange(10.0))
    assert (made.low, made.high) == made.percentile == pytest.approx((2.5, 97.5))
    assert made.method.startswith("percentile")


def test_estimates_tell_value_interval_counts_and_method():
    values = np.random.default_rng(0).normal(size=60)
    patients = identify(np.repeat(np.arange(30), 2))
    measured = {"m": Measured(mean_over_images(values, patients), n=30, undefined="no")}
    found = estimates(measured, patients, seed=7)["m"]
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.low < found.value < found.high
    assert found.percentile is not None
    assert (found.n, found.unit, found.reason, found.note) == (30, "patients", None, None)
    assert found.method == "BCa, 2000 patient-clustered resamples"
    assert found == estimates(measured, patients, seed=7)["m"]
    assert found.low != estimates(measured, patients, seed=8)["m"].low


def test_out_of_fold_and_unknown_patients_are_said():
    values = np.random.default_rng(0).normal(size=60)
    patients = identify(np.arange(60), np.arange(60) % 2)
    measured = {"m": Measured(mean_over_images(values, patients), n=60, undefined="no")}
    found = estimates(measured, patients, unit="images")["m"]
    assert found.method == "BCa, 2000 single-image resamples within folds, excludes training variance"
    assert found.unit == "images"


def test_absent_values_small_groups_and_given_estimates():
    patients = identify(np.arange(20))
    values = np.random.default_rng(0).normal(size=20)
    none = mean_over_images(values, patients, np.zeros(20, dtype=bool))
    given = Estimate.absent("because")
    found = estimates(
        {
            "none": Measured(none, n=0, undefined="no lesion"),
            "few": Measured(mean_over_images(values, patients), n=20, undefined="no"),
            "class": Measured(mean_over_images(values, patients), n=99, undefined="no", fewest=29, note="more"),
            "enough": Measured(mean_over_images(values, patients), n=20, undefined="no", fewest=30),
            "given": given,
        },
        patients,
    )
    assert found["none"].value is None
    assert found["none"].reason == "no lesion"
    assert found["few"].note == "interval approximate"
    assert found["class"].note == "interval approximate; more"
    assert found["enough"].note is None
    assert found["given"] is given


def test_one_patient_has_a_value_and_no_interval():
    patients = identify(["a", "a"])
    measured = {"m": Measured(mean_over_images(np.array([1.0, 2.0]), patients), n=1, undefined="no")}
    found = estimates(measured, patients)["m"]
    assert (found.value, found.low) == (1.5, None)
    assert "no interval" in found.reason


def test_coverage_of_auroc_with_three_images_per_patient():
    # 60 positive and 200 negative patients, AUROC .75, images of a patient correlated by half. 200 studies:
    # at true coverage .95 fewer than 178 or more than 199 hits has probability below 1e-4.
    separation = 2**0.5 * stats.norm.ppf(0.75)
    generator = np.random.default_rng(20240)
    target = np.repeat(np.r_[np.ones(60), np.zeros(200)], 3)
    patients = identify(np.repeat(np.arange(260), 3))
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 200, 0.95)
    hits, naive = 0, 0
    for study in range(200):
        person = np.repeat(generator.normal(size=260), 3)
        score = (person + generator.normal(size=780)) / 2**0.5 + separation * target
        statistic = Auroc(target, score, patients.codes, patients.count)
        resampled = bootstrap({"a": statistic}, patients, resamples=400, seed=study)["a"]
        made = interval(statistic.on_the_data(), resampled, statistic.without_each())
        hits += made.low <= 0.75 <= made.high
        rows = identify(np.arange(780))
        single = Auroc(target, score, rows.codes, rows.count)
        resampled = bootstrap({"a": single}, rows, resamples=100, seed=study)["a"]
        naive += percentile_interval(resampled)[0] <= 0.75 <= percentile_interval(resampled)[1]
    assert low <= hits <= high
    assert naive < low


def test_estimate_is_plain_in_json():
    estimate = Estimate(0.5, 0.4, 0.6, (0.4, 0.6), "BCa", 10, note="careful")
    assert estimate.to_json()["note"] == "careful"
    assert estimate.to_json()["percentile"] == (0.4, 0.6)


def test_mean_and_interval_are_those_of_a_t_test():
    values = np.random.default_rng(0).normal(0.7, 0.1, 40)
    mean, deviation = over_episodes(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean.value == pytest.approx(values.mean())
    assert (mean.low, mean.high) == pytest.approx(tuple(reference))
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert (mean.n, mean.unit) == (40, "episodes")
    assert "share images" in mean.method


def test_no_interval_of_one_episode_or_of_equal_ones():
    alone, deviation = over_episodes([0.8])
    assert (alone.value, alone.low, deviation) == (0.8, None, None)
    assert alone.reason == "one episode has no spread"
    equal, deviation = over_episodes([0.5, 0.5, 0.5])
    assert (equal.value, equal.low, equal.high, deviation) == (0.5, None, None, 0.0)
    assert "same value" in (equal.reason or "")
