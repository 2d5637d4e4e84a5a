"""A small version of the benchmarks: sizes, power and coverage on drawn studies, within binomial bounds at p < 1e-4."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_studies import (
    CellDesign,
    SimulationDesign,
    cell_outcomes,
    clustered_normal,
    draw_cells,
    draw_scores,
    draw_study,
    p_values,
)
from scipy.stats import binom, norm

from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import compare_means
from evalfm.statistics.fixed_label import as_logit, at_fixed_label
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify, mean_over_images
from evalfm.statistics.subgroups import SubgroupScores

from .paired import compare_auroc

RARE = 1e-4
TIES = ("nothing", "label", "severity")
NULLS = [SimulationDesign(tie, patients=200) for tie in TIES] + [
    SimulationDesign(tie, patients=120, images=4, constant=constant) for tie in TIES for constant in (True, False)
]
EACH = 40
NO_NULL = {"severity": {"AUROC(a given y = 1)", "effect at y = 1", "stratum gap"}}
"""Where severity goes with the attribute and the score follows it, these find it, as they should."""


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("tie", TIES)
def test_studies_are_what_their_design_says(tie: str, constant: bool) -> None:
    study = draw_study(SimulationDesign(tie, patients=20_000, images=3, constant=constant), np.random.default_rng(0))
    y, a = study.label, study.attribute
    assert y.mean() == pytest.approx(0.4 * 0.8 + 0.6 * 0.2, abs=0.01)
    first, second = a.reshape(-1, 3)[:, :2].T
    assert bool((first == second).all()) is constant
    # At fixed label the score's logit has variance 1 and, in a patient, correlation one half.
    logit = np.where(y, np.nan, as_logit(study.score) + 1).reshape(-1, 3)
    pairs = logit[:, :2][np.isfinite(logit[:, :2]).all(axis=1)]
    assert np.nanvar(logit) == pytest.approx(1, abs=0.03)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(0.5, abs=0.03)
    # Nothing but what the tie says goes with the attribute.
    assert auroc(a[~y], study.score[~y]) == pytest.approx(0.5, abs=0.01)
    assert auroc(a[~y], study.false_area[~y]) == pytest.approx(0.5, abs=0.01)
    assert abs(a[y].mean() - a[~y].mean()) > 0.1 or tie == "nothing"
    # Four standard errors of a correlation in the ten thousand patients who have a lesion.
    sizes = np.corrcoef(a[y], study.log_area[y])[0, 1]
    assert sizes > 0.2 if tie == "severity" else abs(sizes) < 0.04


def test_the_effect_is_in_standard_deviations_of_the_logit() -> None:
    design = SimulationDesign("label", patients=40_000, effect=0.4)
    study, null = (draw_study(each, np.random.default_rng(3)) for each in (design, replace(design, effect=0.0)))
    moved = as_logit(study.score) - as_logit(null.score)
    assert np.allclose(moved, 0.4 * study.attribute)
    found = at_fixed_label(SubgroupScores.of(study.label, study.score, study.attribute, study.patient), permutations=1)[
        0
    ].effect
    assert found.value == pytest.approx(0.4, abs=0.05)


def test_scores_have_the_areas_that_are_asked_for() -> None:
    label, scores, patient = draw_scores(
        np.random.default_rng(0), (0.75, 0.9), positives=4000, negatives=9000, images=3
    )
    assert auroc(label, scores[:, 0]) == pytest.approx(0.75, abs=0.01)
    assert auroc(label, scores[:, 1]) == pytest.approx(0.9, abs=0.01)
    assert np.corrcoef(scores[~label].T)[0, 1] == pytest.approx(0.5, abs=0.02)
    one, other = scores[~label, 0].reshape(-1, 3)[:, :2].T
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(patient)) == 13_000


@pytest.fixture(scope="module")
def null_studies() -> dict[SimulationDesign, list[dict[str, float | None]]]:
    return {
        design: [p_values(draw_study(design, np.random.default_rng(seed)), 199) for seed in range(EACH)]
        for design in NULLS
    }


def rejected(studies: list[dict[str, float | None]], test: str) -> int:
    ps = [study[test] for study in studies]
    assert None not in ps, f"{test} gave no p"
    return sum(p <= 0.05 for p in ps if p is not None)


def test_every_test_holds_its_level_under_every_null(
    null_studies: dict[SimulationDesign, list[dict[str, float | None]]],
) -> None:
    names = next(iter(null_studies.values()))[0]
    for test in names:
        counts = {
            design: rejected(studies, test)
            for design, studies in null_studies.items()
            if test not in NO_NULL.get(design.tie, ())
        }
        assert max(counts.values()) <= binom.isf(RARE, EACH, 0.05), (test, counts)
        every = EACH * len(counts)
        low, high = binom.ppf(RARE, every, 0.05), binom.isf(RARE, every, 0.05)
        assert low <= sum(counts.values()) <= high, (test, counts)


CELLS = {
    "acts at one label": CellDesign(400, 120, 200, 120, covariate="negatives"),
    "opposite slopes, saturated, few": CellDesign(tubes=12, covariate="opposite", noise="saturated"),
    "bends, few": CellDesign(covariate="curved"),
    "skewed, few": CellDesign(tubes=10, noise="skewed"),
    "twice as wide, few": CellDesign(tubes=30, noise="unequal"),
    "heavy patients, varying": CellDesign(300, 90, 150, 75, images="heavy", constant=False, correlation=0.9),
    "geometric, constant": CellDesign(tubes=40, images="geometric", noise="skewed"),
}
"""Designs that break naive tests."""


@pytest.mark.parametrize("name", CELLS)
def test_effects_within_the_label_hold_their_level_and_their_intervals_cover(name: str) -> None:
    design, studies = CELLS[name], 60
    acts = {"none": (), "negatives": (0,)}.get(design.covariate, (0, 1))
    made = [
        cell_outcomes(draw_cells(design, np.random.default_rng(seed)), design.covariate != "none", 99)
        for seed in range(studies)
    ]
    for test in made[0]:
        if any(test == f"AUROC(a given y = {truth})" for truth in acts):
            continue
        tested = [each[test] for each in made if each[test].p is not None]
        # A level of few effective patients has no figure now and then.
        assert len(tested) >= 0.9 * studies
        assert sum(each.p <= 0.05 for each in tested) <= binom.isf(RARE, len(tested), 0.05), test
        if test != "verdict":
            covered = sum(each.low <= 0 <= each.high for each in tested)
            assert covered >= binom.ppf(RARE, len(tested), 0.95), test


def test_cells_are_what_their_design_says() -> None:
    generator = np.random.default_rng(0)
    study = draw_cells(CellDesign(3000, 900, 1000, 600, covariate="opposite"), generator)
    label, member = study.scores.target, study.scores.member
    assert (int(member[~label].sum()), int(member[label].sum())) == (900, 600)
    logit = as_logit(study.scores.score)
    slopes = [np.polyfit(study.covariate[rows], logit[rows], 1)[0] for rows in (~label, label)]
    assert slopes == pytest.approx([0.8, -0.8], abs=0.1)
    assert study.covariate[member].mean() - study.covariate[~member].mean() > 0.5
    heavy = draw_cells(CellDesign(3000, 900, 1000, 600, images="heavy", constant=False), generator).scores
    sizes = np.bincount(heavy.patient.astype(int))
    assert set(sizes) == {1, 40}
    assert (sizes == 40).mean() == pytest.approx(0.03, abs=0.01)
    assert 0 < heavy.member[heavy.patient == str(np.argmax(sizes))].mean() < 1
    flat = draw_cells(CellDesign(3000, 900, noise="saturated"), generator).scores
    assert (flat.score[~flat.target] < 1e-6).mean() == pytest.approx(0.25, abs=0.03)


def test_power_among_few_tubes_rises_with_their_number() -> None:
    shares = []
    for tubes in (10, 100):
        made = [
            cell_outcomes(draw_cells(CellDesign(tubes=tubes, effect=0.5), np.random.default_rng(seed)), False, 99)
            for seed in range(40)
        ]
        shares.append(sum(each["effect at y = 0"].p <= 0.05 for each in made))
        covered = sum(each["effect at y = 0"].low <= 0.5 <= each["effect at y = 0"].high for each in made)
        assert covered >= binom.ppf(RARE, 40, 0.95)
    # At a power of .95, as half a deviation has in 100 of 300, fewer than 31 of 40 have probability below 1e-4.
    assert shares[1] >= binom.ppf(RARE, 40, 0.95)
    assert shares[0] < shares[1]


def test_severity_is_found_where_it_is(null_studies: dict[SimulationDesign, list[dict[str, float | None]]]) -> None:
    for design, studies in null_studies.items():
        if design.tie == "severity":
            assert rejected(studies, "effect at y = 1") > binom.isf(RARE, EACH, 0.05)


def test_images_that_count_as_patients_lose_the_level() -> None:
    """What the bounds above would say of tests that forget who is whose."""
    design, counts = SimulationDesign(patients=120, images=4), {"effect": 0, "area": 0}
    for seed in range(100):
        study = draw_study(design, np.random.default_rng(seed))
        alone, negative = np.arange(len(study.label)), ~study.label
        fixed = at_fixed_label(SubgroupScores.of(study.label, study.score, study.attribute, alone), permutations=1)[0]
        area = mean_difference(study.false_area[negative], study.attribute[negative], alone[negative])
        counts["effect"] += fixed.effect.p < 0.05
        counts["area"] += area.p < 0.05
    assert min(counts.values()) > binom.isf(RARE, 100, 0.05), counts


def test_power_rises_with_the_dial() -> None:
    tests = ("AUROC(a given y = 0)", "effect at y = 0", "false-positive area", "Dice, adjusted", "verdict")
    shares = []
    for effect in (0.3, 0.6, 1.0):
        design = SimulationDesign("label", effect=effect)
        made = [p_values(draw_study(design, np.random.default_rng(seed)), 199) for seed in range(30)]
        shares.append([rejected(made, test) for test in tests])
    assert all(low < middle <= high for low, middle, high in zip(*shares, strict=True)), shares
    # At a power of .99 fewer than 26 of 30 have probability below 1e-4.
    assert min(shares[-1]) >= binom.ppf(RARE, 30, 0.99)


def test_the_paired_auroc_covers_the_true_difference() -> None:
    hits = {True: 0, False: 0}
    for seed in range(200):
        label, scores, patient = draw_scores(
            np.random.default_rng(seed), (0.8, 0.75), positives=40, negatives=80, images=4
        )
        for clustered in hits:
            found = compare_auroc(label, scores[:, 0], scores[:, 1], patient if clustered else None)
            hits[clustered] += found.low <= 0.05 <= found.high
    low, high = binom.ppf(RARE, 200, 0.95), binom.isf(RARE, 200, 0.95)
    assert low <= hits[True] <= high
    assert hits[False] < low


def test_means_and_their_paired_difference_are_covered() -> None:
    patient = np.repeat(np.arange(60), 3)
    patients = identify(patient)
    hits = {"mean": 0, "difference": 0, "images apart": 0}
    for seed in range(150):
        generator = np.random.default_rng(seed)
        one, other = np.abs(clustered_normal(generator, 60, 3)), 1.1 * np.abs(clustered_normal(generator, 60, 3))
        mean = estimates({"it": Measured(mean_over_images(one, patients), 60, "")}, patients, resamples=400)["it"]
        hits["mean"] += mean.low <= (2 / np.pi) ** 0.5 <= mean.high
        truth = -0.1 * (2 / np.pi) ** 0.5
        for name, groups in (("difference", patient), ("images apart", np.arange(180))):
            found = compare_means(one, other, groups)
            hits[name] += found.low <= truth <= found.high
    low, high = binom.ppf(RARE, 150, 0.95), binom.isf(RARE, 150, 0.95)
    assert low <= hits["mean"] <= high
    assert low <= hits["difference"] <= high
    assert hits["images apart"] <= hits["difference"]


def test_one_image_a_patient_is_plain_noise() -> None:
    drawn = clustered_normal(np.random.default_rng(0), 20_000)
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert norm.cdf(drawn).mean() == pytest.approx(0.5, abs=0.01)
