"""A level against the rest: statsmodels where it is large, permutations where it is small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy.stats import t

from evalfm.statistics.adjusted import LevelSizes, mean_difference
from evalfm.statistics.association import effective_clusters


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
    low, *inner, high = np.quantile(frame["area"], [0, 1 / 3, 2 / 3, 1]).tolist()
    formula = f"v ~ a + cr(area, knots={inner}, lower_bound={low}, upper_bound={high}, constraints='center')"
    fitted = smf.gee(formula, "g", frame, cov_struct=sm.cov_struct.Independence()).fit(cov_type="bias_reduced")
    assert found.value == pytest.approx(fitted.params["a"], rel=1e-7)
    freedom = int(min(effective_clusters(frame["g"][frame["a"] == side]) for side in (0, 1))) - 1
    assert (found.degrees_of_freedom, found.method, found.unit) == (freedom, "clustered by patient, t", "images")
    assert found.p == pytest.approx(2 * t.sf(abs(fitted.params["a"] / fitted.bse["a"]), freedom), rel=1e-5)
    assert found.high - found.low == pytest.approx(2 * t.ppf(0.975, freedom) * fitted.bse["a"], rel=1e-5)
    assert found.effective_patients == pytest.approx(freedom + 1, abs=1)


def test_small_levels_switch_to_patient_means() -> None:
    patient = np.repeat(np.arange(60), 3)
    member = patient < 20
    value = np.random.default_rng(0).normal(size=180) + 0.5 * member
    # One patient has many images: its mean counts as any other's.
    patient = np.concatenate([patient, np.zeros(6, dtype=int)])
    member, value = np.append(member, [True] * 6), np.append(value, [9.0] * 6)
    found = mean_difference(value, member, patient, permutations=199)
    means = pd.Series(value).groupby(patient).mean()
    assert found.unit == "patients"
    assert found.method == "199 permutations of residuals on patient means (Freedman and Lane)"
    assert found.value == pytest.approx(means[:20].mean() - means[20:].mean())
    assert found.value != pytest.approx(value[member].mean() - value[~member].mean(), rel=0.05)
    varying = np.tile([True, False, False], 30)
    other = mean_difference(value[:90], varying, patient[:90], permutations=199)
    assert (other.unit, "and within patients" in other.method) == ("images", True)


@pytest.mark.parametrize(("patients", "few"), [(49, True), (50, False)])
def test_fifty_patients_of_the_smaller_level_are_enough(patients: int, few: bool) -> None:
    member = np.arange(300) < patients
    found = mean_difference(np.random.default_rng(0).normal(size=300), member, np.arange(300), permutations=99)
    assert ("permutations" in found.method) == few


def test_images_of_few_patients_make_a_level_small_whatever_its_patients() -> None:
    sizes = [*[40] * 3, *[1] * 80]
    assert effective_clusters(np.repeat(np.arange(83), sizes)) == pytest.approx(200**2 / (3 * 1600 + 80))
    patient = np.repeat(np.arange(283), [*sizes, *[1] * 200])
    sized = LevelSizes.of(patient < 83, patient)
    assert (sized.patients, sized.few, sized.lacking()) == (83, True, "needs 10 effective patients of either level; "
        "a few patients have so many of the images that the smaller has 8.2")  # fmt: skip


def test_an_unknown_covariate_leaves_its_row_out_and_is_counted() -> None:
    frame = values()
    area = frame["area"].where(np.arange(240) % 6 > 0)
    found = mean_difference(frame["v"], frame["a"], frame["g"], {"area": area}, permutations=99)
    assert found.left_out == 40
    absent = mean_difference(frame["v"], frame["a"], frame["g"], {"area": frame["area"] * np.nan})
    assert (
        absent.reason == "needs 10 patients of either level; the smaller has 0 (240 images have an unknown covariate)"
    )


def test_folds_have_means_of_their_own() -> None:
    frame = values(effect=0.5)
    fold = frame["g"].to_numpy() % 3
    moved = frame["v"] + 10.0 * fold
    plain = mean_difference(frame["v"], frame["a"], frame["g"], folds=fold, permutations=99)
    assert mean_difference(moved, frame["a"], frame["g"], folds=fold, permutations=99).value == pytest.approx(
        plain.value
    )
    dummies = {str(each): (fold == each).astype(float) for each in (1, 2)}
    assert mean_difference(frame["v"], frame["a"], frame["g"], dummies, permutations=99).value == pytest.approx(
        plain.value
    )


def test_more_columns_than_patients_can_bear_are_refused() -> None:
    generator = np.random.default_rng(0)
    extra = {str(each): generator.normal(size=30) for each in range(8)}
    found = mean_difference(generator.normal(size=30), np.arange(30) < 15, np.arange(30), extra)
    assert found.reason == "30 patients are too few for the covariates' 25 columns"


def test_what_goes_with_the_area_alone_is_no_difference_once_it_is_held() -> None:
    """200 null studies: 1 to 23 rejections are within the binomial bounds at p < 1e-4; unadjusted it finds the area."""
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
    expected = mean_difference(kept["v"], kept["a"], kept["g"], {"area": kept["area"]})
    assert found == replace(expected, left_out=31)
