"""Metrics over images: which images each is of, and what is never averaged together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evalfm.errors import EvalfmError
from evalfm.metrics.mask_scores import image_scores
from evalfm.metrics.registry import compute_metrics
from evalfm.metrics.rows import Scored

from .made import Sampling, segmentation_metrics

EMPTY = np.zeros((30, 40), dtype=bool)
SQUARE = EMPTY.copy()
SQUARE[5:15, 5:15] = True


def scored(predicted, truth, spacing_mm=None):
    probability = np.where(predicted, 0.9, 0.1).astype(np.float32)
    return image_scores(probability, truth, 0.5, spacing_mm=spacing_mm)


def mixed():
    shifted = np.roll(SQUARE, 2, axis=0)
    return [
        scored(shifted, SQUARE, (1.0, 1.0)),
        scored(SQUARE, SQUARE),
        scored(EMPTY, SQUARE, (1.0, 1.0)),
        scored(np.roll(SQUARE, 15, axis=1), SQUARE),
        scored(EMPTY, EMPTY),
        scored(SQUARE, EMPTY, (1.0, 1.0)),
    ]


def test_means_over_the_images_that_each_metric_is_for():
    rows = mixed()
    found = segmentation_metrics(rows, list("aabbcc"), Sampling(resamples=50))
    dice = np.array([row.dice for row in rows])
    assert found["dice_positive"].value == pytest.approx(dice[:4].mean())
    assert found["dice_all"].value == pytest.approx(dice.mean())
    assert dice.tolist() == pytest.approx([0.8, 1.0, 0.0, 0.0, 1.0, 0.0])
    assert found["iou_positive"].value == pytest.approx(np.mean([row.iou for row in rows[:4]]))
    assert found["fraction_missed"].value == 0.5
    assert found["false_positive_area"].value == pytest.approx(100 / 1200 / 2)
    assert (found["dice_positive"].n, found["dice_all"].n, found["false_positive_area"].n) == (2, 3, 1)


def test_millimetres_and_pixels_are_never_averaged_together():
    rows = mixed()
    found = segmentation_metrics(rows, list("aabbcc"), Sampling(resamples=50))
    assert found["hd95_mm"].value == pytest.approx((rows[0].hd95 + 50 + 50) / 3)
    assert found["hd95_pixels"].value == pytest.approx((0 + rows[3].hd95) / 2)
    assert found["nsd_mm"].value == pytest.approx((rows[0].nsd + 0 + 0) / 3)
    assert found["nsd"].value is None
    assert "nsd_mm" in found["nsd"].reason
    alone = segmentation_metrics([rows[0], rows[2]], list("ab"), Sampling(resamples=50))
    assert alone["nsd"].value == alone["nsd_mm"].value == pytest.approx(rows[0].nsd / 2)
    assert alone["hd95_pixels"].value is None
    assert "pixels" in alone["hd95_pixels"].reason


def test_counts_of_empty_masks():
    found = segmentation_metrics(mixed(), list("aabbcc"), Sampling(resamples=50))
    assert [found[name].value for name in ("empty_predictions", "empty_truths", "both_empty")] == [1, 1, 1]


def test_a_head_that_predicts_nothing():
    rows = [scored(EMPTY, SQUARE if index < 12 else EMPTY) for index in range(40)]
    found = segmentation_metrics(rows, np.arange(40), Sampling(resamples=100))
    assert found["dice_positive"].value == 0.0
    assert "degenerate" in found["dice_positive"].reason
    assert found["dice_all"].value == pytest.approx(28 / 40)
    assert found["fraction_missed"].value == 1.0
    assert found["hd95_pixels"].value == 50.0
    assert found["nsd"].value == 0.0
    assert found["image_auroc"].value == 0.5
    assert found["both_empty"].value == 28


def test_image_auroc_needs_ten_of_each():
    found = segmentation_metrics(mixed(), list("aabbcc"), Sampling(resamples=50))
    assert found["image_auroc"].value is None
    assert "10" in found["image_auroc"].reason


def test_a_column_that_lacks_is_named():
    table = pd.DataFrame({"patient": list("ab"), "dice_heart": [0.5, 0.6]})
    with pytest.raises(EvalfmError, match="predictions lack area_true_heart"):
        compute_metrics("segmentation", Scored(table, ("heart",), True))


def test_images_of_all_folds_count_alike():
    rows = mixed()
    found = segmentation_metrics(rows, list("abcdef"), Sampling(folds=[0, 1, 1, 1, 0, 1], resamples=50))
    whole = segmentation_metrics(rows, list("abcdef"), Sampling(resamples=50))
    assert found["dice_positive"].value == whole["dice_positive"].value == pytest.approx(0.45)
