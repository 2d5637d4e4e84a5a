"""AUROC against scikit-learn, brute force and direct O(n²) covariances."""

from __future__ import annotations

import io
import shutil
import subprocess
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from evalfm.statistics.auroc import (
    Auroc,
    auroc,
    auroc_covariance,
    average_precision_statistic,
    chance_average_precision,
    class_patients,
    episode_auroc,
    macro_auroc_covariance,
    weighted_auroc,
)
from evalfm.statistics.comparison import contrast_aurocs, contrast_macro_aurocs
from evalfm.statistics.resampling import Average, identify

from .paired import compare_auroc


def average_precision(target: Any, score: Any) -> float:
    return average_precision_statistic(target, score, np.arange(len(target)), len(target)).on_the_data()


def kernel(positive, negative):
    """[m, n] 1 where the positive wins, .5 where level."""
    return (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])


def tied_data(n=120, seed=0, patients=40, scores=2):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.4).astype(float)
    score = np.round(generator.normal(size=(n, scores)) + target[:, None], 1)
    return target, score, generator.integers(0, patients, n)


def test_auroc_equals_sklearn_with_ties():
    target, score, _ = tied_data()
    assert len(np.unique(score[:, 0])) < len(target) / 2
    assert auroc(target, score[:, 0]) == pytest.approx(roc_auc_score(target, score[:, 0]), abs=1e-14)


def test_auroc_of_known_cases():
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875
    assert auroc([0, 1], [0, 1]) == 1.0
    assert auroc([1, 0], [0, 1]) == 0.0
    assert auroc([0, 1, 1], [5, 5, 5]) == 0.5
    assert np.isnan(auroc([1, 1], [0, 1]))
    assert np.isnan(auroc([0, 0], [0, 1]))


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match="0 or 1"):
        auroc([0, 2], [0.1, 0.2])


def test_weights_count_rows_repeated():
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).integers(0, 4, (20, 60)).astype(float)
    expected = [roc_auc_score(np.repeat(target, w.astype(int)), np.repeat(score[:, 0], w.astype(int))) for w in weights]
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), expected, atol=1e-14)


def test_fractional_weights_equal_sklearn_sample_weight():
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).random((5, 60))
    expected = [roc_auc_score(target, score[:, 0], sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), expected, atol=1e-12)


def test_weighted_auroc_in_blocks_is_the_same(monkeypatch):
    target, score, _ = tied_data(60)
    weights = np.random.default_rng(1).random((13, 60))
    whole = weighted_auroc(target, score[:, 0], weights)
    monkeypatch.setattr("evalfm.statistics.resampling.BLOCK_ELEMENTS", 130)
    np.testing.assert_allclose(weighted_auroc(target, score[:, 0], weights), whole, rtol=1e-14)


def test_weight_zero_on_one_class_has_no_auroc():
    assert np.isnan(weighted_auroc([0, 1], [0.0, 1.0], np.array([[0.0, 1.0], [1.0, 0.0]]))).all()


def test_within_folds_pairs_of_different_folds_never_count():
    # Fold 1's scores sit far above fold 0's: across folds the ranking is wrong, within each it is perfect.
    target = np.array([0, 1, 0, 1])
    score = np.array([0.1, 0.2, 5.0, 6.0])
    assert auroc(target, score, folds=[0, 0, 1, 1]) == 1.0
    assert auroc(target, score) == 0.75


def test_within_folds_is_the_mean_over_images():
    target, score, _ = tied_data(90)
    folds = np.arange(90) % 3
    expected = np.mean([roc_auc_score(target[folds == f], score[folds == f, 0]) for f in range(3)])
    assert auroc(target, score[:, 0], folds) == pytest.approx(expected, abs=1e-14)
    target[folds == 2] = 0
    expected = np.mean([roc_auc_score(target[folds == f], score[folds == f, 0]) for f in range(2)])
    assert auroc(target, score[:, 0], folds) == pytest.approx(expected, abs=1e-14)


def test_leaving_out_each_patient_equals_computing_without_it():
    target, score, patient = tied_data(70, patients=18)
    patients = identify(patient)
    found = Auroc(target, score[:, 0], patients.codes, patients.count).without_each()
    expected = [auroc(target[patients.codes != p], score[patients.codes != p, 0]) for p in range(patients.count)]
    np.testing.assert_allclose(found, expected, atol=1e-13)


