"""Made-up images for tests of preparation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.data.images import Image
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer


def drawn(height: int, width: int, bits: int = 8, channels: int = 1, seed: int = 0) -> Image:
    """Smooth shapes, hard edges and noise, stored in ``bits``."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    shapes = 0.5 + 0.4 * np.sin(x / 17) * np.cos(y / 23)
    shapes[height // 4 : height // 3] = 1.0
    shapes[:, width // 3 : width // 2] *= 0.0
    stack = np.stack([np.clip(shapes + 0.1 * generator.random((height, width)), 0, 1) for _ in range(channels)])
    levels = 2**bits - 1
    return image((np.round(stack * levels) / levels).astype(np.float32), bits)


def image(pixels: NDArray[np.float32], bits: int = 8, unit: str = "unit-interval") -> Image:
    """Pixels [C, H, W] as an image."""
    return Image(pixels=pixels, unit=unit, bits=bits, spacing_mm=None, rule="test")


def model_tensor(preparer: Preparer, given: Image) -> tuple[Tensor, Geometry]:
    """The model's input [C, h, w] of one image, and its geometry."""
    prepared = preparer(given)
    return model_input(torch.from_numpy(prepared.pixels)[None], preparer.facts)[0], prepared.geometry


def ellipse(height: int, width: int) -> Tensor:
    """A mask [1, H, W] of 0 and 1, off the centre."""
    y, x = np.mgrid[0:height, 0:width]
    inside = ((y - 0.45 * height) / (0.3 * height)) ** 2 + ((x - 0.55 * width) / (0.2 * width)) ** 2 < 1
    return torch.from_numpy(inside[None].astype(np.float32))


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())
