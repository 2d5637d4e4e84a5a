"""The truth on the grid where dense heads are trained: read once, kept as bytes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.errors import EvalfmError
from evalfm.heads.head import Examples
from evalfm.progress import Progress

TARGET_STRIDE = 4
LARGEST_TARGET = 128


def target_grid(input_size: tuple[int, int]) -> tuple[int, int]:
    """A quarter of the encoder's input, at most 128 cells a side."""
    height, width = (min(LARGEST_TARGET, max(1, round(side / TARGET_STRIDE))) for side in input_size)
    return height, width


def read_targets(examples: Examples, grid: tuple[int, int], progress: Progress, label: str) -> Tensor:
    """Masks of all examples as area fractions of the cells of ``grid``: uint8 [N, K, h, w], 255 = full.

    What the encoder's input does not show (cropped away, padded) counts as empty here; scoring on the film's
    own grid still counts it.

    Raises:
        EvalfmError: the examples have no masks.
    """
    if examples.masks is None:
        raise EvalfmError("A segmentation head needs masks; add a mask column to the manifest.")
    targets = []
    for row in progress.track(examples.rows.tolist(), f"masks of {label}", len(examples)):
        targets.append(read_target(examples.masks(row), examples.source.geometry(row), grid))
    return torch.stack(targets)


def read_target(masks: NDArray[np.bool_], geometry: Geometry, grid: tuple[int, int]) -> Tensor:
    """One film's ``masks`` [K, H, W] as area fractions of the cells of ``grid``: uint8 [K, h, w], 255 = full."""
    if not masks.any():
        return torch.zeros(len(masks), *grid, dtype=torch.uint8)
    fraction = geometry.to_input(torch.from_numpy(masks).float(), grid)
    return (fraction * 255).round().to(torch.uint8)
