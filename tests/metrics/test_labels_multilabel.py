"""Multilabel metrics: macro and per label, unknown labels left out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from evalfm.errors import EvalfmError

from .made import Sampling, multilabel_metrics

NAMES = ("effusion", "mass", "hernia")


def study(n=200):
    generator = np.random.default_rng(0)
    targets = (generator.random((n, 3)) < 0.4).astype(float)
    scores = 1 / (1 + np.exp(-(generator.normal(size=(n, 3)) + targets)))
    return targets, scores, generator.integers(0, 120, n)


def test_macro_is_the_mean_over_labels():
    targets, scores, patient = study()
    thresholds = dict.fromkeys(NAMES, 0.5)
    found = multilabel_metrics(targets, scores, patient, class_names=NAMES, thresholds=thresholds)
    single = [metrics.roc_auc_score(targets[:, k], scores[:, k]) for k in range(3)]
    assert [found[f"auroc[{name}]"].value for name in NAMES] == pytest.approx(single)
    assert found["macro_auroc"].value == pytest.approx(np.mean(single))
    assert found["macro_auprc"].value == pytest.approx(metrics.average_precision_score(targets, scores))
    recall = metrics.recall_score(targets, scores >= 0.5, average="macro")
    assert found["macro_sensitivity"].value == pytest.approx(recall)
    assert found["macro_auroc"].low < np.mean(single) < found["macro_auroc"].high
    # Labels are resampled together: the macro is more certain than each label alone.
    widths = [found[f"auroc[{name}]"].high - found[f"auroc[{name}]"].low for name in NAMES]
    assert found["macro_auroc"].high - found["macro_auroc"].low < min(widths)


def test_a_threshold_may_differ_from_row_to_row_and_follows_the_known_rows():
    targets, scores, patient = study()
    targets[:50, 1] = np.nan
    rows = np.where(np.arange(200) < 120, 0.4, 0.7)
    found = multilabel_metrics(targets, scores, patient, class_names=NAMES, thresholds=dict.fromkeys(NAMES, rows))
    for column, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, column])
        called = (scores[:, column] >= rows)[known]
        assert found[f"f1[{name}]"].value == pytest.approx(metrics.f1_score(targets[known, column], called))


def test_unknown_labels_leave_that_label_alone():
    targets, scores, patient = study()
    targets[:50, 1] = np.nan
    found = multilabel_metrics(targets, scores, patient, Sampling(resamples=100), class_names=NAMES)
    assert found["auroc[mass]"].value == pytest.approx(metrics.roc_auc_score(targets[50:, 1], scores[50:, 1]))
    assert found["auroc[mass]"].n == len(np.unique(patient[50:]))
    assert found["auroc[effusion]"].n == len(np.unique(patient))
    assert "sensitivity[mass]" not in found


def test_rare_and_unknown_labels_are_named():
    targets, scores, patient = study()
    targets[:, 1] = np.nan
    targets[:, 2] = 0
    targets[:3, 2] = 1
    found = multilabel_metrics(targets, scores, patient, Sampling(resamples=100), class_names=NAMES)
    assert found["macro_auroc"].value == found["auroc[effusion]"].value
    assert found["macro_auroc"].note == "over 1 of 3 labels, without hernia, mass"
    assert found["auroc[mass]"].reason == "the label is unknown on every image"


def test_unknown_labels_with_folds():
    targets, scores, _ = study()
    folds = np.arange(200) % 2
    targets[folds == 1, 0] = np.nan
    found = multilabel_metrics(targets, scores, np.arange(200), Sampling(folds=folds, resamples=50), class_names=NAMES)
    expected = metrics.roc_auc_score(targets[folds == 0, 0], scores[folds == 0, 0])
    assert found["auroc[effusion]"].value == pytest.approx(expected)


def test_faults_are_refused():
    targets, scores, patient = study()
    with pytest.raises(EvalfmError, match="0, 1 or empty"):
        multilabel_metrics(targets * 2, scores, patient, class_names=NAMES)
