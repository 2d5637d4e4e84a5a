"""Association at fixed label against statsmodels, with nulls that must stay null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from evalfm.statistics.auroc import auroc_covariance
from evalfm.statistics.fixed_label import as_logit, at_fixed_label
from evalfm.statistics.subgroups import SubgroupScores, cross_aurocs
from tests.statistics.test_subgroups import study


def test_the_effect_is_that_of_gee_with_bias_reduced_covariance() -> None:
    data = study(400, effect=0.7, per_patient=2, seed=3)
    age = np.random.default_rng(5).normal(60, 10, 400)
    found = at_fixed_label(SubgroupScores.of(**data), covariates={"age": age})
    frame = pd.DataFrame(
        {
            "s": as_logit(data["score"]),
            "y": data["target"],
            "a": data["member"].astype(float),
            "age": age,
            "g": data["patient"],
        }
    )
    fitted = smf.gee("s ~ y + a + y:a + age", "g", frame, cov_struct=sm.cov_struct.Independence()).fit(
        cov_type="bias_reduced"
    )
    assert found[0].effect.value == pytest.approx(fitted.params["a"], rel=1e-6)
    assert found[1].effect.value == pytest.approx(fitted.params["a"] + fitted.params["y:a"], rel=1e-6)
    assert found[0].effect.degrees_of_freedom is not None
    half = (found[0].effect.high - found[0].effect.low) / 2
    assert half == pytest.approx(t.ppf(0.975, found[0].effect.degrees_of_freedom) * fitted.bse["a"], rel=1e-5)
    spread = frame["s"][frame["y"] == 0].std()
    assert found[0].effect.standardised == pytest.approx(fitted.params["a"] / spread, rel=1e-6)


def test_a_tie_between_label_and_attribute_alone_is_no_association() -> None:
    """Size: 200 null studies at the 5 % level; 3 to 21 rejections lie within the binomial bounds at p < 1e-4."""
    rejected = {"effect": 0, "auroc": 0}
    for seed in range(200):
        fixed = at_fixed_label(SubgroupScores.of(**study(300, seed=seed, per_patient=3)))[0]
        rejected["effect"] += bool(fixed.effect.p is not None and fixed.effect.p < 0.05)
        rejected["auroc"] += bool(fixed.p is not None and fixed.p < 0.05)
    assert all(1 <= count <= 23 for count in rejected.values()), rejected


def test_a_planted_effect_among_negatives_is_found() -> None:
    fixed = at_fixed_label(SubgroupScores.of(**study(800, effect=0.8, seed=1)))
    assert fixed[0].effect.p is not None
    assert fixed[0].effect.p < 0.001
    assert fixed[0].auroc.low > 0.5
    negatives = study(800, effect=0.8, seed=1)
    rows = negatives["target"] == 0
    assert fixed[0].auroc.value == pytest.approx(roc_auc_score(negatives["member"][rows], negatives["score"][rows]))


def test_severity_among_positives_leaves_the_negatives_alone() -> None:
    generator = np.random.default_rng(11)
    y = generator.random(2000) < 0.4
    size = np.where(y, generator.random(2000), 0)
    # Tubes go with large pneumothoraces; the score follows size and never sees a tube.
    a = generator.random(2000) < np.where(y, 0.2 + 0.7 * size, 0.2)
    s = 1 / (1 + np.exp(-(3 * size + generator.normal(size=2000))))
    patient = np.arange(2000).astype(str)
    found, fixed = (
        cross_aurocs(SubgroupScores.of(y, s, a, patient)),
        at_fixed_label(SubgroupScores.of(y, s, a, patient)),
    )
    assert found["gap"].low > 0
    assert fixed[0].p is not None
    assert fixed[0].p > 0.05
    assert fixed[1].p is not None
    assert fixed[1].p < 0.05


def test_logits_of_probabilities_and_scores_that_are_none() -> None:
    assert as_logit([0.5, 0.0, 1.0]) == pytest.approx([0, -13.815510, 13.815510], abs=1e-5)
    assert as_logit([-2.0, 3.0]).tolist() == [-2.0, 3.0]


def test_the_area_at_fixed_label_has_the_clustered_error() -> None:
    data = study(600, effect=0.3, per_patient=3, seed=4)
    rows = data["target"] == 0
    member, names = data["member"][rows], data["patient"][rows]
    found = at_fixed_label(SubgroupScores.of(**data))[0]
    error = auroc_covariance(member, data["score"][rows], names).covariance[0, 0] ** 0.5
    freedom = min(np.unique(names[member]).size, np.unique(names[~member]).size) - 1
    assert (found.auroc.high - found.auroc.low) / 2 == pytest.approx(norm.isf(0.025) * error, rel=1e-10)
    assert found.method == "clustered, t"
    assert found.p == pytest.approx(2 * t.sf(abs(found.auroc.value - 0.5) / error, freedom), rel=1e-10)


def test_a_score_that_is_the_same_among_negatives_has_no_effect_there_and_no_garbage() -> None:
    data = study(400, effect=0.5)
    # .1 + .2 thirty times over has a mean that is not itself: a standard deviation of rounding.
    data["score"] = np.where(data["target"] == 1, data["score"], 0.1 + 0.2)
    fixed = at_fixed_label(SubgroupScores.of(**data))
    assert fixed[0].effect.value is None
    assert fixed[0].effect.reason == "at label 0 the score has no spread beside the attribute's"
    assert (fixed[0].auroc.value, fixed[0].auroc.low, fixed[0].p) == (0.5, None, None)
    assert not fixed[0].excludes_chance
    assert fixed[1].effect.p is not None
    assert fixed[1].effect.standardised is None
    folds = np.arange(400) % 2
    # There is no scale to bring the folds to.
    assert {each.effect.reason for each in at_fixed_label(SubgroupScores.of(**data, folds=folds)).values()} == {
        "the score is constant"
    }


@pytest.mark.parametrize("constant", [True, False])
def test_levels_wholly_apart_exclude_chance_without_a_standard_error(constant: bool) -> None:
    data = study(300, per_patient=1 if constant else 3)
    spread = np.random.default_rng(0).random(300) / 10
    data["score"] = np.where(data["member"], 0.8, 0.2) + spread
    found = at_fixed_label(SubgroupScores.of(**data))[0]
    assert (found.auroc.value, found.auroc.low) == (1.0, None)
    assert found.auroc.reason == "the scores of the two levels lie wholly apart: no interval"
    assert found.separated
    assert found.excludes_chance
    assert found.effect.p is not None
    assert found.effect.p < 1e-6
    # Where patients may be exchanged the permutations still have a p.
    assert found.p == (pytest.approx(1 / 2001) if constant else None)
    data["score"] = np.where(data["member"], 0.8, 0.2)
    assert at_fixed_label(SubgroupScores.of(**data))[0].effect.p is None
    data["score"] = np.where(data["member"], 0.2, 0.8) + spread
    assert at_fixed_label(SubgroupScores.of(**data))[0].separated


def test_a_constant_score_has_no_effect_to_tell() -> None:
    data = study(400)
    data["score"] = np.full(400, 0.3)
    fixed = at_fixed_label(SubgroupScores.of(**data))[0]
    assert fixed.effect.value is None
    assert fixed.effect.reason == "the score is constant"
    assert fixed.auroc.value == 0.5
    assert fixed.p is None


def test_a_covariate_that_is_the_attribute_is_refused_with_the_reason() -> None:
    data = study(400)
    fixed = at_fixed_label(SubgroupScores.of(**data), covariates={"same": data["member"].astype(float)})
    assert fixed[0].effect.reason == "attribute and covariates say the same"


def test_heads_of_folds_may_have_scales_of_their_own() -> None:
    data = study(600, effect=0.6, seed=2)
    fold = np.arange(600) % 3
    plain = at_fixed_label(SubgroupScores.of(**data, folds=fold))
    logit = as_logit(data["score"])
    # A head that was regularised hard gives a fold a hundredth of the spread.
    other = 1 / (1 + np.exp(-(logit * np.array([1.0, 0.01, 3.0])[fold] + np.array([0.0, -2.0, 1.0])[fold])))
    moved = at_fixed_label(SubgroupScores.of(**{**data, "score": other}, folds=fold))
    for truth in (0, 1):
        assert moved[truth].effect.p == pytest.approx(plain[truth].effect.p, rel=1e-6)
        assert moved[truth].effect.standardised == pytest.approx(plain[truth].effect.standardised, rel=1e-6)
        assert moved[truth].auroc.value == pytest.approx(plain[truth].auroc.value)
    assert plain[0].effect.p is not None
    assert plain[0].effect.p < 0.01
