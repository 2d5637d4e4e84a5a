"""Scaling, augmentation, the image's own statistics and channels, batched; each image as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evalfm.encoders import find_card
from evalfm.encoders.card import Preprocessing
from evalfm.encoders.model_input import model_input

SCALES = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


def facts(**changes: Any) -> Preprocessing:
    plain = {"input_range": (0.0, 1.0), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return find_card("resnet50").preprocessing.model_copy(update=plain | changes)


def drawn(kind: Any, channels: int = 1) -> Any:
    values = np.random.default_rng(0).random((3, channels, 8, 8)) * [[[[0.2]]], [[[0.9]]], [[[0.5]]]]
    return (values * SCALES[kind]).astype(kind)


@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_type_says_the_scale(kind: Any, channels: int) -> None:
    pixels = drawn(kind, channels)
    statistics = {"input_range": (-2.0, 2.0), "mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)}
    found = model_input(torch.from_numpy(pixels), facts(**statistics))
    mean, std = (np.array(statistics[name])[:, None, None] for name in ("mean", "std"))
    expected = (np.broadcast_to(pixels / SCALES[kind], (3, 3, 8, 8)) * 4 - 2 - mean) / std
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert np.abs(found.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("scaling", ["min-max-input", "z-score-input"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_scaled_by_its_own_values(scaling: str, channels: int) -> None:
    pixels = torch.from_numpy(drawn(np.uint8, channels))
    own = facts(scaling=scaling)
    together = model_input(pixels, own)
    for number in range(3):
        assert torch.equal(together[number], model_input(pixels[number : number + 1], own)[0])
    if scaling == "min-max-input":
        assert together.amin((1, 2, 3)).tolist() == [0.0] * 3
        assert together.amax((1, 2, 3)).tolist() == [1.0] * 3
    else:
        assert together.mean((1, 2, 3)).abs().max() < 1e-6
        assert torch.allclose(together.std((1, 2, 3)), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("scaling", ["min-max-input", "z-score-input"])
def test_a_flat_image_is_no_division_by_zero(scaling: str) -> None:
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    assert model_input(flat, facts(scaling=scaling)).abs().max() == 0


def test_a_change_sees_the_image_unit_before_statistics() -> None:
    seen: list[Tensor] = []

    def mirrored(values: Tensor) -> Tensor:
        seen.append(values)
        return values.flip(3)

    pixels, own = torch.from_numpy(drawn(np.uint8)), facts(scaling="z-score-input", input_range=(-3.0, 5.0))
    assert torch.equal(model_input(pixels, own, mirrored), model_input(pixels.flip(3), own))
    assert seen[0].shape == (3, 1, 8, 8)
    assert float(seen[0].max()) <= 1


def test_raw_values_pass_unscaled() -> None:
    raw = torch.tensor([-1000.0, 3071.0]).reshape(1, 1, 1, 2)
    assert model_input(raw, facts(units=("HU",), input_range=None))[0, 0, 0].tolist() == [-1000.0, 3071.0]