samples = st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=4, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_auroc_depends_on_order_alone(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    area = auroc(target, score)
    assert auroc(target, np.exp(score) + 3) == area
    assert auroc(target, -score) == pytest.approx(1 - area, abs=1e-15)
    assert auroc(1 - target, score) == pytest.approx(1 - area, abs=1e-15)
    assert auroc(np.tile(target, 2), np.tile(score, 2)) == pytest.approx(area, abs=1e-15)
    assert area == pytest.approx(kernel(score[target == 1], score[target == 0]).mean(), abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=40).filter(
        lambda rows: any(label for label, _ in rows)
    )
)
def test_average_precision_equals_sklearn_with_ties(rows):
    target, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score), abs=1e-14)


def test_average_precision_counts_patients_as_rows_repeated():
    generator = np.random.default_rng(0)
    target = (generator.random(60) < 0.3).astype(float)
    score = np.round(generator.normal(size=60) + target, 1)
    patients = identify(generator.integers(0, 25, 60))
    weights = generator.integers(0, 3, (20, patients.count)).astype(float)
    expected = []
    for row in weights:
        times = row[patients.codes].astype(int)
        expected.append(average_precision_score(np.repeat(target, times), np.repeat(score, times)))
    found = average_precision_statistic(target, score, patients.codes, patients.count).values(weights)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_without_a_positive_there_is_no_average_precision():
    assert np.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert average_precision([1], [0.3]) == 1.0


