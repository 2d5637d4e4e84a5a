"""Every card's preprocessing against PIL's float resize and numpy, from the table of published facts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pil

from evalfm.data.images import Image
from evalfm.encoders import find_card
from evalfm.encoders.preprocessing import Preparer

from .expected import EXPECTED, Expected
from .images import drawn, ellipse, image, model_tensor, overlap

FILTERS = {name: Pil.Resampling[name.upper()] for name in ("bicubic", "bilinear", "lanczos")}
FIXED = [name for name, facts in EXPECTED.items() if facts.scaling == "range"]


def resized(plane: NDArray[np.float32], height: int, width: int, facts: Expected) -> NDArray[np.float32]:
    """PIL's mode F resizes in float; its 8-bit modes also cut at black and white, after each axis."""
    if not facts.antialias:
        return between(between(plane.T, width, facts).T, height, facts)
    resample = FILTERS[facts.interpolation]
    if not facts.cut_overshoot:
        return np.asarray(Pil.fromarray(plane).resize((width, height), resample))
    across = np.clip(np.asarray(Pil.fromarray(plane).resize((width, plane.shape[0]), resample)), 0, 1)
    return np.clip(np.asarray(Pil.fromarray(across).resize((width, height), resample)), 0, 1)


def between(plane: NDArray[np.float32], length: int, facts: Expected) -> NDArray[np.float32]:
    """Rows of [H, W] resampled to ``length`` without antialiasing: linearly between the two nearest centres."""
    assert facts.interpolation == "bilinear"
    place = np.clip((np.arange(length) + 0.5) * len(plane) / length - 0.5, 0, len(plane) - 1)
    low = np.floor(place).astype(int)
    share = (place - low)[:, None]
    mixed = (1 - share) * plane[low] + share * plane[np.minimum(low + 1, len(plane) - 1)]
    return mixed.astype(np.float32)


