from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy.stats import t

from evalfm.statistics.subgroup_means import mean_difference


def values(n: int = 240, effect: float = 0.0, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n // 3), 3)
    area = generator.normal(size=n)
    a = generator.random(n) < 1 / (1 + np.exp(-area))
    own = generator.normal(scale=0.5, size=n // 3)[patient]
    return pd.DataFrame(
        {
            "v": 0.3 * area + effect * a + own + generator.normal(size=n),
            "a": a.astype(float),
            "area": area,
            "g": patient,
        }
    )


def test_it_is_gee_with_bias_reduced_covariance() -> None:
    frame = values(effect=0.4)
    found = mean_difference(frame["v"], frame["a"], frame["g"], {"area": frame["area"]})
    fitted = smf.gee("v ~ a + area", "g", frame, cov_struct=sm.cov_struct.Independence()).fit(cov_type="bias_reduced")
    assert found.value == pytest.approx(fitted.params["a"], rel=1e-8)
    smaller = min(frame["g"][frame["a"] == side].nunique() for side in (0, 1))
    assert found.degrees_of_freedom == smaller - 1
    assert found.p == pytest.approx(2 * t.sf(abs(fitted.params["a"] / fitted.bse["a"]), smaller - 1), rel=1e-6)
    assert found.high - found.low == pytest.approx(2 * t.ppf(0.975, smaller - 1) * fitted.bse["a"], rel=1e-6)


def test_what_goes_with_the_area_alone_is_no_difference_once_it_is_held() -> None:
    """200 null studies: 3 to 21 rejections are within the binomial bounds at p < 1e-4; unadjusted it finds the area."""
    held, bare = 0, 0
    for seed in range(200):
        frame = values(seed=seed)
        held += mean_difference(frame["v"], frame["a"], frame["g"], {"area": frame["area"]}).p < 0.05
        bare += mean_difference(frame["v"], frame["a"], frame["g"]).p < 0.05
    assert 1 <= held <= 23
    # More than a null test could reach within those bounds.
    assert bare > 23


def test_what_cannot_be_told_has_its_reason() -> None:
    frame = values()
    assert (
        mean_difference(frame["v"], np.arange(240) < 9, frame["g"]).reason
        == "needs 10 patients of either level; the smaller has 3"
    )
    assert mean_difference(np.ones(240), frame["a"], frame["g"]).reason == "the value is the same everywhere"
    same = mean_difference(frame["v"], frame["a"], frame["g"], {"same": frame["a"]})
    assert same.reason == "attribute and covariates say the same"


def test_a_value_that_is_the_attribute_has_no_error_that_rounding_made() -> None:
    frame = values()
    found = mean_difference(0.1 + 0.2 * frame["a"], frame["a"], frame["g"])
    assert (found.value, found.low, found.p) == (None, None, None)
    assert found.reason == "attribute and covariates say all of it: there is no standard error"
    held = mean_difference(0.3 * frame["area"], frame["a"], frame["g"], {"area": frame["area"]})
    assert held.p is None


def test_unknown_values_and_covariates_are_left_out() -> None:
    frame = values()
    area = frame["area"].where(np.arange(240) > 30)
    found = mean_difference(frame["v"], frame["a"], frame["g"], {"area": area})
    kept = frame[31:]
    assert found == mean_difference(kept["v"], kept["a"], kept["g"], {"area": kept["area"]})