@pytest.mark.parametrize(("classes", "queries"), [(2, 1), (2, 10), (5, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_macro_auroc_of_episodes_is_scikit_learns(classes: int, queries: int, ties: bool):
    generator = np.random.default_rng(classes + queries)
    scores = generator.normal(size=(9, classes, queries, classes)) + 0.8 * np.eye(classes)[:, None]
    if ties:
        scores = scores.round(0)
    truth = np.repeat(np.arange(classes), queries)
    found = episode_auroc(scores)
    for episode, flat in enumerate(scores.reshape(9, -1, classes)):
        each = [roc_auc_score(truth == code, flat[:, code]) for code in range(classes)]
        assert found[episode] == pytest.approx(np.mean(each), abs=1e-12)


def test_equal_scores_are_at_chance_and_perfect_ones_at_one():
    assert episode_auroc(np.zeros((2, 3, 4, 3))).tolist() == [0.5, 0.5]
    perfect = np.broadcast_to(np.eye(3)[:, None], (3, 4, 3))[None]
    assert episode_auroc(perfect).tolist() == [1.0]
    assert episode_auroc(-perfect).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 4, 3), (2, 3, 4, 2), (2, 1, 4, 1), (2, 3, 0, 3)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="scores must be"):
        episode_auroc(np.zeros(shape))


def test_a_score_that_is_no_number_is_refused():
    scores = np.zeros((1, 2, 3, 2))
    scores[0, 1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        episode_auroc(scores)


PAIR = [[1.0, -1.0]]


def multilabel(n=130, questions=3, models=2, patients=45, seed=0):
    """Ties, unknown labels, patients with several images."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((n, questions)) < 0.4).astype(float)
    scores = np.round(generator.normal(size=(n, questions, models)) + targets[:, :, None], 1)
    targets[generator.random(targets.shape) < 0.25] = np.nan
    return targets, scores, generator.integers(0, patients, n)


def multiclass(n=140, classes=3, models=2, patients=50, seed=1):
    generator = np.random.default_rng(seed)
    targets = np.eye(classes)[generator.integers(0, classes, n)]
    scores = np.round(generator.normal(size=(n, classes, models)) + targets[:, :, None], 1)
    return targets, scores, generator.integers(0, patients, n)


def direct(targets, scores, patient):
    """Every question's structural components from all pairs, patient by patient, and their joint covariance."""
    clusters = np.unique(patient)
    _, questions, models = scores.shape
    x, y = (np.zeros((questions, models, len(clusters))) for _ in range(2))
    areas, factors = np.zeros((questions, models)), []
    for q in range(questions):
        known = ~np.isnan(targets[:, q])
        label, who = targets[known, q] == 1, patient[known]
        counts = [len(np.unique(who[label])), len(np.unique(who[~label])), len(np.unique(who))]
        factors.append([count / (count - 1) for count in counts])
        for c in range(models):
            score = scores[known, q, c]
            pairs = kernel(score[label], score[~label])
            areas[q, c] = pairs.mean()
            for place, cluster in enumerate(clusters):
                x[q, c, place] = (pairs[who[label] == cluster].mean(axis=1) - pairs.mean()).sum() / label.sum()
                y[q, c, place] = (pairs[:, who[~label] == cluster].mean(axis=0) - pairs.mean()).sum() / (~label).sum()
    covariance = np.zeros((models, models))
    for c in range(models):
        for d in range(models):
            for q in range(questions):
                for r in range(questions):
                    f10, f01, f11 = (np.sqrt(factors[q][i] * factors[r][i]) for i in range(3))
                    covariance[c, d] += f10 * x[q, c] @ x[r, d] + f01 * y[q, c] @ y[r, d]
                    covariance[c, d] += f11 * (x[q, c] @ y[r, d] + y[q, c] @ x[r, d])
    return areas.mean(axis=0), covariance / questions**2


@pytest.mark.parametrize("make", [multilabel, multiclass])
def test_covariance_equals_all_pairs_written_out(make):
    targets, scores, patient = make()
    found = macro_auroc_covariance(targets, scores, patient)
    areas, covariance = direct(targets, scores, patient)
    np.testing.assert_allclose(found.auroc, areas, atol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-10, rtol=1e-10)
    # Questions of the same patients go together: their variances alone are not enough.
    alone = sum(
        auroc_covariance(*_known(targets, scores, patient, q)).covariance for q in range(targets.shape[1])
    ) / targets.shape[1] ** 2  # fmt: skip
    assert not np.allclose(alone, covariance, rtol=0.05)


def _known(targets, scores, patient, question):
    rows = ~np.isnan(targets[:, question])
    return targets[rows, question], scores[rows, question], patient[rows]


def test_one_question_is_obuchowski_and_unknown_rows_are_not_there():
    targets, scores, patient = multilabel(questions=1)
    found = macro_auroc_covariance(targets, scores, patient)
    expected = auroc_covariance(*_known(targets, scores, patient, 0))
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-14)
    np.testing.assert_allclose(found.auroc, expected.auroc, rtol=1e-14)


def test_the_same_question_twice_is_that_question():
    targets, scores, patient = multilabel(questions=1)
    once = macro_auroc_covariance(targets, scores, patient)
    twice = macro_auroc_covariance(np.repeat(targets, 2, axis=1), np.repeat(scores, 2, axis=1), patient)
    np.testing.assert_allclose(twice.covariance, once.covariance, rtol=1e-12)


@pytest.mark.parametrize("make", [multilabel, multiclass])
def test_the_jackknife_over_patients_agrees(make):
    targets, scores, patient = make(n=600, patients=200)
    patients = identify(patient)

    def macro(model):
        parts = []
        for question in range(targets.shape[1]):
            rows = np.flatnonzero(~np.isnan(targets[:, question]))
            codes = patients.codes[rows]
            parts.append(Auroc(targets[rows, question], scores[rows, question, model], codes, patients.count))
        return Average(parts)

    deleted = np.stack([macro(model).without_each() for model in (0, 1)])
    gap = deleted[0] - deleted[1]
    jackknife = ((patients.count - 1) / patients.count * ((gap - gap.mean()) ** 2).sum()) ** 0.5
    (found,) = contrast_macro_aurocs(targets, scores, PAIR, patient)
    assert found.standard_error == pytest.approx(jackknife, rel=0.02)
    assert found.value == pytest.approx(macro(0).on_the_data() - macro(1).on_the_data(), abs=1e-14)


def test_folds_are_averaged_and_ranked_apart():
    targets, scores, patient = multiclass(n=300, patients=120)
    folds = patient % 2
    found = macro_auroc_covariance(targets, scores, patient, folds)
    parts = [macro_auroc_covariance(targets[folds == f], scores[folds == f], patient[folds == f]) for f in (0, 1)]
    np.testing.assert_allclose(found.covariance, (parts[0].covariance + parts[1].covariance) / 4, rtol=1e-12)
    np.testing.assert_allclose(found.auroc, (parts[0].auroc + parts[1].auroc) / 2, rtol=1e-14)
    shifted = scores + 100 * folds[:, None, None]
    np.testing.assert_allclose(macro_auroc_covariance(targets, shifted, patient, folds).covariance, found.covariance)


def test_a_contrast_is_the_difference_of_the_means():
    targets, scores, patient = multilabel(models=3)
    found = contrast_macro_aurocs(targets, scores, [[0.5, 0.5, -1]], patient)[0]
    areas = [
        np.mean([auroc(t[:], s[:, model]) for t, s, _ in (_known(targets, scores, patient, q) for q in range(3))])
        for model in range(3)
    ]
    assert found.value == pytest.approx((areas[0] + areas[1]) / 2 - areas[2], abs=1e-14)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / found.standard_error), rel=1e-10)
    assert found.n == len(np.unique(patient))
    assert "joint over 3 classes" in found.method


