"""The covariance of macro AUROCs against all pairs written out, the jackknife and the question alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evalfm.statistics.auroc import Auroc, auroc, auroc_covariance, macro_auroc_covariance
from evalfm.statistics.comparison import compare_auroc, contrast_aurocs, contrast_macro_aurocs
from evalfm.statistics.resampling import Average, identify

PAIR = [[1.0, -1.0]]


def kernel(positive, negative):
    """[m, n] 1 where the positive wins, .5 where level."""
    return (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])


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
    assert (found.positive_patients, found.negative_patients) == (
        expected.positive_patients,
        expected.negative_patients,
    )


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
