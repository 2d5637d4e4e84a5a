"""Subgroup estimators against brute force and statsmodels, with nulls that must stay null."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_studies import draw_gap
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from evalfm.statistics.auroc import auroc, auroc_covariance
from evalfm.statistics.fixed_label import at_fixed_label
from evalfm.statistics.subgroups import SubgroupScores, balanced_auroc, cross_aurocs, hanley_mcneil, stratum_gap


def study(
    n: int = 600, *, effect: float = 0.0, tie: float = 0.8, per_patient: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Scores that know the label; the attribute goes with the label, and moves the score by ``effect``."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n // per_patient), per_patient)
    y = (generator.random(n // per_patient) < 0.4)[patient]
    a = generator.random(n) < np.where(y, tie, 1 - tie)
    own = generator.normal(size=n // per_patient)[patient]
    s = 1 / (1 + np.exp(-(1.5 * y + effect * a + own * (per_patient > 1) + generator.normal(size=n) - 1)))
    return {"target": y.astype(float), "score": s, "member": a, "patient": patient.astype(str)}


def brute(data: dict[str, np.ndarray], positives: np.ndarray, negatives: np.ndarray) -> float:
    rows = positives | negatives
    return float(roc_auc_score(positives[rows], data["score"][rows]))


def test_the_four_aurocs_pair_what_they_say() -> None:
    data = study()
    y, a = data["target"] == 1, data["member"]
    found = cross_aurocs(SubgroupScores.of(**data))
    expected = {
        "subgroup": brute(data, y & a, ~y & a),
        "background": brute(data, y & ~a, ~y & ~a),
        "bpsn": brute(data, y & ~a, ~y & a),
        "bnsp": brute(data, y & a, ~y & ~a),
    }
    assert {name: found[name].value for name in expected} == {
        name: pytest.approx(value) for name, value in expected.items()
    }
    assert found["gap"].value == pytest.approx(expected["bnsp"] - expected["bpsn"])
    assert found["gap"].low < found["gap"].value < found["gap"].high


def test_too_few_patients_give_a_reason_and_no_number() -> None:
    data = study(60)
    data["member"] = np.arange(60) < 3
    found = cross_aurocs(SubgroupScores.of(**data))
    assert found["subgroup"].value is None
    assert "needs 10 patients" in str(found["subgroup"].reason)
    assert found["gap"].value is None
    fixed = at_fixed_label(SubgroupScores.of(**data))
    assert all(each.auroc.value is None and each.effect.value is None and each.effect.reason for each in fixed.values())


def test_balanced_weights_undo_the_tie_between_label_and_attribute() -> None:
    data = study(4000, effect=1.0)
    y, a = data["target"] == 1, data["member"]
    weights = np.zeros(len(y))
    for level in (False, True):
        for truth in (False, True):
            cell = (a == level) & (y == truth)
            weights[cell] = (a == level).mean() * (y == truth).sum() / cell.sum()
    expected = roc_auc_score(y, data["score"], sample_weight=weights)
    assert balanced_auroc(SubgroupScores.of(**data)) == pytest.approx(expected)
    assert expected < roc_auc_score(y, data["score"])
    assert np.isnan(balanced_auroc(SubgroupScores.of([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], range(4))))


def test_ties_count_half_in_every_pair() -> None:
    data = study()
    data["score"] = np.round(data["score"], 1)
    y, a = data["target"] == 1, data["member"]
    found = cross_aurocs(SubgroupScores.of(**data))
    assert found["bpsn"].value == pytest.approx(brute(data, y & ~a, ~y & a), abs=1e-12)
    assert found["bnsp"].value == pytest.approx(brute(data, y & a, ~y & ~a), abs=1e-12)
    for truth in (0, 1):
        rows = data["target"] == truth
        expected = roc_auc_score(a[rows], data["score"][rows])
        assert at_fixed_label(SubgroupScores.of(**data))[truth].auroc.value == pytest.approx(expected, abs=1e-12)


def drawn(seed: int, patients: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rows)
    target = generator.random(len(patient)) < 0.4
    score = target + generator.normal(size=patients)[patient] + generator.normal(size=len(patient))
    return target, score, patient


def pooled(target: np.ndarray, score: np.ndarray, member: np.ndarray, patient: np.ndarray) -> float:
    """The variance of a gap by pooled placements, patient by patient, where no patient stands twice."""
    total = 0.0
    for own in (True, False):
        above, below = 0.0, 0.0
        for level in (True, False):
            mine = np.flatnonzero((target == own) & (member == level))
            others = score[(target != own) & (member == level)]
            sign = 1 if own else -1
            place = np.array([np.mean((sign * (score[i] - others) > 0) + 0.5 * (score[i] == others)) for i in mine])
            place -= place.mean()
            above += sum(place[patient[mine] == each].sum() ** 2 for each in np.unique(patient[mine]))
            below += len(mine) * (1 - 1 / len(np.unique(patient[mine])))
        total += above / below * sum(1 / ((target == own) & (member == level)).sum() for level in (True, False))
    return total


def logit_limits(area: float, variance: float) -> tuple[float, float]:
    centre, reach = np.log(area / (1 - area)), norm.isf(0.025) * variance**0.5 / (area * (1 - area))
    return tuple(1 / (1 + np.exp(-(centre + side * reach))) for side in (-1, 1))


def test_of_different_patients_the_placements_are_pooled() -> None:
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(200), 2)
    target = (generator.random(200) < 0.4)[patient]
    score = np.round(target + generator.normal(size=200)[patient] + generator.normal(size=400), 1)
    member = patient % 3 == 0
    found = stratum_gap(SubgroupScores.of(target, score, member, patient))
    parts = [auroc_covariance(target[rows], score[rows], patient[rows]) for rows in (member, ~member)]
    areas = [float(each.auroc[0]) for each in parts]
    assert found.value == pytest.approx(areas[0] - areas[1])
    error = pooled(target, score, member, patient) ** 0.5
    assert found.p == pytest.approx(2 * norm.sf(abs(found.value) / error), rel=1e-10)
    # What a test at 5 % finds in four of five studies.
    assert norm.sf(norm.isf(0.025), loc=found.detectable / error) == pytest.approx(0.8, abs=1e-6)
    limits = []
    for part, area, rows in zip(parts, areas, (member, ~member), strict=True):
        counts = [np.unique(patient[rows & (target == own)]).size for own in (True, False)]
        limits.append(logit_limits(area, max(part.covariance[0, 0], hanley_mcneil(area, *counts))))
    low = found.value - np.hypot(areas[0] - limits[0][0], limits[1][1] - areas[1])
    high = found.value + np.hypot(limits[0][1] - areas[0], areas[1] - limits[1][0])
    assert (found.low, found.high) == pytest.approx((low, high))


def test_the_gap_holds_its_level_where_a_small_level_is_nearly_perfect() -> None:
    """10 and 30 patients of AUROC .98: the level's own variance rejects far too often."""
    pooled_found, apart = 0, 0
    studies = 150
    for seed in range(studies):
        scores = draw_gap(np.random.default_rng(seed), 0.98)
        gap = stratum_gap(scores)
        pooled_found += (gap.p or 1.0) < 0.05
        parts = [scores.among(rows) for rows in (scores.member, ~scores.member)]
        variance = sum(auroc_covariance(each.target, each.score, each.patient).covariance[0, 0] for each in parts)
        apart += abs(gap.value) > norm.isf(0.025) * variance**0.5
        assert gap.low <= gap.value <= gap.high
    assert pooled_found <= binom.isf(1e-4, studies, 0.05)
    assert apart > binom.isf(1e-4, studies, 0.05)


