"""Every sentence of a verdict beside the figures it is said of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalfm.analysis.contrasts import (
    AttributeReport,
    Gap,
    LevelContrast,
    SizeTest,
    ValueOutcome,
)
from evalfm.analysis.verdicts import family_words, operating_words, shortcut_words, size_verdict, value_verdict, verdict
from evalfm.statistics.adjusted import AdjustedEffect
from evalfm.statistics.association import Effect
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.fixed_label import FixedLabel, LabelEffect
from evalfm.statistics.gaps import LevelGap

AGE = ("age", "sex")


def contrast(
    effect: float, p: float | None, area: float, area_p: float | None, *, separated: bool = False, **facts: object
) -> LevelContrast:
    known = {"detectable": 0.51, "p": p, "standardised": effect} | facts
    fixed = FixedLabel(
        Estimate(area, area - 0.05, area + 0.05),
        area_p,
        LabelEffect(effect, effect - 1, effect + 1, **known),
        "t",
        separated,
    )
    return LevelContrast("AP", {}, None, None, {0: fixed, 1: fixed}, Effect(None, reason="none"), p, "", area_p)


def disagreeing(effect: float, area: float, p: float, **pairs: Estimate) -> LevelContrast:
    blind = Estimate(0.5, 0.45, 0.55)
    return replace(contrast(effect, p, area, p), cross={"bpsn": blind, "bnsp": blind, **pairs})


WRONG, OPEN = Estimate(0.2, 0.1, 0.4), Estimate(0.4, 0.3, 0.5)


def test_a_shortcut_needs_the_association_and_conflicting_pairs_in_the_wrong_order():
    said = shortcut_words("tube", disagreeing(0.9, 0.8, 0.001, bpsn=WRONG))
    assert said is not None
    assert "finding without it rank below images without the finding with tube = AP" in said
    assert "conflicting pairs 0.200 [0.100, 0.400]" in said
    against = shortcut_words("tube", disagreeing(-0.9, 0.2, 0.001, bnsp=WRONG))
    assert against is not None
    assert "finding with tube = AP rank below images without the finding without it" in against
    for nothing in (
        disagreeing(0.9, 0.8, 0.3, bpsn=WRONG),
        disagreeing(0.9, 0.8, 0.001, bpsn=OPEN),
        disagreeing(0.9, 0.8, 0.001, bnsp=WRONG),
        disagreeing(-0.9, 0.2, 0.001, bpsn=WRONG),
        disagreeing(0.9, 0.8, 0.001, bpsn=Estimate.absent("few patients")),
    ):
        assert shortcut_words("tube", nothing) is None


CASES = {
    "both, up": (contrast(0.4, 0.01, 0.6, 0.01), "Among negatives the score is higher with view = AP: an"),
    "both, down": (
        contrast(-0.4, 0.01, 0.4, 0.01),
        "Among negatives the score is lower with view = AP: an association",
    ),
    "effect alone": (
        contrast(0.4, 0.01, 0.52, 0.3),
        "Among negatives the score is associated with view = AP after adjustment for age, sex; not without: higher "
        "with it (+0.40 standard deviations, p 0.010), without adjustment AUROC 0.520, p 0.300.",
    ),
    "area alone": (
        contrast(0.1, 0.4, 0.62, 0.002),
        "Among negatives the score is associated with view = AP without adjustment; not after adjustment for age, sex: "
        "higher with it (AUROC 0.620, p 0.002), adjusted +0.10 standard deviations, p 0.400.",
    ),
    "reversed": (
        contrast(-0.4, 0.01, 0.62, 0.002),
        "Among negatives adjustment for age, sex reverses the direction with view = AP: without it the score is higher "
        "(AUROC 0.620, p 0.002), with it lower (-0.40 standard deviations, p 0.010).",
    ),
    "neither": (
        contrast(0.1, 0.4, 0.55, 0.2),
        "No association with view = AP was detected among negatives; an effect of 0.51 standard deviations could have "
        "been detected with 80 % power.",
    ),
    "apart": (contrast(3.0, 0.01, 1.0, 0.01, separated=True), "Among negatives every score with view = AP is higher"),
    "no effect": (
        contrast(0.0, None, 0.62, 0.002, reason="attribute and covariates say the same"),
        "Cannot be said for view = AP: attribute and covariates say the same. Without adjustment the score is higher "
        "with it (AUROC 0.620, p 0.002).",
    ),
    "nothing": (contrast(0.0, None, 0.5, None, reason="too few"), "Cannot be said for view = AP: too few."),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_agrees_with_the_figures_beside_it(case: str) -> None:
    given, words = CASES[case]
    assert verdict("view", given, AGE).startswith(words)
    associated = case in ("both, up", "both, down", "apart")
    assert given.associated == associated
    # What could have been detected is said only where nothing was.
    assert ("could have been detected" in verdict("view", given, AGE)) == (case == "neither")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "effect alone",
            "the mean score is higher with view = AP (+0.40 standard deviations, p 0.010), but its AUROC",
        ),
        ("area alone", "the score ranks higher with view = AP (AUROC 0.620, p 0.002), but its mean does not differ"),
        ("reversed", "its mean and its ranks point in opposite ways"),
    ],
)
def test_without_covariates_no_adjustment_is_spoken_of(case: str, words: str) -> None:
    said = verdict("view", CASES[case][0])
    assert words in said
    assert "adjust" not in said


def test_lost_rows_and_patient_means_are_said() -> None:
    said = verdict("view", contrast(0.4, 0.01, 0.6, 0.01, left_out=17, unit="patients"), AGE)
    assert said.endswith(
        "The adjusted effect leaves out 17 images without a known age or sex (taken as missing completely at random). "
        "Few patients: the effect is of patient means, by permutations."
    )
    assert "leaves out" not in verdict("view", contrast(0.4, 0.01, 0.6, 0.01), AGE)


def test_significance_is_after_correction() -> None:
    raw = contrast(0.4, 0.01, 0.6, 0.01)
    assert raw.associated
    assert not replace(raw, corrected=0.06).associated
    assert not replace(raw, corrected_auroc=0.06).associated
    assert verdict("view", replace(raw, corrected=0.06, corrected_auroc=0.06)).startswith("No association")


def test_gaps_that_are_found_are_said_with_their_numbers_and_others_are_named() -> None:
    gaps = {
        "sensitivity": LevelGap(0.6, 0.8, Effect(-0.2, -0.3, -0.1, 0.15, 0.001)),
        "specificity": LevelGap(0.9, 0.9, Effect(0.0, -0.1, 0.1, 0.15, 0.9)),
        "ppv": LevelGap(None, None, Effect(None, reason="few")),
    }
    corrected = {"sensitivity": 0.003, "specificity": 0.9, "ppv": None}
    given = replace(contrast(0.1, 0.4, 0.55, 0.2), gaps=gaps, corrected_gaps=corrected)
    assert operating_words(AttributeReport("view", 0, (), (given,), None)) == [
        "Sensitivity with view = AP minus elsewhere: -0.200 [-0.300, -0.100], p 0.003.",
        "No gap with view = AP was detected in specificity.",
    ]
    tested = replace(given, corrected_gaps={**corrected, "ppv": 0.5})
    said = operating_words(AttributeReport("view", 0, (), (tested,), None), 0.05)
    assert said[1] == "No gap with view = AP was detected in specificity, PPV at a prevalence of 0.05."


def test_families_are_counted_in_words() -> None:
    assert "2 adjusted effects, 12 gaps" in family_words({"adjusted effects": 2, "gaps": 12, "tests": 0})
    assert "tests" not in family_words({"adjusted effects": 2, "tests": 0})
    assert family_words({}) == ""


def test_values_and_sizes() -> None:
    outcome = ValueOutcome("Dice", "view", (), 0, (), ())
    found = AdjustedEffect(-0.1, -0.2, -0.05, 0.08, 0.01, left_out=3, unit="patients")
    said = value_verdict(outcome, Gap("AP", found, 0.02, ""), 0.02)
    assert said.startswith("Dice is lower with view = AP by 0.1 [0.05, 0.2]: an association. 3 images lack a covariate")
    assert said.endswith("Few patients: of patient means, by permutations.")
    assert "no difference with view = AP was detected" in value_verdict(outcome, Gap("AP", found, 0.2, ""), 0.2)
    assert "is lower with view = AP by 0.1 (p 0.020)" in size_verdict("Dice", "view", SizeTest("AP", found, 0.02))
    assert "one of 0.08 could have been" in size_verdict("Dice", "view", SizeTest("AP", found, 0.2))
    absent = AdjustedEffect(None, reason="too few")
    assert size_verdict("Dice", "view", SizeTest("AP", absent)).endswith("cannot be said for view = AP (too few).")
