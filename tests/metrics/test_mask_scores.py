"""Per-image conventions, the pixel threshold, and distances between borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy import ndimage

from evalfm.errors import EvalfmError
from evalfm.metrics.mask_scores import (
    PixelHistogram,
    border_points,
    image_score,
    image_scores,
    surface_distances,
)

EMPTY = np.zeros((30, 40), dtype=bool)
SQUARE = EMPTY.copy()
SQUARE[5:15, 5:15] = True


def probability(mask, low=0.1, high=0.9):
    return np.where(mask, high, low).astype(np.float32)


def scored(predicted, truth, spacing_mm=None, **rest):
    return image_scores(probability(predicted), truth, 0.5, spacing_mm=spacing_mm, **rest)


def test_overlap_equals_monai():
    generator = np.random.default_rng(0)
    truth, predicted = generator.random((2, 30, 40)) < 0.3
    found = scored(predicted, truth)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (predicted, truth)]
    assert found.dice == pytest.approx(float(compute_dice(*tensors)[0, 0]), rel=1e-6)
    assert found.iou == pytest.approx(float(compute_iou(*tensors)[0, 0]), rel=1e-6)
    assert found.area_true == pytest.approx(truth.mean())
    assert found.area_predicted == pytest.approx(predicted.mean())


@pytest.mark.parametrize(("predicted", "truth"), [(EMPTY, SQUARE), (SQUARE, EMPTY)], ids=["missed", "false alarm"])
def test_one_empty_mask_is_the_worst_there_is(predicted, truth):
    found = scored(predicted, truth)
    assert (found.dice, found.iou, found.nsd) == (0.0, 0.0, 0.0)
    assert found.hd95 == 50.0
    assert found.distance_unit == "pixels"
    found = scored(predicted, truth, (2.0, 0.5))
    assert found.hd95 == math.hypot(60.0, 20.0)
    assert found.distance_unit == "mm"


def test_both_empty_is_perfect_and_left_out_of_distances():
    found = scored(EMPTY, EMPTY)
    assert (found.dice, found.iou, found.hd95, found.nsd) == (1.0, 1.0, None, None)
    assert math.isnan(found.columns()["hd95"])


def test_a_pixel_at_the_threshold_is_predicted():
    found = image_scores(probability(SQUARE, high=0.5), SQUARE, 0.5, spacing_mm=None)
    assert found.dice == 1.0


def test_tolerance_is_millimetres_or_one_per_cent_of_the_height():
    tall = np.zeros((300, 40), dtype=bool)
    tall[10:30, 10:30] = True
    shifted = np.roll(tall, 3, axis=0)
    assert image_scores(probability(shifted), tall, 0.5, spacing_mm=None).nsd == 1.0
    assert image_scores(probability(shifted[:200]), tall[:200], 0.5, spacing_mm=None).nsd < 1.0
    assert scored(shifted, tall, (0.5, 0.5)).nsd == 1.0
    assert scored(shifted, tall, (0.5, 0.5), tolerance_mm=1.4).nsd < 1.0
    assert scored(shifted, tall, (0.5, 0.5)).hd95 == 1.5
    # The spacing is (row, column): a shift along rows is measured with the first.
    assert scored(shifted, tall, (2.0, 0.1)).hd95 > 2.9


def test_image_score_is_the_mean_of_the_top_permille():
    pixels = np.random.default_rng(0).random((100, 100))
    assert image_score(pixels) == pytest.approx(np.sort(pixels.ravel())[-10:].mean())
    assert image_score(np.array([[0.2, 0.7]])) == 0.7


def test_shapes_and_missing_probabilities_are_refused():
    with pytest.raises(EvalfmError, match="grid"):
        image_scores(np.zeros((3, 4)), EMPTY, 0.5, spacing_mm=None)
    with pytest.raises(EvalfmError, match="missing or infinite"):
        image_scores(np.full(EMPTY.shape, np.nan), EMPTY, 0.5, spacing_mm=None)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_no_bin_edge_beats_the_chosen_threshold(seed):
    generator = np.random.default_rng(seed)
    histogram = PixelHistogram(bins=64)
    truths, pixels = [], []
    for _ in range(3):
        truth = generator.random((8, 8)) < 0.3
        truth[0, 0] = True
        image = np.clip(generator.normal(0.4 + 0.2 * truth, 0.2), 0, 1).astype(np.float32)
        histogram.add(image, truth)
        truths.append(truth.ravel())
        pixels.append(image.ravel())
    truth, pixel = np.concatenate(truths), np.concatenate(pixels)

    def pooled(threshold):
        called = pixel >= threshold
        return 2 * (called & truth).sum() / (called.sum() + truth.sum())

    everything = np.array([pooled(k / 64) for k in range(65)])
    np.testing.assert_allclose(histogram.dice(), everything, atol=1e-15)
    assert pooled(histogram.best_threshold()) == pytest.approx(everything[1:].max())


def test_a_gap_between_the_classes_is_halved():
    histogram = PixelHistogram()
    histogram.add(probability(SQUARE, 0.25, 0.75), SQUARE)
    assert histogram.best_threshold() == pytest.approx(0.5, abs=2e-4)


def test_rare_and_faint_lesions_get_a_low_threshold():
    histogram = PixelHistogram()
    histogram.add(probability(SQUARE, 0.001, 0.01), SQUARE)
    threshold = histogram.best_threshold()
    assert 0.001 < threshold < 0.01


def test_histogram_refuses_what_is_no_probability_and_no_lesion():
    with pytest.raises(EvalfmError, match="sigmoid"):
        PixelHistogram().add(probability(SQUARE, -1.0), SQUARE)
    histogram = PixelHistogram()
    histogram.add(probability(EMPTY), EMPTY)
    with pytest.raises(EvalfmError, match="No val image"):
        histogram.best_threshold()
    with pytest.raises(ValueError, match="power of two"):
        PixelHistogram(1000)


def test_a_head_that_finds_nothing_is_not_made_to_find_everything():
    histogram = PixelHistogram()
    histogram.add(np.zeros(SQUARE.shape, dtype=np.float32), SQUARE)
    assert histogram.best_threshold() > 0


def test_certain_pixels_are_counted():
    histogram = PixelHistogram()
    histogram.add(SQUARE.astype(np.float32), SQUARE)
    assert histogram.dice().max() == 1.0


def blobs(seed, shape=(48, 40)):
    generator = np.random.default_rng(seed)
    fields = (ndimage.gaussian_filter(generator.normal(size=shape), 4) for _ in range(2))
    return tuple(field > np.quantile(field, 0.8) for field in fields)


def as_monai(mask):
    one_hot = np.stack([~mask, mask])[None]
    return torch.from_numpy(one_hot.astype(np.float32))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
def test_equals_monai(seed, spacing):
    predicted, truth = blobs(seed)
    found = surface_distances(predicted, truth, spacing)
    hd95 = compute_hausdorff_distance(as_monai(predicted), as_monai(truth), percentile=95, spacing=list(spacing))
    nsd = compute_surface_dice(as_monai(predicted), as_monai(truth), class_thresholds=[2.0], spacing=list(spacing))
    assert found.hd95 == pytest.approx(float(hd95[0, 0]), rel=1e-5)
    assert found.nsd(2.0) == pytest.approx(float(nsd[0, 0]), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 14), st.integers(3, 14))
def test_equals_a_distance_transform_of_the_whole_image(seed, height, width):
    generator = np.random.default_rng(seed)
    masks = [generator.random((height, width)) < 0.4 for _ in range(2)]
    if not (masks[0].any() and masks[1].any()):
        return
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
    forward = ndimage.distance_transform_edt(~borders[1], sampling=(2.0, 0.5))[borders[0]]
    backward = ndimage.distance_transform_edt(~borders[0], sampling=(2.0, 0.5))[borders[1]]
    found = surface_distances(*masks, (2.0, 0.5))
    np.testing.assert_allclose(found.forward, forward, atol=1e-12)
    np.testing.assert_allclose(found.backward, backward, atol=1e-12)
    swapped = surface_distances(masks[1], masks[0], (2.0, 0.5))
    assert swapped.hd95 == found.hd95
    assert swapped.nsd(1.0) == found.nsd(1.0)


def test_shifted_squares():
    one = np.zeros((20, 20), dtype=bool)
    one[4:10, 4:10] = True
    other = np.roll(one, 3, axis=1)
    found = surface_distances(one, other)
    assert found.hd95 == 3.0
    assert surface_distances(one, other, (1.0, 0.5)).hd95 == 1.5
    assert surface_distances(one, one).hd95 == 0.0
    assert surface_distances(one, one).nsd(0.0) == 1.0
    assert found.nsd(2.9) < found.nsd(3.0) == 1.0


def test_hd95_is_the_larger_direction():
    small, large = np.zeros((2, 40, 40), dtype=bool)
    small[20, 20] = True
    large[20, 20] = True
    large[5:9, 5:9] = True
    found = surface_distances(small, large)
    assert found.forward.max() == 0.0
    assert found.hd95 == pytest.approx(np.percentile(found.backward, 95))
    assert found.hd95 > 15
    assert surface_distances(large, small).hd95 == found.hd95


def test_the_image_edge_is_a_border():
    mask = np.ones((4, 4), dtype=bool)
    assert len(border_points(mask)) == 12
    assert border_points(np.zeros((4, 4), dtype=bool)).shape == (0, 2)
    corner = np.zeros((5, 7), dtype=bool)
    corner[4, 6] = True
    assert border_points(corner).tolist() == [[4.0, 6.0]]


def test_empty_and_unequal_masks_are_refused():
    with pytest.raises(ValueError, match="empty"):
        surface_distances(np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="shapes"):
        surface_distances(np.ones((3, 3), dtype=bool), np.ones((3, 4), dtype=bool))
