"""Gaps at the operating point: statsmodels and arithmetic by hand, drawn studies, and cells that have no figure."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from drawn_studies import CellDesign, draw_calibrated, draw_cells
from scipy.special import logit
from scipy.stats import binom, norm, t
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportions_ztest

from evalfm.statistics.gaps import (
    LevelGap,
    calibration_gap,
    clustered_rate,
    effective_rows,
    operating_gaps,
    predictive_gap,
    rate_gap,
)

GENERATOR = np.random.default_rng


def rows(hits: int, of: int, elsewhere: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    hit = np.concatenate([np.arange(of) < hits, np.arange(others) < elsewhere])
    return hit, np.arange(of + others) < of


@pytest.mark.parametrize("counts", [(18, 20, 50, 100), (20, 20, 90, 100), (12, 12, 1, 80)])
def test_of_single_images_a_rate_gap_is_newcombes_and_the_score_test(counts: tuple[int, int, int, int]) -> None:
    hit, member = rows(*counts)
    gap = rate_gap(hit, member, np.arange(len(hit)))
    hits, of, elsewhere, others = counts
    assert (gap.here, gap.elsewhere) == (hits / of, elsewhere / others)
    low, high = confint_proportions_2indep(hits, of, elsewhere, others, method="newcomb", compare="diff")
    assert (gap.difference.low, gap.difference.high) == pytest.approx((low, high), abs=1e-9)
    assert gap.difference.p == pytest.approx(proportions_ztest([hits, elsewhere], [of, others])[1], rel=1e-9)
    assert clustered_rate(hit[member], np.arange(of))[1:] == pytest.approx(
        proportion_confint(hits, of, method="wilson")
    )


def test_images_of_a_patient_who_says_the_same_count_once() -> None:
    hit, member = rows(15, 30, 40, 60)
    once = rate_gap(hit, member, np.arange(90))
    thrice = rate_gap(np.repeat(hit, 3), np.repeat(member, 3), np.repeat(np.arange(90), 3))
    assert effective_rows(np.repeat(hit[:30], 3) + 0.0, np.repeat(np.arange(30), 3)) == pytest.approx(30)
    statistic = norm.isf(once.difference.p / 2)
    assert thrice.difference.p == pytest.approx(2 * t(29).sf(statistic), rel=1e-9)
    assert thrice.difference.low < once.difference.low
    # As if every image were a patient.
    assert rate_gap(np.repeat(hit, 3), np.repeat(member, 3), np.arange(270)).difference.p < once.difference.p


def test_patients_at_both_levels_are_no_two_patients() -> None:
    generator = GENERATOR(0)
    patient = np.repeat(np.arange(150), 2)
    member = np.tile([True, False], 150)
    hit = (generator.normal(size=150)[patient] + 0.4 * generator.normal(size=300) + 0.2 * member) > 0
    both = rate_gap(hit, member, patient).difference
    apart = rate_gap(hit, member, np.where(member, patient, patient + 1000)).difference
    # The paired test, by the variance of patients' differences.
    own = hit[member] * 1.0 - hit[~member]
    paired = abs(own.mean()) / (own.std() / 150**0.5)
    assert t(149).isf(both.p / 2) == pytest.approx(paired, rel=0.05)
    assert both.p < apart.p
    assert both.high - both.low < apart.high - apart.low


def test_predictive_values_are_bayes_and_their_p_knows_no_prevalence() -> None:
    generator = GENERATOR(1)
    truth, member = generator.random(600) < 0.4, generator.random(600) < 0.3
    called = generator.random(600) < np.where(truth, 0.8, np.where(member, 0.4, 0.15))
    found = {
        (share, positive): predictive_gap(truth, called, member, np.arange(600), share, positive=positive)
        for share in (0.05, 0.5)
        for positive in (True, False)
    }
    for (share, positive), gap in found.items():
        for value, at in ((gap.here, member), (gap.elsewhere, ~member)):
            right = called if positive else ~called
            hit, alarm = right[at & (truth == positive)].mean(), right[at & (truth != positive)].mean()
            prior = share if positive else 1 - share
            assert value == pytest.approx(prior * hit / (prior * hit + (1 - prior) * alarm))
        assert gap.difference.value == pytest.approx(gap.here - gap.elsewhere)
        assert gap.difference.low < gap.difference.value < gap.difference.high
    assert found[0.05, True].difference.p == pytest.approx(found[0.5, True].difference.p)
    assert found[0.05, True].difference.value < 0
    assert found[0.05, True].difference.p < 0.001


def test_a_level_without_false_alarms_has_a_ppv_of_one_and_a_width() -> None:
    truth = np.repeat([1, 0, 1, 0], [20, 40, 40, 80])
    member = np.arange(180) < 60
    called = truth.astype(bool) | (~member & (np.arange(180) % 4 == 0))
    gap = predictive_gap(truth, called, member, np.arange(180), 0.1)
    assert gap.here == 1
    assert gap.difference.low < gap.difference.value <= gap.difference.high
    none = predictive_gap(truth, np.zeros(180), member, np.arange(180), 0.1)
    assert (none.here, none.difference.reason) == (None, "nothing is called at one of the levels")


def test_the_intercept_is_that_of_logistic_regression_with_an_offset_and_clustered_errors() -> None:
    generator = GENERATOR(2)
    patient = np.repeat(np.arange(200), 3)
    member = patient % 4 == 0
    score = 1 / (1 + np.exp(-generator.normal(size=600)))
    truth = generator.random(600) < 1 / (
        1 + np.exp(-(logit(score) + 0.5 * member + generator.normal(size=200)[patient]))
    )
    gap = calibration_gap(truth, score, member, patient)
    error = 0.0
    for at, value in ((member, gap.here), (~member, gap.elsewhere)):
        fitted = sm.GEE(
            truth[at] * 1.0, np.ones((at.sum(), 1)), patient[at], family=sm.families.Binomial(), offset=logit(score[at])
        ).fit(cov_type="robust")
        assert value == pytest.approx(fitted.params[0], abs=1e-6)
        count = len(np.unique(patient[at]))
        error += fitted.bse[0] ** 2 * count / (count - 1)
    freedom = len(np.unique(patient[member])) - 1
    assert gap.difference.p == pytest.approx(2 * t(freedom).sf(abs(gap.difference.value) / error**0.5), rel=1e-4)


def rejections(gaps: list[LevelGap]) -> int:
    return sum(gap.difference.p is not None and gap.difference.p <= 0.05 for gap in gaps)


def test_the_levels_hold_where_nothing_differs() -> None:
    studies = 100
    made: dict[str, list[LevelGap]] = {}
    for seed in range(studies):
        scores = draw_cells(CellDesign(tubes=40, positive_tubes=20), GENERATOR(seed)).scores
        columns = (scores.target, scores.score, scores.member, scores.patient)
        for name, gap in operating_gaps(*columns, called=scores.score >= 0.5, prevalence=0.1).items():
            if name not in ("mean_error", "intercept"):
                made.setdefault(name, []).append(gap)
        right = draw_calibrated(GENERATOR(seed), patients=150, images=2)
        columns = (right.target, right.score, right.member, right.patient)
        for name, gap in operating_gaps(*columns).items():
            made.setdefault(name, []).append(gap)
    assert sorted(made) == ["intercept", "mean_error", "npv", "ppv", "sensitivity", "specificity"]
    for name, gaps in made.items():
        assert rejections(gaps) <= binom.isf(1e-4, studies, 0.06), name
        covered = sum(gap.difference.low <= 0 <= gap.difference.high for gap in gaps)
        assert covered >= binom.ppf(1e-4, studies, 0.94), name


def test_small_cells_and_scores_that_are_no_probabilities_have_no_figure() -> None:
    truth, member = np.arange(100) % 2, np.arange(100) < 18
    found = operating_gaps(truth, np.linspace(0, 1, 100), member, np.arange(100), called=np.arange(100) > 50)
    assert found["sensitivity"].difference.reason == "needs 10 patients of either level; the smaller has 9"
    assert found["ppv"].difference.reason == "needs 10 patients of either level at label 1; the smaller has 9"
    assert found["intercept"].difference.value is None
    assert sorted(operating_gaps(truth, np.linspace(-1, 1, 100), member, np.arange(100))) == []
    alike = rate_gap(np.ones(60), np.arange(60) < 20, np.arange(60))
    assert alike.difference.reason == "both rates are the same 0 or 1: there is no test"
    assert alike.difference.low < 0 < alike.difference.high
