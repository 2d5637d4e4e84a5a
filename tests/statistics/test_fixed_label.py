"""Association at fixed label against statsmodels, with nulls that must stay null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from evalfm.statistics.association import effective_clusters
from evalfm.statistics.auroc import auroc_covariance
from evalfm.statistics.fixed_label import as_logit, at_fixed_label
from evalfm.statistics.subgroups import SubgroupScores, cross_aurocs
from tests.statistics.test_subgroups import study


@pytest.mark.parametrize("truth", [0, 1])
def test_the_effect_is_that_of_gee_within_the_label_with_bias_reduced_covariance(truth: int) -> None:
    data = study(800, effect=0.7, per_patient=2, seed=3)
    age = np.random.default_rng(5).normal(60, 10, 800)
    found = at_fixed_label(SubgroupScores.of(**data), covariates={"age": age})[truth].effect
    rows = np.asarray(data["target"]) == truth
    low, *inner, high = np.quantile(age[rows], [0, 1 / 3, 2 / 3, 1])
    frame = pd.DataFrame(
        {
            "s": as_logit(data["score"])[rows],
            "a": data["member"].astype(float)[rows],
            "age": age[rows],
            "g": data["patient"][rows],
        }
    )
    spline = f"cr(age, knots={inner}, lower_bound={low}, upper_bound={high}, constraints='center')"
    formula = spline.replace("np.float64", "")
    fitted = smf.gee(f"s ~ a + {formula}", "g", frame, cov_struct=sm.cov_struct.Independence()).fit(
        cov_type="bias_reduced"
    )
    assert found.value == pytest.approx(fitted.params["a"], rel=1e-6)
    effective = [each.value_counts() for _, each in frame.groupby("a")["g"]]
    freedom = int(min(each.sum() ** 2 / (each**2).sum() for each in effective)) - 1
    assert (found.method, found.degrees_of_freedom) == ("clustered by patient, t", freedom)
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, freedom) * fitted.bse["a"], rel=1e-5)
    assert found.p == pytest.approx(2 * t.sf(abs(fitted.params["a"] / fitted.bse["a"]), freedom), rel=1e-4)
    spread = as_logit(data["score"])[np.asarray(data["target"]) == 0].std(ddof=1)
    assert found.standardised == pytest.approx(fitted.params["a"] / spread, rel=1e-6)


def test_what_happens_at_one_label_leaves_the_other_alone() -> None:
    data = study(800, effect=0.4, per_patient=2, seed=3)
    age = np.random.default_rng(5).normal(60, 10, 800)
    plain = at_fixed_label(SubgroupScores.of(**data), covariates={"age": age}, permutations=99)
    positive = np.asarray(data["target"]) == 1
    moved = {**data, "score": np.where(positive, data["score"] ** 2, data["score"])}
    other = at_fixed_label(SubgroupScores.of(**moved), covariates={"age": age}, permutations=99)
    assert other[0] == plain[0]
    assert other[1].effect.value != plain[1].effect.value


def test_rows_without_a_covariate_leave_the_effect_alone_and_are_counted_by_label() -> None:
    data = study(800, effect=0.4, seed=3)
    age = np.random.default_rng(5).normal(60, 10, 800)
    lost = np.random.default_rng(6).random(800) < 0.2
    found = at_fixed_label(SubgroupScores.of(**data), {"age": np.where(lost, np.nan, age)}, permutations=99)
    kept = at_fixed_label(
        SubgroupScores.of(**{name: column[~lost] for name, column in data.items()}),
        {"age": age[~lost]},
        permutations=99,
    )
    for truth in (0, 1):
        count = int((lost & (np.asarray(data["target"]) == truth)).sum())
        assert found[truth].effect.left_out == count > 0
        assert found[truth].effect.value == pytest.approx(kept[truth].effect.value)
        # The AUROC is of all rows.
        assert found[truth].auroc.n > kept[truth].auroc.n
        assert found[truth].p == at_fixed_label(SubgroupScores.of(**data), permutations=99)[truth].p


def test_few_effective_patients_give_nothing() -> None:
    # Three patients have 100 of the 130 images with the attribute.
    sizes = [34, 33, 33, *[1] * 30, *[1] * 100]
    patient = np.repeat(np.arange(len(sizes)), sizes)
    member = patient < 33
    score = np.random.default_rng(0).random(len(patient))
    found = at_fixed_label(SubgroupScores.of(np.zeros(len(patient)), score, member, patient))[0]
    assert found.auroc.reason is not None
    assert found.auroc.reason.startswith("needs 10 effective patients of either level at label 0; a few patients have")
    assert found.effect.reason == found.auroc.reason
    assert found.effect.effective_patients == pytest.approx(130**2 / (34**2 + 2 * 33**2 + 30))
    assert (found.p, found.effect.p) == (None, None)


def test_a_tie_between_label_and_attribute_alone_is_no_association() -> None:
    """Size: 200 null studies at the 5 % level; 3 to 21 rejections lie within the binomial bounds at p < 1e-4."""
    rejected = {"effect": 0, "auroc": 0}
    for seed in range(200):
        fixed = at_fixed_label(SubgroupScores.of(**study(300, seed=seed, per_patient=3)), permutations=199)[0]
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
    freedom = int(min(effective_clusters(names[member]), effective_clusters(names[~member]))) - 1
    assert (found.auroc.high - found.auroc.low) / 2 == pytest.approx(t.isf(0.025, freedom) * error, rel=1e-10)
    assert found.method == "clustered, t"
    assert found.p == pytest.approx(2 * t.sf(abs(found.auroc.value - 0.5) / error, freedom), rel=1e-10)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("effect", [0.0, 0.4, 0.8])
def test_interval_and_p_of_permutations_say_the_same(constant: bool, effect: float) -> None:
    for seed in range(8):
        data = study(120, effect=effect, per_patient=1 if constant else 2, seed=seed)
        for found in at_fixed_label(SubgroupScores.of(**data), permutations=199).values():
            if found.p is not None:
                assert "permutations" in found.method
                assert found.excludes_chance == (found.p <= 0.05), (seed, found)
            effect_found = found.effect
            if effect_found.p is not None:
                assert "permutations" in effect_found.method
                assert (effect_found.low * effect_found.high > 0) == (effect_found.p <= 0.05), (seed, effect_found)


def test_a_score_that_is_the_same_among_negatives_has_no_effect_there_and_no_garbage() -> None:
    data = study(400, effect=0.5)
    # .1 + .2 thirty times over has a mean that is not itself: a standard deviation of rounding.
    data["score"] = np.where(data["target"] == 1, data["score"], 0.1 + 0.2)
    fixed = at_fixed_label(SubgroupScores.of(**data))
    assert fixed[0].effect.value is None
    assert fixed[0].effect.reason == "the score is constant at label 0"
    assert (fixed[0].auroc.value, fixed[0].auroc.low, fixed[0].p) == (0.5, None, None)
    assert not fixed[0].excludes_chance
    assert fixed[1].effect.p is not None
    assert fixed[1].effect.standardised is None
    assert fixed[1].effect.detectable is None
    folds = np.arange(400) % 2
    # There is no scale to bring the folds to.
    assert [each.effect.reason for each in at_fixed_label(SubgroupScores.of(**data, folds=folds)).values()] == [
        "the score is constant at label 0",
        "the score is constant at label 1",
    ]


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
    assert found.effect.p == pytest.approx(1 / 2001)
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
    assert fixed.effect.reason == "the score is constant at label 0"
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