def test_binary_contrasts_are_one_question():
    targets, scores, patient = multilabel(questions=1)
    target, score, who = _known(targets, scores, patient, 0)
    assert contrast_aurocs(target, score, PAIR, who)[0] == compare_auroc(target, score[:, 0], score[:, 1], who)


def test_a_class_of_one_patient_and_labels_that_are_none_are_refused():
    targets, scores, patient = multiclass()
    targets[:, 2] = 0
    targets[0, 2] = 1
    with pytest.raises(ValueError, match="two positive and two negative patients; there are 1"):
        macro_auroc_covariance(targets, scores, patient)
    with pytest.raises(ValueError, match="0 or 1"):
        macro_auroc_covariance(np.full((2, 1), 2.0), np.zeros((2, 1, 1)))


def test_size_under_the_null_with_three_or_four_images_per_patient():
    # 300 studies without a difference; at size .05 more than 31 rejections have probability below 1e-4.
    most = stats.binom.ppf(1 - 1e-4, 300, 0.05)
    clustered = single = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        patient = np.repeat(np.arange(90), generator.integers(3, 5, 90))
        targets = np.eye(3)[generator.integers(0, 3, 90)][patient]
        scores = generator.normal(size=(90, 3, 2))[patient] + generator.normal(size=(len(patient), 3, 2))
        scores += targets[:, :, None]
        clustered += contrast_macro_aurocs(targets, scores, PAIR, patient)[0].p < 0.05
        single += contrast_macro_aurocs(targets, scores, PAIR)[0].p < 0.05
    assert clustered <= most
    assert single > most


SCRIPT = """
suppressMessages(library(pROC))
data(aSAH)
write.csv(data.frame(outcome = as.integer(aSAH$outcome == "Poor"), wfns = as.integer(aSAH$wfns),
                     s100b = aSAH$s100b, ndka = aSAH$ndka), stdout(), row.names = FALSE)
cat("---\\n")
curve <- function(x) roc(aSAH$outcome, x, levels = c("Good", "Poor"), direction = "<", quiet = TRUE)
say <- function(name, values) cat(name, format(as.numeric(values), digits = 15), "\\n")
for (name in c("wfns", "s100b", "ndka")) {
  one <- curve(as.numeric(aSAH[[name]]))
  say(paste0(name, ".ci"), ci.auc(one, method = "delong"))
  say(paste0(name, ".var"), var(one, method = "delong"))
}
for (pair in list(c("wfns", "s100b"), c("wfns", "ndka"), c("s100b", "ndka"))) {
  one <- curve(as.numeric(aSAH[[pair[1]]])); other <- curve(as.numeric(aSAH[[pair[2]]]))
  found <- roc.test(one, other, method = "delong", paired = TRUE)
  say(paste(c(pair, "test"), collapse = "."), c(found$statistic, found$p.value, found$conf.int))
  say(paste(c(pair, "cov"), collapse = "."), cov(one, other, method = "delong"))
}
"""


