"""Smooth calibration against statsmodels on patsy's splines, its band, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from patsy import dmatrix
from scipy import stats
from scipy.special import expit, logit

from evalfm.statistics.calibration_curve import KNOTS, calibration_curve, natural_spline


def study(n=400, images=1, seed=0):
    generator = np.random.default_rng(seed)
    patients = n // images
    shared, own = np.repeat(generator.normal(size=(2, patients)), images, axis=1), generator.normal(size=(2, n))
    line, luck = own if images == 1 else (shared + own) / 2**0.5
    target = stats.norm.cdf(luck) < expit(0.6 * line + 0.3 * line**2 - 0.5)
    return target.astype(float), expit(line), np.repeat(np.arange(patients), images)


def test_the_spline_is_straight_beyond_its_outer_knots_and_spans_patsys():
    knots = np.array([-1.0, 0.0, 0.7, 2.0])
    ends = natural_spline(np.r_[np.linspace(-6, -1, 9), np.linspace(2, 8, 9)], knots)
    for part in (ends[:9], ends[9:]):
        assert np.abs(np.diff(part, 2, axis=0)).max() < 1e-9
    value = np.linspace(-3, 3, 50)
    inner = ", ".join(map(str, knots[1:-1]))
    basis = dmatrix(f"cr(x, knots=[{inner}], lower_bound=-1.0, upper_bound=2.0) - 1", {"x": value.clip(-1, 2)})
    inside = (value >= -1) & (value <= 2)
    ours = np.hstack([np.ones((50, 1)), natural_spline(value, knots)])
    fitted, *_ = np.linalg.lstsq(np.asarray(basis)[inside], ours[inside], rcond=None)
    np.testing.assert_allclose(np.asarray(basis)[inside] @ fitted, ours[inside], atol=1e-9)


@pytest.mark.parametrize("images", [1, 4])
def test_curve_and_band_are_those_of_a_clustered_glm(images):
    target, score, codes = study(400, images)
    x = logit(score)
    knots = np.quantile(x, KNOTS)
    design = sm.add_constant(natural_spline(x, knots))
    fit = sm.GLM(target, design, family=sm.families.Binomial()).fit(
        tol=1e-12, cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False}
    )
    curve = calibration_curve(target, score, codes, points=11)
    at = sm.add_constant(natural_spline(logit(curve.probability), knots), has_constant="add")
    np.testing.assert_allclose(curve.share, expit(at @ fit.params), rtol=1e-6)
    patients = 400 // images
    error = np.sqrt(np.einsum("gi,ij,gj->g", at, fit.cov_params(), at) * patients / (patients - 1))
    reach = stats.t.ppf(0.975, patients - 1) * error
    np.testing.assert_allclose(logit(curve.low), at @ fit.params - reach, rtol=1e-5)
    np.testing.assert_allclose(logit(curve.high), at @ fit.params + reach, rtol=1e-5)


def test_few_positives_have_a_straight_line_on_the_logit():
    target, score, codes = study()
    few = np.where(np.cumsum(target) <= 20, target, 0.0)
    curve = calibration_curve(few, score, codes)
    line = logit(curve.share)
    fit = sm.Logit(few, sm.add_constant(logit(score))).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(line, fit.params[0] + fit.params[1] * logit(curve.probability), atol=1e-5)


def test_the_band_covers_the_true_curve():
    held = []
    for seed in range(100):
        target, score, codes = study(600, 3, seed)
        curve = calibration_curve(target, score, codes, points=41)
        inside = (curve.probability > 0.1) & (curve.probability < 0.9)
        line = logit(curve.probability)
        truth = expit(0.6 * line + 0.3 * line**2 - 0.5)
        held.append(((curve.low <= truth) & (truth <= curve.high))[inside].mean())
    # Points of a curve go together, and a cubic with four knots is no parabola.
    assert 0.88 < np.mean(held) < 0.98


def test_where_there_is_no_curve():
    score = np.linspace(0.1, 0.9, 20)
    codes = np.arange(20)
    assert calibration_curve(np.ones(20), score, codes) is None
    assert calibration_curve(np.arange(20) % 2, np.full(20, 0.3), codes) is None
    assert calibration_curve(np.arange(20) >= 10, score, codes) is None
    assert calibration_curve(np.arange(20) % 2, score, np.zeros(20, dtype=int)) is None
    assert calibration_curve(np.arange(20) % 2, (score > 0.5) * 1.0, codes) is not None
