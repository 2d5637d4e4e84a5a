"""Multiclass and ordinal metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from evalfm.errors import EvalfmError
from evalfm.statistics.classification import base_classes

from .made import Sampling, multiclass_metrics


def study(n=300, seed=0, classes=4):
    generator = np.random.default_rng(seed)
    target = generator.choice(classes, n, p=[0.4, 0.3, 0.2, 0.1])
    scores = np.exp(generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[target])
    return target, scores / scores.sum(axis=1, keepdims=True), generator.integers(0, 150, n)


def test_values_equal_sklearn():
    target, scores, patient = study()
    found = multiclass_metrics(target, scores, patient, kind="ordinal", class_names=list("abcd"))
    predicted = scores.argmax(axis=1)
    expected = {
        "macro_auroc": metrics.roc_auc_score(target, scores, multi_class="ovr", average="macro"),
        "accuracy": metrics.accuracy_score(target, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(target, predicted),
        "macro_f1": metrics.f1_score(target, predicted, average="macro"),
        "weighted_f1": metrics.f1_score(target, predicted, average="weighted"),
        "quadratic_kappa": metrics.cohen_kappa_score(target, predicted, weights="quadratic"),
        "auroc[b]": metrics.roc_auc_score(target == 1, scores[:, 1]),
        "log_loss": metrics.log_loss(target, scores),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)
        assert found[name].low < value < found[name].high
    assert "quadratic_kappa" not in multiclass_metrics(target, scores, patient, Sampling(resamples=20))


def test_certainty_before_and_after_a_temperature():
    target, scores, patient = study()
    flat = np.full_like(scores, 0.25)
    found = multiclass_metrics(target, scores, patient, Sampling(resamples=50), calibrated=flat)
    assert found["log_loss_calibrated"].value == pytest.approx(np.log(4))
    assert found["ece_calibrated"].value == pytest.approx(abs((target == 0).mean() - 0.25))
    order = np.argsort(scores.max(axis=1), kind="stable")
    right = (scores.argmax(axis=1) == target)[order]
    sure = np.sort(scores.max(axis=1))
    gaps = np.abs(right.reshape(15, -1).mean(axis=1) - sure.reshape(15, -1).mean(axis=1))
    assert found["ece"].value == pytest.approx(gaps.mean())
    wild = multiclass_metrics(target, scores * 9, patient, Sampling(resamples=50))
    assert wild["log_loss"].value is None
    assert "no probabilities" in wild["ece"].reason


def test_rare_classes_leave_the_macro_and_are_named():
    target, scores, _ = study()
    keep = (target != 3) | (np.cumsum(target == 3) <= 4)
    found = multiclass_metrics(
        target[keep], scores[keep], np.arange(keep.sum()), Sampling(resamples=100), class_names=list("abcd")
    )
    assert found["auroc[d]"].value is None
    assert found["macro_auroc"].value == pytest.approx(np.mean([found[f"auroc[{c}]"].value for c in "abc"]))
    assert found["macro_auroc"].note.endswith("over 3 of 4 classes, without d")


def test_with_too_few_of_every_class_there_is_no_macro():
    target, scores, _ = study(20)
    found = multiclass_metrics(target[:12], scores[:12], np.arange(12), Sampling(resamples=50))
    assert found["macro_auroc"].value is None
    assert "no classes" in found["macro_auroc"].reason


def test_folds_are_averaged():
    target, scores, _ = study()
    folds = np.arange(300) % 2
    found = multiclass_metrics(target, scores, np.arange(300), Sampling(folds=folds, resamples=50))
    parts = [metrics.roc_auc_score(target[folds == f], scores[folds == f], multi_class="ovr") for f in (0, 1)]
    assert found["macro_auroc"].value == pytest.approx(np.mean(parts))


def test_faults_are_refused():
    target, scores, patient = study(30)
    with pytest.raises(EvalfmError, match="0 to 3"):
        multiclass_metrics(target + 1, scores, patient)
    with pytest.raises(EvalfmError, match="at least two"):
        multiclass_metrics(target, scores[:, :1], patient)


def test_base_to_novel_of_accuracies_on_each_half():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 5, 200)
    scores = pd.DataFrame(generator.random((200, 5))).to_numpy()
    patient = generator.integers(0, 120, 200)
    found = multiclass_metrics(target, scores, patient, Sampling(resamples=400), kind="base-to-novel")
    own = np.where((np.arange(5) < 3) == (target < 3)[:, None], scores, -1)
    b, n = ((own.argmax(1) == target)[half].mean() for half in (target < 3, target >= 3))
    assert found["harmonic_mean"].value == pytest.approx(2 / (1 / b + 1 / n))
    assert found["harmonic_mean"].low < found["harmonic_mean"].value < found["harmonic_mean"].high
    wrong = np.eye(5)[np.where(target < 3, (target + 1) % 3, 7 - target)]
    never = multiclass_metrics(target, wrong, patient, Sampling(resamples=50), kind="base-to-novel")
    assert never["accuracy_base"].value == 0
    assert never["harmonic_mean"].value == 0
    base = target < 3
    only = multiclass_metrics(target[base], scores[base], patient[base], Sampling(resamples=50), kind="base-to-novel")
    assert only["harmonic_mean"].value is None
    assert [base_classes(count) for count in (2, 3, 4, 7)] == [1, 2, 2, 4]
    # Random scores would be always right on a half of one class.
    for classes in (1, 2, 3):
        with pytest.raises(EvalfmError, match="4 classes or more: in a half of one class every answer is right"):
            multiclass_metrics(target % classes, scores[:, :classes], patient, kind="base-to-novel")
