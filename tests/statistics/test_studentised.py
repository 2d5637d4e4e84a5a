"""Bootstrap-t against scipy and the jackknife, its coverage beside that of BCa, and L-moments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evalfm.statistics.agreement import concordance, lower_limit, moment_columns, pearson, root_mean_square_error
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import FromSums, identify, patient_weights
from evalfm.statistics.studentised import (
    FISHER,
    HEAVY,
    LOG,
    LOG_OF_REST,
    MOST_ERRORS,
    PLAIN,
    Errors,
    bootstrap_t,
    l_kurtosis,
)


def study(patients=60, images=3, seed=0):
    generator = np.random.default_rng(seed)
    shared, own = generator.normal(size=(2, patients)), generator.normal(size=(2, patients * images))
    target, error = (np.repeat(shared, images, axis=1) + own) / 2**0.5
    return target, target + 0.7 * error, np.repeat(np.arange(patients), images)


OF = {
    "rmse": (root_mean_square_error, LOG),
    "ccc": (concordance, FISHER),
    "pearson": (pearson, FISHER),
    "limit": (lower_limit, PLAIN),
}


@pytest.mark.parametrize("name", OF)
def test_the_error_is_that_of_the_jackknife_over_patients(name):
    formula, scale = OF[name]
    target, prediction, codes = study(400)
    statistic = FromSums(moment_columns(target, prediction), codes, 400, formula, scale)
    left = scale.there(statistic.without_each())
    jackknife = np.sqrt(399 / 400 * ((left - left.mean()) ** 2).sum())
    assert Errors(statistic).on_the_data() == pytest.approx(jackknife, rel=0.02)


def test_the_error_of_a_resample_is_that_of_its_rows():
    target, prediction, codes = study(40)
    patients = identify([f"{code:02}" for code in codes])
    statistic = FromSums(moment_columns(target, prediction), patients.codes, 40, concordance, FISHER)
    weights = patient_weights(patients, 3, np.random.default_rng(0))
    for row, found in zip(weights, Errors(statistic).values(weights), strict=True):
        drawn = [np.flatnonzero(codes == code) for code in range(40) for _ in range(int(row[code]))]
        rows, who = np.concatenate(drawn), np.repeat(np.arange(40), 3)
        again = FromSums(moment_columns(target[rows], prediction[rows]), who, 40, concordance, FISHER)
        assert found == pytest.approx(Errors(again).on_the_data(), rel=1e-5)


def test_bounds_by_their_definition():
    generator = np.random.default_rng(0)
    resampled, errors = generator.lognormal(size=999), generator.uniform(0.5, 1, 999)
    low, high = np.quantile((np.log(resampled) - 0.1) / errors, [0.025, 0.975])
    assert bootstrap_t(np.exp(0.1), 0.3, resampled, errors, LOG) == pytest.approx(
        (np.exp(0.1 - high * 0.3), np.exp(0.1 - low * 0.3))
    )


def test_no_bound_is_further_off_than_six_errors():
    resampled, errors = np.random.default_rng(0).normal(size=999), np.full(999, 1e-3)
    low, high = bootstrap_t(0.0, 0.5, resampled, errors)
    assert (low, high) == (-0.5 * MOST_ERRORS, 0.5 * MOST_ERRORS)


def test_what_cannot_be_studentised_is_left_to_bca():
    assert bootstrap_t(1.0, 0.1, np.full(99, 1.0), np.full(99, 0.1), FISHER) is None
    assert bootstrap_t(0.5, 0.0, np.full(99, 0.5), np.zeros(99)) is None
    exact = np.arange(30.0)
    statistic = FromSums(moment_columns(exact, exact + 1), np.arange(30), 30, pearson, FISHER)
    found = estimates({"r": Measured(statistic, 30, "none")}, identify(np.arange(30)), resamples=99)["r"]
    assert found.reason.startswith("degenerate")


@pytest.mark.parametrize("scale", [PLAIN, LOG, FISHER, LOG_OF_REST])
def test_scales_come_back_and_rise(scale):
    values = np.linspace(0.1, 0.9, 9)
    assert scale.back(scale.there(values)) == pytest.approx(values)
    assert (np.diff(scale.there(values)) > 0).all()


def test_concordance_is_covered_better_than_by_bca():
    """Fifty patients of three images with normal errors."""
    truth, held = 2 / (2 + 0.49), {"t": 0, "bca": 0}
    for seed in range(200):
        target, prediction, codes = study(50, 3, seed)
        patients = identify([f"{code:02}" for code in codes])
        columns = moment_columns(target, prediction)
        for name, scale in (("t", FISHER), ("bca", None)):
            statistic = FromSums(columns, patients.codes, 50, concordance, scale)
            found = estimates({"": Measured(statistic, 50, "none")}, patients, resamples=300)[""]
            assert found.method.startswith("bootstrap-t" if scale else "BCa")
            held[name] += found.low <= truth <= found.high
    assert held["t"] > held["bca"]
    # Of 200 at 93 % fewer than 174 have probability 1e-3.
    assert held["t"] >= 174


def test_l_kurtosis_is_that_of_scipy_and_tells_t_from_the_normal():
    values = np.random.default_rng(0).normal(size=50)
    assert l_kurtosis(values) == pytest.approx(stats.lmoment(values)[3], abs=1e-12)
    assert np.isnan(l_kurtosis([1, 2, 3]))
    assert np.isnan(l_kurtosis([2, 2, 2, 2, 2]))
    draws = [np.random.default_rng(seed) for seed in range(100)]
    normal = np.mean([l_kurtosis(each.normal(size=150)) > HEAVY for each in draws])
    heavy = np.mean([l_kurtosis(each.standard_t(3, size=150)) > HEAVY for each in draws])
    assert normal < 0.1
    assert heavy > 0.85
