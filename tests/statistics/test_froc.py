"""FROC against loops over every threshold, and under weights against rows that are repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalfm.statistics.froc import RATES, froc_curve, froc_statistic
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify


def by_loops(lesion_score: np.ndarray, false_score: np.ndarray, images: int) -> float:
    """At each rate the most that any threshold finds with so few false positives."""
    found = []
    for rate in RATES:
        shares = [0.0]
        for threshold in {*lesion_score[~np.isnan(lesion_score)], *false_score}:
            if sum(score >= threshold for score in false_score) <= rate * images:
                shares.append(float(np.mean([score >= threshold for score in lesion_score])))
        found.append(max(shares))
    return float(np.mean(found))


@st.composite
def detections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Patients of images, lesions and false positives, with scores of few levels, so that many tie."""
    seed = draw(st.integers(0, 2**31))
    noise = np.random.default_rng(seed)
    images = np.repeat(np.arange(noise.integers(2, 7)), 2)
    lesions = noise.choice(images, noise.integers(1, 10))
    false = noise.choice(images, noise.integers(0, 30))
    score = noise.integers(0, 6, len(lesions)) / 5
    score[noise.random(len(score)) < 0.3] = np.nan
    return images, lesions, score, false, noise.integers(0, 6, len(false)) / 5


@given(detections())
def test_the_score_is_that_of_loops_whatever_ties(drawn):
    images, lesions, score, false, false_score = drawn
    statistic = froc_statistic(images, lesions, score, false, false_score, images.max() + 1)
    expected = by_loops(score, false_score, len(images))
    assert statistic.on_the_data() == pytest.approx(expected)
    assert froc_curve(score, false_score, len(images)).at().mean() == pytest.approx(expected)


@given(detections(), st.integers(0, 2**31))
def test_a_patient_that_is_drawn_twice_counts_twice(drawn, seed):
    images, lesions, score, false, false_score = drawn
    patients = int(images.max()) + 1
    weights = np.random.default_rng(seed).integers(0, 3, patients)
    statistic = froc_statistic(images, lesions, score, false, false_score, patients)
    repeated = np.repeat(score, weights[lesions])
    (value,) = statistic.values(weights[None].astype(float))
    if not len(repeated):
        assert np.isnan(value)
    else:
        expected = by_loops(repeated, np.repeat(false_score, weights[false]), int(weights[images].sum()))
        assert value == pytest.approx(expected)


def test_a_curve_has_a_point_for_each_threshold_and_never_falls():
    noise = np.random.default_rng(0)
    score, false = noise.normal(size=40), noise.normal(size=300)
    score[:5] = np.nan
    curve = froc_curve(score, false, 50)
    for threshold, wrong, share in zip(curve.threshold, curve.false_positives, curve.sensitivity, strict=True):
        assert wrong == (false >= threshold).sum() / 50
        assert share == pytest.approx((score >= threshold).sum() / 40)
    assert (np.diff(curve.false_positives) >= 0).all()
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert curve.sensitivity[-1] == 35 / 40


def test_a_perfect_detector_has_1_and_one_that_finds_nothing_0():
    images = np.arange(20)
    perfect = froc_statistic(images, images, np.full(20, 0.9), images[:0], np.empty(0), 20)
    nothing = froc_statistic(images, images, np.full(20, np.nan), images, np.full(20, 0.5), 20)
    assert (perfect.on_the_data(), nothing.on_the_data()) == (1.0, 0.0)


def test_without_a_lesion_there_is_no_curve():
    with pytest.raises(ValueError, match="an image and a lesion"):
        froc_curve(np.empty(0), np.array([0.5]), 3)
    statistic = froc_statistic(np.arange(3), np.arange(0), np.empty(0), np.arange(1), np.array([0.5]), 3)
    assert np.isnan(statistic.on_the_data())


def test_the_interval_holds_the_truth_of_a_model_in_most_studies():
    """Four lesions of a patient that go together: an interval over lesions would be half as wide."""
    rng = np.random.default_rng(4)

    def study(patients: int) -> tuple[np.ndarray, ...]:
        images = np.repeat(np.arange(patients), 2)
        skill = np.repeat(rng.normal(size=patients), 4)
        score = skill + 0.5 * rng.normal(size=4 * patients) + 1
        false = rng.choice(images, rng.poisson(2 * patients))
        return (
            images,
            np.repeat(np.arange(patients), 4),
            np.where(score > 0, score, np.nan),
            false,
            rng.normal(size=len(false)),
        )

    truth = froc_statistic(*study(20_000), 20_000).on_the_data()
    inside = 0
    for _ in range(60):
        statistic = froc_statistic(*study(80), 80)
        found = estimates({"": Measured(statistic, 80, "")}, identify(np.arange(80)), resamples=400)[""]
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= truth <= found.high
    assert inside >= 51  # 1 in 10,000 at a coverage of .95