def test_a_level_that_is_perfect_has_a_width() -> None:
    target = np.repeat([1, 0, 1, 0], [12, 30, 60, 100])
    member = np.arange(len(target)) < 42
    score = np.where(member, target, target + np.random.default_rng(0).normal(size=len(target)))
    gap = stratum_gap(SubgroupScores.of(target, score, member, np.arange(len(target))))
    assert gap.low < gap.value < gap.high
    assert gap.p is not None


def test_twins_in_both_levels_have_no_gap_and_no_doubt() -> None:
    target, score, patient = drawn(1, 60)
    both = [np.concatenate([each, each]) for each in (target, score, patient)]
    found = stratum_gap(SubgroupScores.of(*both[:2], np.arange(120) < 60, both[2]))
    assert found.value == 0
    assert (found.low, found.high, found.p) == (None, None, None)
    assert found.reason == "it has no standard error: no interval"


def test_patients_in_both_levels_are_not_counted_twice() -> None:
    rejected = apart = 0
    studies = 400
    for seed in range(studies):
        target, score, patient = drawn(seed, 60, 4)
        member = np.tile([True, True, False, False], 60)
        rejected += stratum_gap(SubgroupScores.of(target, score, member, patient)).p < 0.05
        # As if each patient were two: what the covariance is for.
        apart += (
            stratum_gap(SubgroupScores.of(target, score, member, np.where(member, patient, patient + 1000))).p < 0.05
        )
    assert binom.sf(rejected - 1, studies, 0.05) > 1e-4
    assert binom.cdf(rejected, studies, 0.05) > 1e-4
    assert apart != rejected