def laid_out(plane: NDArray[np.float32], facts: Expected) -> NDArray[np.float32]:
    """The plane on the model's input grid."""
    height, width = plane.shape
    size = facts.size
    if facts.resize == "squash":
        return resized(plane, size, size, facts)
    if facts.resize == "crop":
        short = facts.resize_to
        assert short is not None
        target = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        over = (target[0] - size, target[1] - size)
        top, left = (round(each / 2) if facts.crop == "even" else each // 2 for each in over)
        return resized(plane, *target, facts)[top : top + size, left : left + size]
    side = facts.resize_to or size
    ratio, half = float(side) / max(height, width), 0 if facts.first else 0.5
    target = (int(height * ratio + half), int(width * ratio + half))
    canvas = np.zeros((side, side), dtype=np.float32)
    top, left = ((side - target[0]) // 2, (side - target[1]) // 2) if facts.pad == "centre" else (0, 0)
    canvas[top : top + target[0], left : left + target[1]] = resized(
        plane, *target, replace(facts, interpolation=facts.first or facts.interpolation, cut_overshoot=True)
    )
    return canvas if side == size else resized(canvas, size, size, facts)


def equalised(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """OpenCV's equalizeHist of the luma in 8 bits: of the pixels above the darkest level, the share up to each."""
    grey = pixels[0] if len(pixels) == 1 else np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), pixels, 1)
    levels = np.round(grey * 255).astype(int)
    darkest = int(levels.min())
    above = levels.size - int((levels == darkest).sum())
    upto = {level: int(((levels > darkest) & (levels <= level)).sum()) for level in np.unique(levels)}
    table = {level: round(255 * count / above) for level, count in upto.items()}
    return np.vectorize(table.get)(levels).astype(np.float32)[None] / np.float32(255)


def by_hand(name: str, given: Image) -> NDArray[np.float64]:
    facts = EXPECTED[name]
    pixels = np.asarray(given.pixels)
    if facts.scaling == "min-max-image":
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    if facts.scaling == "equalize-image":
        pixels = equalised(pixels)
    planes = np.stack([laid_out(plane, facts).astype(np.float64) for plane in pixels])
    if facts.scaling == "min-max-input":
        planes = (planes - planes.min()) / (planes.max() - planes.min())
    if facts.scaling == "z-score-input":
        planes = (planes - planes.mean()) / planes.std(ddof=1)
    mean, std = facts.statistics
    low, high = facts.value_range
    if len(mean) == 3 and len(planes) == 1:
        planes = np.repeat(planes, 3, axis=0)
    return np.stack([(plane * (high - low) + low - m) / s for plane, m, s in zip(planes, mean, std, strict=True)])


def unit_of(facts: Expected) -> float:
    """How far the image's whole range reaches in the input, at most."""
    low, high = facts.value_range
    spread = (high - low) / min(facts.statistics[1])
    return spread if facts.scaling == "range" else 8 * spread


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(("height", "width", "bits"), [(300, 231, 8), (190, 640, 12), (600, 600, 16), (64, 50, 16)])
def test_every_card_prepares_as_pil_does_in_float(name: str, height: int, width: int, bits: int) -> None:
    given = drawn(height, width, bits)
    tensor, geometry = model_tensor(Preparer(find_card(name).preprocessing, name), given)
    expected = by_hand(name, given)
    assert tensor.dtype == torch.float32
    assert tensor.shape == expected.shape
    # Places up to 640 are known to 4e-5 of a pixel in single precision, and the image has hard edges.
    assert np.abs(tensor.numpy() - expected).max() < 5e-5 * unit_of(EXPECTED[name])
    assert geometry.source == (height, width)
    assert geometry.output == tuple(tensor.shape[1:])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_radiograph_that_leaves_most_of_its_range_unused(name: str) -> None:
    """Scaling by the image's own values shows only where these do not reach from black to white."""
    given = image(np.asarray(drawn(300, 231, 16).pixels) * np.float32(0.25) + np.float32(0.4), 16)
    tensor, _ = model_tensor(Preparer(find_card(name).preprocessing, name), given)
    assert np.abs(tensor.numpy() - by_hand(name, given)).max() < 1e-4 * unit_of(EXPECTED[name])


COLOUR = [name for name, facts in EXPECTED.items() if facts.channels == 3 and facts.scaling != "equalize-image"]


@pytest.mark.parametrize("name", COLOUR)
def test_colour_stays_colour(name: str) -> None:
    given = drawn(120, 97, channels=3)
    tensor, _ = model_tensor(Preparer(find_card(name).preprocessing, name), given)
    unit = unit_of(EXPECTED[name])
    assert np.abs(tensor.numpy() - by_hand(name, given)).max() < 1e-4 * unit
    assert float((tensor[0] - tensor[1]).abs().max()) > 0.01 * unit


@pytest.mark.parametrize("name", FIXED)
def test_two_neighbouring_levels_of_16_bits_stay_apart(name: str) -> None:
    preparer = Preparer(find_card(name).preprocessing, name)
    low, high = EXPECTED[name].value_range
    dark, bright = (np.full((1, 300, 300), level / 65535, dtype=np.float32) for level in (30000, 30001))
    step = model_tensor(preparer, image(bright, 16))[0] - model_tensor(preparer, image(dark, 16))[0]
    expected = (high - low) / 65535 / np.array(EXPECTED[name].statistics[1])
    middle = step[:, step.shape[1] // 2, step.shape[2] // 2]
    assert np.abs(middle.numpy() / expected - 1).max() < 0.2


@pytest.mark.parametrize(
    "name", [name for name in FIXED if EXPECTED[name].interpolation == "bicubic" and EXPECTED[name].cut_overshoot]
)
def test_bicubic_overshoot_is_cut_as_the_8_bit_libraries_do(name: str) -> None:
    facts = EXPECTED[name]
    given = drawn(200, 200)
    tensor, _ = model_tensor(Preparer(find_card(name).preprocessing, name), given)
    mean, std = (torch.tensor(each)[:, None, None] for each in facts.statistics)
    low, high = facts.value_range
    restored = (tensor * std + mean - low) / (high - low)
    assert float(restored.min()) >= -1e-6
    assert float(restored.max()) <= 1 + 1e-6


@pytest.mark.parametrize("name", FIXED)
def test_pixels_and_geometry_put_a_mask_in_the_same_place(name: str) -> None:
    facts = EXPECTED[name]
    mask = ellipse(321, 260)
    tensor, geometry = model_tensor(Preparer(find_card(name).preprocessing, name), image(mask.numpy()))
    low, high = facts.value_range
    seen = (tensor[:1] * facts.statistics[1][0] + facts.statistics[0][0] - low) / (high - low) > 0.5
    assert overlap(seen, geometry.to_input(mask) > 0.5) >= 0.98
    assert seen.shape == (1, facts.size, facts.size)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(("height", "width"), [(700, 700), (640, 512)])
def test_a_mask_comes_back_wherever_nothing_was_cropped_away(name: str, height: int, width: int) -> None:
    geometry = Preparer(find_card(name).preprocessing, name).geometry_of(height, width)
    mask = ellipse(height, width)
    seen = geometry.visible()[None]
    back = geometry.to_source(geometry.to_input(mask)) > 0.5
    # A grid of 64 cells cannot hold a border to better than half a cell.
    least = 0.98 if EXPECTED[name].size >= 224 else 0.95
    assert overlap(back & seen, (mask > 0.5) & seen) >= least
