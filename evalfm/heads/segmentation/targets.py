"""The truth on the grid where dense heads are trained: read once, kept as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

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
        mask = torch.from_numpy(examples.masks(row))
        if bool(mask.any()):
            fraction = examples.source.geometry(row).to_input(mask.float(), grid)
            targets.append((fraction * 255).round().to(torch.uint8))
        else:
            targets.append(torch.zeros(len(mask), *grid, dtype=torch.uint8))
    return torch.stack(targets)