def test_a_true_gap_is_found_and_folds_are_averaged() -> None:
    generator = np.random.default_rng(3)
    target = generator.random(600) < 0.5
    member = np.arange(600) % 2 == 0
    score = generator.normal(size=600) + target * np.where(member, 2.0, 0.3)
    folds = np.arange(600) % 5
    found = stratum_gap(SubgroupScores.of(target, score, member, np.arange(600), folds))
    expected = np.mean(
        [
            auroc(target[rows & member], score[rows & member]) - auroc(target[rows & ~member], score[rows & ~member])
            for rows in (folds == fold for fold in range(5))
        ]
    )
    assert found.value == pytest.approx(expected)
    assert found.p < 1e-6


def test_too_few_patients_and_constant_scores_give_no_p() -> None:
    target, score, patient = drawn(4, 120)
    few = stratum_gap(SubgroupScores.of(target, score, patient < 12, patient))
    assert few.value is None
    assert "needs 10 patients of either level at label 1; the smaller has" in str(few.reason)
    flat = stratum_gap(SubgroupScores.of(target, np.ones(120), patient < 60, patient))
    assert flat.value == 0
    # Never a width of zero.
    assert (flat.low, flat.high, flat.p, flat.detectable) == (None, None, None, None)
    assert flat.reason == "it has no standard error: no interval"
    right = stratum_gap(SubgroupScores.of(target, target + 0.0, patient < 60, patient))
    assert (right.value, right.low, right.p) == (0, None, None)


def test_patients_in_both_levels_have_the_error_that_leaving_each_out_gives() -> None:
    generator = np.random.default_rng(5)
    patient = np.repeat(np.arange(300), 4)
    target = (generator.random(300) < 0.4)[patient]
    score = target + 2 * generator.normal(size=300)[patient] + generator.normal(size=1200)
    member = generator.random(1200) < 0.4
    score = np.round(score, 1)
    found = stratum_gap(SubgroupScores.of(target, score, member, patient))
    left = np.array(
        [
            auroc(target[kept & member], score[kept & member]) - auroc(target[kept & ~member], score[kept & ~member])
            for kept in (patient != each for each in range(300))
        ]
    )
    jackknife = (299 / 300 * ((left - left.mean()) ** 2).sum()) ** 0.5
    error = abs(found.value) / norm.isf(found.p / 2)
    # Pooled over levels, which here differ in nothing.
    assert error == pytest.approx(jackknife, rel=0.05)
    # What forgetting that a patient stands in both would give.
    parts = [auroc_covariance(target[rows], score[rows], patient[rows]).covariance[0, 0] for rows in (member, ~member)]
    assert sum(parts) ** 0.5 > 1.1 * jackknife


def test_a_level_without_a_class_has_no_gap() -> None:
    target, score, patient = drawn(7, 200)
    member = (patient % 2 == 0) & ~target
    assert stratum_gap(SubgroupScores.of(target, score, member, patient)).value is None


def test_labels_membership_and_rows_are_checked() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        SubgroupScores.of([0, 2], [0.1, 0.2], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="0 or 1"):
        SubgroupScores.of([0, 1], [0.1, 0.2], [0, np.nan], ["a", "b"])
    for short in range(5):
        columns = [[0, 1], [0.1, 0.2], [0, 1], ["a", "b"], [0, 1]]
        columns[short] = columns[short][:1]
        with pytest.raises(ValueError, match="same rows"):
            SubgroupScores.of(*columns)