def _has_proc() -> bool:
    if shutil.which("Rscript") is None:
        return False
    return subprocess.run(["Rscript", "-e", "library(pROC)"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def proc() -> tuple[pd.DataFrame, dict[str, list[float]]]:
    if not _has_proc():
        pytest.skip("R's pROC is not installed (apt-get install r-cran-proc)")
    output = subprocess.run(["Rscript", "-e", SCRIPT], capture_output=True, text=True, check=True).stdout
    data, values = output.split("---\n")
    return pd.read_csv(io.StringIO(data)), {
        name: [float(each) for each in rest] for name, *rest in (line.split() for line in values.splitlines())
    }


@pytest.mark.parametrize("name", ["wfns", "s100b", "ndka"])
def test_area_variance_and_interval_are_those_of_proc(name: str, proc: Any) -> None:
    data, values = proc
    found = auroc_covariance(data["outcome"], data[name])
    low, area, high = values[f"{name}.ci"]
    assert len(data) == 113
    assert found.auroc[0] == pytest.approx(area, abs=1e-12)
    assert found.covariance[0, 0] == pytest.approx(values[f"{name}.var"][0], rel=1e-10)
    reach = norm.isf(0.025) * found.covariance[0, 0] ** 0.5
    assert (area - reach, min(1, area + reach)) == pytest.approx((low, high), abs=1e-10)


@pytest.mark.parametrize(("one", "other"), [("wfns", "s100b"), ("wfns", "ndka"), ("s100b", "ndka")])
def test_the_paired_test_and_its_interval_are_those_of_proc(one: str, other: str, proc: Any) -> None:
    data, values = proc
    found = compare_auroc(data["outcome"], data[one], data[other])
    z, p, low, high = values[f"{one}.{other}.test"]
    assert found.p == pytest.approx(p, rel=1e-9)
    assert found.value / found.standard_error == pytest.approx(z, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)
    covariance = auroc_covariance(data["outcome"], np.stack([data[one], data[other]], axis=1)).covariance
    assert covariance[0, 1] == pytest.approx(values[f"{one}.{other}.cov"][0], rel=1e-10)


def direct_obuchowski(target, scores, patient):
    """Obuchowski (1997) written out cluster by cluster from all pairs."""
    clusters = np.unique(patient)
    label = target == 1
    m, n = label.sum(), (~label).sum()
    with_positive = sum(label[patient == c].any() for c in clusters)
    with_negative = sum((~label[patient == c]).any() for c in clusters)
    areas, x_sums, y_sums = [], [], []
    for score in scores.T:
        pairs = kernel(score[label], score[~label])
        area = pairs.mean()
        x, y = pairs.mean(axis=1), pairs.mean(axis=0)
        areas.append(area)
        x_sums.append([x[patient[label] == c].sum() - (patient[label] == c).sum() * area for c in clusters])
        y_sums.append([y[patient[~label] == c].sum() - (patient[~label] == c).sum() * area for c in clusters])
    x_sums, y_sums = np.array(x_sums), np.array(y_sums)
    total = len(clusters)
    size = len(areas)
    covariance = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            s10 = with_positive / ((with_positive - 1) * m) * np.sum(x_sums[i] * x_sums[j])
            s01 = with_negative / ((with_negative - 1) * n) * np.sum(y_sums[i] * y_sums[j])
            s11 = total / (total - 1) * np.sum(x_sums[i] * y_sums[j])
            s11_back = total / (total - 1) * np.sum(x_sums[j] * y_sums[i])
            covariance[i, j] = s10 / m + s01 / n + (s11 + s11_back) / (m * n)
    return np.array(areas), covariance


def test_covariance_equals_direct_delong_at_one_image_per_patient():
    target, score, _ = tied_data(80, scores=3)
    found = auroc_covariance(target, score)
    label = target == 1
    pairs = np.stack([kernel(s[label], s[~label]) for s in score.T])
    by_positive, by_negative = pairs.mean(axis=2), pairs.mean(axis=1)
    direct = np.cov(by_positive) / label.sum() + np.cov(by_negative) / (~label).sum()
    np.testing.assert_allclose(found.covariance, direct, atol=1e-10, rtol=1e-10)
    np.testing.assert_allclose(found.auroc, pairs.mean(axis=(1, 2)), atol=1e-14)
    np.testing.assert_allclose(
        auroc_covariance(target, score, np.arange(80)).covariance, direct, atol=1e-10, rtol=1e-10
    )


def test_clustered_covariance_equals_obuchowski_written_out():
    target, score, patient = tied_data(150, scores=3)
    found = auroc_covariance(target, score, patient)
    areas, covariance = direct_obuchowski(target, score, patient)
    np.testing.assert_allclose(found.auroc, areas, atol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-10, rtol=1e-10)
    assert np.all(np.linalg.eigvalsh(found.covariance) > 0)


@pytest.mark.parametrize("n", [4, 5, 7, 12])
def test_tiny_samples_with_ties_have_the_direct_covariance(n):
    for seed in range(20):
        generator = np.random.default_rng(seed)
        target = np.r_[1, 1, 0, 0, generator.integers(0, 2, n - 4)].astype(float)
        score = generator.integers(0, 3, (n, 2)).astype(float)
        label = target == 1
        pairs = np.stack([kernel(s[label], s[~label]) for s in score.T])
        direct = np.cov(pairs.mean(axis=2)) / label.sum() + np.cov(pairs.mean(axis=1)) / (~label).sum()
        np.testing.assert_allclose(auroc_covariance(target, score).covariance, direct, atol=1e-14)
        patient = np.r_[0, 1, 2, 3, generator.integers(0, 4, n - 4)]
        np.testing.assert_allclose(
            auroc_covariance(target, score, patient).covariance,
            direct_obuchowski(target, score, patient)[1],
            atol=1e-14,
        )


def test_repeating_every_image_of_a_patient_changes_neither_area_nor_clustered_variance():
    target, score, _ = tied_data(60, scores=1)
    once = auroc_covariance(target, score, np.arange(60))
    thrice = auroc_covariance(np.repeat(target, 3), np.repeat(score, 3, axis=0), np.repeat(np.arange(60), 3))
    np.testing.assert_allclose(thrice.auroc, once.auroc, atol=1e-14)
    np.testing.assert_allclose(thrice.covariance, once.covariance, atol=1e-12)
    unclustered = auroc_covariance(np.repeat(target, 3), np.repeat(score, 3, axis=0))
    assert unclustered.covariance[0, 0] < 0.5 * once.covariance[0, 0]


def test_fold_covariance_is_of_the_mean_over_images():
    target, score, _ = tied_data(120)
    folds = np.arange(120) % 2
    parts = [auroc_covariance(target[folds == f], score[folds == f]) for f in (0, 1)]
    found = auroc_covariance(target, score, folds=folds)
    np.testing.assert_allclose(found.auroc, (parts[0].auroc + parts[1].auroc) / 2, atol=1e-14)
    np.testing.assert_allclose(found.covariance, (parts[0].covariance + parts[1].covariance) / 4, atol=1e-14)


def test_variance_needs_two_patients_of_each_class():
    with pytest.raises(ValueError, match="two positive"):
        auroc_covariance([1, 1, 0, 0], [1, 2, 3, 4], ["a", "a", "b", "c"])


def test_a_patient_with_both_kinds_counts_on_both_sides():
    assert class_patients([1, 0, 1, 0, 0], ["a", "a", "b", "c", "c"]) == (2, 2)


@pytest.mark.parametrize(("positives", "images"), [(1, 1), (1, 2), (2, 5), (3, 6), (4, 7), (5, 5)])
def test_chance_of_average_precision_is_the_mean_over_all_orders(positives, images):
    every = [
        np.mean([(rank + 1) / place for rank, place in enumerate(places)])
        for places in combinations(range(1, images + 1), positives)
    ]
    assert chance_average_precision(positives, images) == pytest.approx(np.mean(every), abs=1e-12)


def test_chance_of_average_precision_lies_above_the_prevalence():
    assert chance_average_precision(4, 40) == pytest.approx(0.176, abs=5e-4)
    assert chance_average_precision(10**4, 10**5) == pytest.approx(0.1, abs=2e-4)
    with pytest.raises(ValueError, match="positive"):
        chance_average_precision(0, 5)
