"""Border distances against MONAI, distance transforms and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from evalfm.tasks.metrics.surfaces import border_points, surface_distances


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
