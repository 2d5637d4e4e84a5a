"""Resampling against PIL and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Pil
from torch.nn import functional

from evalfm.encoders.sampling import FILTERS, in_unit, resample

SIZES = [(40, 31), (97, 150), (61, 20), (200, 57)]


def drawn(height: int = 97, width: int = 57, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(1).random((channels, height, width))
    values[:, height // 3 : height // 2] = 1
    values[:, :, width // 3 : width // 2] = 0
    return np.rint(values * 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filter_", FILTERS)
def test_bytes_are_pils_own_to_its_rounding(filter_: str, size: tuple[int, int]) -> None:
    pixels = drawn(channels=3)
    # In two steps, since releases of PIL differ in which axis they begin with.
    across = Pil.fromarray(np.moveaxis(pixels, 0, 2)).resize((size[1], pixels.shape[1]), FILTERS[filter_])
    colour = across.resize(size[::-1], FILTERS[filter_])
    found = resample(pixels, size, filter_, True, cut=True)
    assert found.dtype == np.float32
    assert np.abs(found * 255 - np.moveaxis(np.asarray(colour), 2, 0)).max() < 2.5
    assert np.array_equal(found, resample(in_unit(pixels), size, filter_, True, cut=True))
    assert resample(pixels, pixels.shape[1:], filter_, True, cut=True) is pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_float_is_torchs(filter_: str, size: tuple[int, int], antialias: bool) -> None:
    pixels = drawn().astype(np.float32) / 255
    expected = functional.interpolate(
        torch.from_numpy(pixels)[None], size=size, mode=filter_, antialias=antialias, align_corners=False
    )[0]
    found = resample(pixels, size, filter_, antialias, cut=False)
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 2e-5
    cut = resample(pixels, size, filter_, antialias, cut=True)
    assert (cut.min() >= 0, cut.max() <= 1) == (True, True)
    if filter_ == "bicubic":
        assert found.max() > 1.01


def test_overshoot_is_cut_between_the_axes() -> None:
    pixels = drawn().astype(np.float32) / 255
    across = np.clip(resample(pixels, (97, 30), "bicubic", True, cut=False), 0, 1)
    expected = np.clip(resample(across, (40, 30), "bicubic", True, cut=False), 0, 1)
    assert np.array_equal(resample(pixels, (40, 30), "bicubic", True, cut=True), expected)
    once = np.clip(resample(pixels, (40, 30), "bicubic", True, cut=False), 0, 1)
    assert np.abs(once - expected).max() > 0.01


@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_torchs_exact_one(size: tuple[int, int]) -> None:
    pixels = drawn()
    expected = functional.interpolate(torch.from_numpy(pixels).float()[None], size=size, mode="nearest-exact")[0]
    assert np.array_equal(resample(pixels, size, "nearest", False, cut=True), expected.numpy())


def test_bytes_without_antialiasing_keep_what_lies_between_their_levels() -> None:
    pixels = drawn()
    found = resample(pixels, (40, 31), "bilinear", False, cut=True)
    expected = functional.interpolate(torch.from_numpy(pixels)[None].float(), size=(40, 31), mode="bilinear")[0] / 255
    assert np.abs(found - expected.numpy()).max() < 1e-5
