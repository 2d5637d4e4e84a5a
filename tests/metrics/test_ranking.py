"""AUROC and average precision where labels are unknown, in folds, and what chance comes to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from evalfm.metrics.registry import metric_of

from .made import Sampling, binary_metrics, multilabel_metrics

QUICK = Sampling(resamples=50)


def test_chance_is_of_the_images_where_a_label_is_known():
    generator = np.random.default_rng(0)
    targets = (generator.random((120, 2)) < [0.1, 0.4]).astype(float)
    targets[generator.random((120, 2)) < 0.2] = np.nan
    scores = generator.random((120, 2))
    found = multilabel_metrics(targets, scores, np.arange(120), QUICK, class_names=("a", "b"))
    each = []
    for place, name in enumerate("ab"):
        known = ~np.isnan(targets[:, place])
        label, score = targets[known, place], scores[known, place]
        drawn = [metrics.average_precision_score(label, generator.random(len(label))) for _ in range(1500)]
        chance = found[f"auprc_chance[{name}]"]
        assert chance.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 1500**0.5)
        assert found[f"auprc[{name}]"].value == pytest.approx(metrics.average_precision_score(label, score))
        each.append(chance.value)
    assert found["macro_auprc_chance"].value == pytest.approx(np.mean(each))
    assert found["macro_auprc_chance"].reason == "an expectation, no estimate"


def test_chance_stands_beside_average_precision_everywhere():
    for name in ("auprc", "auprc[a b]", "macro_auprc"):
        assert metric_of(name).beside == (name.replace("auprc", "auprc_chance"),)
    assert metric_of("auprc_chance").better is None


def test_without_a_positive_there_is_neither():
    found = binary_metrics(np.zeros(30), np.linspace(0, 1, 30), np.arange(30), QUICK, threshold=None)
    for name in ("auprc", "auprc_chance"):
        assert (found[name].value, found[name].reason) == (None, "no image is positive")


def test_the_two_patients_of_a_fold_are_patients_and_not_images():
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 2)
    target = (patient % 2).astype(float)
    folds = patient // 20
    # All positive images of the first fold are of one patient.
    target[(folds == 0) & (patient != 1)] = 0.0
    found = binary_metrics(target, generator.random(120), patient, Sampling(folds=folds, resamples=50), threshold=None)
    assert "1 of 3 folds hold fewer than 2 patients" in found["auroc"].note
    two = target.copy()
    two[patient == 3] = 1.0
    found = binary_metrics(two, generator.random(120), patient, Sampling(folds=folds, resamples=50), threshold=None)
    assert "folds" not in (found["auroc"].note or "")
