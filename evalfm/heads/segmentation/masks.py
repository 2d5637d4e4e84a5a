"""Masks as dense heads learn them: targets on the training grid, the loss, and the val score."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evalfm.data.geometry import Geometry
from evalfm.errors import EvalfmError
from evalfm.heads.head import Examples
from evalfm.progress import Progress

TARGET_STRIDE = 4
LARGEST_TARGET = 128


def target_grid(input_size: tuple[int, int]) -> tuple[int, int]:
    """A quarter of the encoder's input, at most 128 cells a side.

    >>> target_grid((224, 1024))
    (56, 128)
    """
    height, width = (min(LARGEST_TARGET, max(1, round(side / TARGET_STRIDE))) for side in input_size)
    return height, width


def read_targets(examples: Examples, grid: tuple[int, int], progress: Progress, label: str) -> Tensor:
    """Masks of all examples as area fractions of the cells of ``grid``: uint8 [N, K, h, w], 255 = full.

    What the encoder's input does not show (cropped away, padded) counts as empty here; scoring on the image's
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
    """The ``masks`` [K, H, W] of one image as area fractions of the cells of ``grid``: uint8 [K, h, w], 255 = full."""
    if not masks.any():
        return torch.zeros(len(masks), *grid, dtype=torch.uint8)
    fraction = geometry.to_input(torch.from_numpy(masks).float(), grid)
    return (fraction * 255).round().to(torch.uint8)


SMOOTHING = 1.0
BINS = 512
LOGIT_RANGE = 12.0
WEIGHTS = 255 * 256
"""Steps in which an area fraction is counted; those of bytes are met exactly."""


def pixel_loss(logits: Tensor, target: Tensor, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice of each candidate, [L].

    ``logits`` is [L, B, K, h, w], ``target`` [B, K, h, w] area fractions. Dice is taken over the whole batch
    per channel, so images without a lesion neither divide by zero nor reward emptiness (Milletari et al. 2016;
    nnU-Net's batch Dice). ``total`` adds up over processes, so that the batch is that of all of them.

    >>> target = torch.tensor([[[[1.0, 0.0]]]])
    >>> [round(each, 3) for each in pixel_loss(torch.tensor([[[[[8.0, -8.0]]]], [[[[0.0, 0.0]]]]]), target).tolist()]
    [0.001, 1.026]
    """
    truth = target.expand_as(logits)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2, 3, 4))
    probability = torch.sigmoid(logits)
    overlap = total((probability * truth).sum((1, 3, 4)))
    both = total(probability.sum((1, 3, 4)) + target.sum((0, 2, 3)))
    dice = (2 * overlap + SMOOTHING) / (both + SMOOTHING)
    return cross_entropy + (1 - dice).mean(dim=1)


class PooledDice:
    """Dice of all pixels together at the best of many thresholds, per candidate and channel.

    >>> dice = PooledDice(candidates=1, channels=1)
    >>> dice.add(torch.tensor([[[[[4.0, -4.0, -4.0]]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]]))
    >>> dice.score().tolist()
    [1.0]
    """

    def __init__(self, candidates: int, channels: int) -> None:
        self._shape = (candidates, channels)
        self._pixels: Tensor | None = None
        self._truth: Tensor | None = None

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch on its device: ``logits`` [L, B, K, h, w], ``target`` [B, K, h, w] area fractions.

        Counts are whole numbers, so that their order does not matter, and nothing waits for the device.
        """
        candidates, channels = self._shape
        if self._pixels is None or self._truth is None:
            self._pixels = torch.zeros(candidates * channels * BINS, dtype=torch.int64, device=logits.device)
            self._truth = torch.zeros_like(self._pixels)
        level = (logits.clamp(-LOGIT_RANGE, LOGIT_RANGE) + LOGIT_RANGE) * ((BINS - 1) / (2 * LOGIT_RANGE))
        offset = torch.arange(candidates * channels, device=logits.device).reshape(candidates, 1, channels, 1, 1) * BINS
        index = (torch.nan_to_num(level, nan=0.0).long() + offset).flatten()
        weight = (target * WEIGHTS).round().long().expand_as(logits).flatten()
        self._pixels.index_add_(0, index, torch.ones_like(index))
        self._truth.index_add_(0, index, weight)

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several processes have counted."""
        pixels, truth = self._counts()
        self._pixels, self._truth = total(pixels), total(truth)

    def score(self) -> Tensor:
        """Mean over the channels that have a lesion of the best Dice, [L]; NaN where no channel has one."""
        pixels, truth = (each.reshape(*self._shape, BINS).flip(-1).cumsum(-1) for each in self._counts())
        truth = truth / WEIGHTS
        lesion = truth[..., -1:]
        dice = (2 * truth / (pixels + lesion).clamp_min(1e-12)).amax(dim=-1)
        return torch.where(lesion[..., 0] > 0, dice, torch.nan).nanmean(dim=1)

    def _counts(self) -> tuple[Tensor, Tensor]:
        """Pixels and their weight in truth per bin, float64 on the CPU."""
        nothing = torch.zeros(math.prod(self._shape) * BINS, dtype=torch.float64)
        if self._pixels is None or self._truth is None:
            return nothing, nothing
        return self._pixels.cpu().double(), self._truth.cpu().double()
