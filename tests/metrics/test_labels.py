"""Binary metrics: values, minima, intervals, folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from evalfm.analysis.pairing import pair_tables
from evalfm.errors import EvalfmError
from evalfm.metrics.labels import choose_threshold
from evalfm.metrics.registry import metric_of
from evalfm.statistics.auroc import chance_average_precision

from .made import Sampling, binary_metrics

KEYS = {
    "auroc", "auprc", "auprc_chance", "sensitivity", "specificity", "ppv", "npv", "f1", "accuracy",
    "balanced_accuracy", "brier", "ece", "ece_expected", "calibration_rms", "calibration_slope",
    "calibration_intercept", "f1_all_positive",
    "sensitivity_default", "specificity_default", "ppv_default", "npv_default", "f1_default", "accuracy_default",
    "balanced_accuracy_default",
}  # fmt: skip


def study(n=240, seed=0):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.4).astype(float)
    score = np.round(1 / (1 + np.exp(-(generator.normal(size=n) + 1.5 * target - 0.5))), 2)
    return target, score, generator.integers(0, n // 2, n)


def test_every_metric_has_value_interval_and_counts():
    target, score, patient = study()
    found = binary_metrics(target, score, patient, threshold=0.5)
    assert set(found) == KEYS
    called = score >= 0.5
    expected = {
        "auroc": metrics.roc_auc_score(target, score),
        "auprc": metrics.average_precision_score(target, score),
        "sensitivity": metrics.recall_score(target, called),
        "specificity": metrics.recall_score(target, called, pos_label=0),
        "ppv": metrics.precision_score(target, called),
        "npv": metrics.precision_score(1 - target, ~called),
        "f1": metrics.f1_score(target, called),
        "accuracy": metrics.accuracy_score(target, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(target, called),
        "brier": metrics.brier_score_loss(target, score),
        "f1_all_positive": metrics.f1_score(target, np.ones(len(target))),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)
    without = {"ece", "ece_expected", "auprc_chance"}
    assert all(found[name].low is None and found[name].reason for name in without)
    for estimate in (each for name, each in found.items() if name not in without):
        assert estimate.low < estimate.high
        assert estimate.percentile is not None
        assert estimate.unit == "patients"
    assert found["auroc"].n == len(np.unique(patient))
    assert found["sensitivity"].n == len(np.unique(patient[target == 1]))
    assert found["ppv"].n == len(np.unique(patient[called]))
    assert found["npv"].n == len(np.unique(patient[~called]))


def test_the_default_threshold_stands_beside_the_chosen_one():
    target, score, patient = study()
    found = binary_metrics(target, score, patient, Sampling(resamples=50), threshold=0.3)
    assert found["f1"].value == pytest.approx(metrics.f1_score(target, score >= 0.3))
    assert found["f1_default"].value == pytest.approx(metrics.f1_score(target, score >= 0.5))
    assert found["accuracy_default"].value == pytest.approx(metrics.accuracy_score(target, score >= 0.5))
    # What answers yes to everything: 2p / (1 + p).
    share = target.mean()
    assert found["f1_all_positive"].value == pytest.approx(2 * share / (1 + share))
    far = binary_metrics(target, score * 10, patient, Sampling(resamples=50), threshold=3.0)
    assert far["f1"].value == pytest.approx(found["f1"].value)
    assert far["f1_default"].value is None
    assert "no probabilities" in far["f1_default"].reason


def test_calibration_at_a_temperature_is_that_of_the_given_scores():
    target, score, patient = study()
    scaled = np.clip(score * 0.5 + 0.2, 0, 1)
    found = binary_metrics(target, score, patient, Sampling(resamples=50), threshold=0.5, calibrated=scaled)
    assert found["brier_calibrated"].value == pytest.approx(metrics.brier_score_loss(target, scaled))
    assert found["brier"].value == pytest.approx(metrics.brier_score_loss(target, score))
    alone = binary_metrics(target, scaled, patient, Sampling(resamples=50), threshold=0.5)
    assert found["ece_calibrated"].value == alone["ece"].value


def test_some_metrics_alone_are_those_of_all():
    target, score, patient = study()
    every = binary_metrics(target, score, patient, threshold=0.5)
    some = binary_metrics(target, score, patient, threshold=0.5, only=("auroc", "sensitivity"))
    assert some == {name: every[name] for name in ("auroc", "sensitivity")}


def test_order_of_rows_changes_nothing():
    target, score, patient = study(100)
    order = np.random.default_rng(1).permutation(100)
    one = binary_metrics(target, score, patient, threshold=0.5)
    other = binary_metrics(target[order], score[order], patient[order], threshold=0.5)
    for name, estimate in one.items():
        found = (other[name].value, other[name].low, other[name].high)
        assert found == pytest.approx((estimate.value, estimate.low, estimate.high), abs=1e-6)


def test_repeating_every_image_changes_no_interval_where_patients_are_known():
    target, score, _ = study(100)
    once = binary_metrics(target, score, np.arange(100), threshold=0.5)
    twice = binary_metrics(np.tile(target, 2), np.tile(score, 2), np.tile(np.arange(100), 2), threshold=0.5)
    for name in ("auroc", "sensitivity", "brier"):
        assert (twice[name].low, twice[name].high) == pytest.approx((once[name].low, once[name].high), abs=1e-9)


@pytest.mark.parametrize("positives", [9, 10, 29, 30])
def test_auroc_minima_count_patients(positives):
    # Five images per patient: images are many, patients are few.
    target = np.repeat(np.r_[np.ones(positives), np.zeros(40)], 5)
    score = np.random.default_rng(0).random(len(target)) * 0.5 + 0.2 * target
    found = binary_metrics(
        target, score, np.repeat(np.arange(positives + 40), 5), Sampling(resamples=200), threshold=None
    )
    if positives < 10:
        assert found["auroc"].value is None
        assert "there are 9 and 40" in found["auroc"].reason
    else:
        assert found["auroc"].value > 0.5
        assert (found["auroc"].note == "interval approximate") == (positives < 30)


def test_auroc_minima_hold_for_negatives_too():
    target = np.r_[np.ones(40), np.zeros(5)]
    found = binary_metrics(target, np.linspace(0, 1, 45), np.arange(45), Sampling(resamples=100), threshold=0.5)
    assert found["auroc"].value is None


def test_all_right_has_the_interval_of_a_share_and_no_bootstrap():
    target = np.r_[np.ones(40), np.zeros(40)]
    found = binary_metrics(target, 0.1 + 0.8 * target, np.arange(80), threshold=0.5)
    for name in ("auroc", "auprc"):
        assert found[name].value == 1.0
        assert found[name].low is None
        assert "degenerate" in found[name].reason
    # Wilson at 40 of 40: n / (n + z²), z of t with 39 degrees of freedom.
    z = stats.t.ppf(0.975, 39)
    for name in ("sensitivity", "specificity"):
        assert (found[name].value, found[name].high) == (1.0, 1.0)
        assert found[name].low == pytest.approx(40 / (40 + z**2))
        assert found[name].method.startswith("Wilson with t, effective number 40 of patients")
    assert found["balanced_accuracy"].low == pytest.approx(40 / (40 + z**2))
    assert "conservative" in found["balanced_accuracy"].method
    assert found["f1"].low == pytest.approx(2 * found["sensitivity"].low / (1 + found["sensitivity"].low))
    assert found["calibration_slope"].value is None
    assert "separate" in found["calibration_slope"].reason


def test_none_found_has_an_interval_too():
    target = np.r_[np.ones(40), np.zeros(40)]
    found = binary_metrics(target, np.full(80, 0.1), np.arange(80) // 2, threshold=0.5)
    assert (found["sensitivity"].value, found["sensitivity"].low) == (0.0, 0.0)
    z = stats.t.ppf(0.975, 19)
    assert found["sensitivity"].high == pytest.approx(z**2 / (20 + z**2))
    assert found["f1"].high == pytest.approx(2 * found["sensitivity"].high / (1 + found["sensitivity"].high))


def test_without_threshold_only_the_rates_are_absent():
    target, score, patient = study()
    found = binary_metrics(target, score, patient, Sampling(resamples=100), threshold=None)
    assert KEYS - set(found) == {
        *("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy", "balanced_accuracy"),
    }
    assert found["brier"].value is not None


def test_scores_beyond_one_are_ranked_but_not_calibrated():
    target, score, patient = study()
    found = binary_metrics(target, 10 * score, patient, Sampling(resamples=100), threshold=5.0)
    assert found["auroc"].value == pytest.approx(metrics.roc_auc_score(target, score))
    assert found["ece"].value is None
    assert "probabilities" in found["ece"].reason


def test_nothing_called_has_no_ppv():
    target, score, patient = study()
    found = binary_metrics(target, score, patient, Sampling(resamples=100), threshold=2.0)
    assert found["ppv"].value is None
    assert "called positive" in found["ppv"].reason
    assert found["sensitivity"].value == 0.0


def test_one_class_only_is_said_not_scored():
    found = binary_metrics(np.zeros(30), np.linspace(0, 1, 30), np.arange(30), Sampling(resamples=100), threshold=0.5)
    for name in ("auroc", "auprc", "sensitivity", "balanced_accuracy", "calibration_slope"):
        assert found[name].value is None
        assert found[name].reason
    assert found["specificity"].value == 0.5


def test_folds_are_ranked_apart_and_counted_together():
    target, score, _ = study()
    patient, folds = np.arange(240), np.repeat([0, 1, 2, 3], [30, 50, 70, 90])
    thresholds = 0.3 + 0.1 * folds
    found = binary_metrics(target, score, patient, Sampling(folds=folds), threshold=thresholds)
    parts = [folds == f for f in range(4)]
    assert found["auroc"].value == pytest.approx(np.mean([metrics.roc_auc_score(target[p], score[p]) for p in parts]))
    auprc = np.mean([metrics.average_precision_score(target[p], score[p]) for p in parts])
    assert found["auprc"].value == pytest.approx(auprc)
    chance = np.mean([chance_average_precision(int(target[p].sum()), p.sum()) for p in parts])
    assert found["auprc_chance"].value == pytest.approx(chance)
    called = score >= thresholds
    assert found["sensitivity"].value == pytest.approx(metrics.recall_score(target, called))
    assert found["f1"].value == pytest.approx(metrics.f1_score(target, called))
    assert found["brier"].value == pytest.approx(metrics.brier_score_loss(target, score))
    whole = binary_metrics(target, score, patient, threshold=None)
    for name in ("calibration_slope", "calibration_intercept", "calibration_rms", "ece", "ece_expected"):
        assert found[name].value == whole[name].value, name
    assert "within folds, excludes training variance" in found["auroc"].method
    assert found["sensitivity"].method.endswith("patient-clustered, excludes training variance")
    # Adding a constant to one fold's scores moves no pair within a fold.
    shifted = binary_metrics(target, score + folds, patient, Sampling(folds=folds), threshold=None)
    assert (shifted["auroc"].value, shifted["auroc"].low) == (found["auroc"].value, found["auroc"].low)


def test_a_fold_with_one_positive_patient_is_left_out_and_said():
    target, score, _ = study()
    folds = np.arange(240) % 4
    few = np.where(folds == 0, 0.0, target)
    few[0] = 1.0
    found = binary_metrics(few, score, np.arange(240), Sampling(folds=folds), threshold=None)
    ranked = np.mean([metrics.roc_auc_score(few[folds == f], score[folds == f]) for f in (1, 2, 3)])
    assert found["auroc"].value == pytest.approx(ranked)
    precise = np.mean([metrics.average_precision_score(few[folds == f], score[folds == f]) for f in (1, 2, 3)])
    assert found["auprc"].value == pytest.approx(precise)
    for name in ("auroc", "auprc"):
        assert found[name].note.startswith("1 of 4 folds hold fewer than 2 patients with a positive label")
    chance = np.mean([chance_average_precision(int(few[folds == f].sum()), 60) for f in (1, 2, 3)])
    assert found["auprc_chance"].value == pytest.approx(chance)
    lonely = binary_metrics(target[:40], score[:40], np.arange(40), Sampling(folds=np.arange(40)), threshold=None)
    for name in ("auroc", "auprc", "auprc_chance"):
        assert lonely[name].reason.startswith("no fold holds 2 patients with a positive label")


def test_runs_are_paired_over_the_folds_that_their_auroc_is_of():
    target, score, _ = study()
    other = np.random.default_rng(1).random(240)
    folds = np.arange(240) % 4
    few = np.where(folds == 0, 0.0, target)
    few[0] = 1.0
    table = pd.DataFrame({"patient": [f"p{row}" for row in range(240)], "target": few, "fold": folds})
    for name in ("auroc", "auprc", "brier"):
        tables = [table.assign(score_x=each) for each in (score, other)]
        paired = pair_tables("binary", name, tables, ("x",))
        (difference,) = paired.contrast.test(paired.rows, np.array([[1.0, -1.0]]))
        first, second = (each.statistic.on_the_data() for each in paired.measured)
        assert difference.value == pytest.approx(first - second, abs=1e-12), name


def test_chance_is_what_a_random_order_gives():
    target, score, _ = study(120)
    found = binary_metrics(target, score, np.arange(120), Sampling(resamples=50), threshold=None)["auprc_chance"]
    generator = np.random.default_rng(0)
    drawn = [metrics.average_precision_score(target, generator.random(120)) for _ in range(2000)]
    assert found.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 2000**0.5)
    assert found.value > target.mean() + 3 * np.std(drawn) / 2000**0.5


def test_a_constant_answer_at_the_prevalence_wins_nothing_by_its_calibration():
    target, _, _ = study()
    constant = np.full(240, target.mean())
    found = binary_metrics(target, constant, np.arange(240), Sampling(resamples=50), threshold=0.5)
    assert found["ece"].value == pytest.approx(0.0, abs=1e-12)
    assert found["ece_expected"].value > 0.02
    for name in ("ece", "ece_expected", "calibration_rms"):
        assert metric_of(name).contrast is None
    assert metric_of("ece").better is None
    assert metric_of("ece").beside == ("ece_expected",)


def test_faults_are_told_together_with_the_remedy():
    with pytest.raises(EvalfmError, match=r"target holds 1 missing.*score_x holds 1 missing"):
        binary_metrics([0, 1, np.inf], [0.1, np.nan, 0.3], list("abc"), threshold=0.5)
    with pytest.raises(EvalfmError, match="0 and 1"):
        binary_metrics([0, 2], [0.1, 0.2], list("ab"), threshold=0.5)
    with pytest.raises(EvalfmError, match="more than one fold"):
        binary_metrics([0, 1], [0.1, 0.2], list("aa"), Sampling(folds=[0, 1]), threshold=0.5)
    with pytest.raises(EvalfmError, match="threshold holds"):
        binary_metrics([0, 1], [0.1, 0.2], list("ab"), threshold=np.array([0.5, np.nan]))


def test_a_threshold_from_val_or_one_sentence():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(0.5)
    with pytest.raises(EvalfmError, match="both classes"):
        choose_threshold([0, 0], [0.1, 0.2])


def test_seeds_fix_the_interval():
    target, score, patient = study(80)
    first = binary_metrics(target, score, patient, Sampling(seed=3), threshold=0.5)
    assert first == binary_metrics(target, score, patient, Sampling(seed=3), threshold=0.5)
    assert first["auroc"].low != binary_metrics(target, score, patient, Sampling(seed=4), threshold=0.5)["auroc"].low
