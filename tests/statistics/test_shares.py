"""Shares: Wilson against statsmodels, clusters, and the ends that a bootstrap cannot see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import Average, WeightedSum, identify
from evalfm.statistics.shares import Share


def share_of(hits, codes=None, **options):
    hits = np.asarray(hits, dtype=float)
    codes = np.arange(len(hits)) if codes is None else codes
    return Share(hits, np.ones(len(hits)), codes, int(codes.max()) + 1, **options)


def test_one_image_a_patient_and_many_patients_is_wilson_of_statsmodels():
    hits = (np.arange(4000) < 3100).astype(float)
    found = share_of(hits).own_interval()
    assert (found.low, found.high) == pytest.approx(proportion_confint(3100, 4000, method="wilson"), abs=2e-5)


def test_an_image_stored_thrice_is_no_more_evidence():
    hits = (np.arange(60) < 45).astype(float)
    once, thrice = share_of(hits), share_of(np.repeat(hits, 3), np.repeat(np.arange(60), 3))
    assert thrice.own_interval().low == pytest.approx(once.own_interval().low, abs=1e-12)
    assert thrice.own_interval().high == pytest.approx(once.own_interval().high, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_or_none_has_an_interval_by_effective_patients(value):
    codes = np.repeat(np.arange(11), [20] + [1] * 10)
    found = share_of(np.full(30, value), codes).own_interval()
    # (Σn)² / Σn² = 900 / 410 patients, however many images.
    even = share_of(np.full(11, value)).own_interval()
    width = found.high - found.low
    assert "effective number 2 of patients" in found.method
    assert width > even.high - even.low
    assert (found.low == 0.0) == (value == 0.0)
    assert (found.high == 1.0) == (value == 1.0)


def test_what_is_shown_in_place_of_a_share_has_its_bounds():
    hits = (np.arange(40) < 30).astype(float)
    plain, shown = share_of(hits).own_interval(), share_of(hits, shown=lambda share: 2 * share / (1 + share))
    assert shown.on_the_data() == pytest.approx(2 * 30 / 70)
    assert shown.own_interval().low == pytest.approx(2 * plain.low / (1 + plain.low))


def test_one_patient_has_no_interval():
    assert share_of(np.ones(5), np.zeros(5, dtype=int)).own_interval().reason == "one patient only: no interval"


def test_averages_of_perfect_shares_take_their_bounds_in_the_mean():
    patients = identify(np.arange(30))
    parts = [share_of(np.ones(30)), Share(np.arange(30) < 10, np.arange(30) < 10, np.arange(30), 30)]
    lows = [part.own_interval().low for part in parts]
    for statistic in (Average(parts, "labels"), WeightedSum(parts, [0.5, 0.5])):
        found = estimates({"": Measured(statistic, 30, "none")}, patients, resamples=50)[""]
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(np.mean(lows))
    assert WeightedSum(parts, [1.0, -1.0]).interval_of_parts() is None


@pytest.mark.parametrize(("patients", "images", "share"), [(20, 1, 0.95), (20, 3, 0.95), (50, 3, 0.9)])
def test_it_covers_where_most_or_all_are_found(patients, images, share):
    held, codes = 0, np.repeat(np.arange(patients), images)
    for seed in range(300):
        generator = np.random.default_rng(seed)
        shared = np.repeat(generator.normal(size=patients), images)
        latent = (shared + generator.normal(size=patients * images)) / 2**0.5
        found = share_of(latent < norm.ppf(share), codes).own_interval()
        held += found.low <= share <= found.high
    # Of 300 at 95 % fewer than 272 have probability 1e-3.
    assert held >= 272


def test_the_bounds_by_hand_in_uneven_clusters():
    hits, codes = np.array([1.0, 1, 1, 1, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 2, 3, 3])
    sizes, found = np.bincount(codes), np.bincount(codes, hits)
    p = 7 / 9
    variance = 4 / 3 * ((found - p * sizes) ** 2).sum() / 81
    n = p * (1 - p) / variance
    z = t.ppf(0.975, 81 / (sizes**2).sum() - 1)
    middle, reach = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    bounds = share_of(hits, codes).own_interval()
    assert bounds.low == pytest.approx((middle - reach) / (1 + z**2 / n))
    assert bounds.high == pytest.approx((middle + reach) / (1 + z**2 / n))
