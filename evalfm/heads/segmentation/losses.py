"""What dense heads minimise, and the val score that chooses among them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SMOOTHING = 1.0
BINS = 512
LOGIT_RANGE = 12.0


def pixel_loss(logits: Tensor, target: Tensor, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice of each candidate, [L].

    ``logits`` is [L, B, K, h, w], ``target`` [B, K, h, w] area fractions. Dice is taken over the whole batch
    per channel, so films without a lesion neither divide by zero nor reward emptiness (Milletari et al. 2016;
    nnU-Net's batch Dice). ``total`` adds up over processes, so that the batch is that of all of them.
    """
    truth = target.expand_as(logits)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2, 3, 4))
    probability = torch.sigmoid(logits)
    overlap = total((probability * truth).sum((1, 3, 4)))
    both = total(probability.sum((1, 3, 4)) + target.sum((0, 2, 3)))
    dice = (2 * overlap + SMOOTHING) / (both + SMOOTHING)
    return cross_entropy + (1 - dice).mean(dim=1)


class PooledDice:
    """Dice of all pixels together at the best of many thresholds, per candidate and channel."""

    def __init__(self, candidates: int, channels: int) -> None:
        self._shape = (candidates, channels)
        self._pixels = torch.zeros(candidates * channels * BINS, dtype=torch.float64)
        self._truth = torch.zeros_like(self._pixels)

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: ``logits`` [L, B, K, h, w], ``target`` [B, K, h, w] area fractions."""
        candidates, channels = self._shape
        level = (logits.clamp(-LOGIT_RANGE, LOGIT_RANGE) + LOGIT_RANGE) * ((BINS - 1) / (2 * LOGIT_RANGE))
        level = torch.nan_to_num(level, nan=0.0).long()
        offset = torch.arange(candidates * channels).reshape(candidates, 1, channels, 1, 1) * BINS
        index = (level.cpu() + offset).flatten()
        weight = target.cpu().expand_as(logits).flatten().double()
        self._pixels += torch.bincount(index, minlength=len(self._pixels)).double()
        self._truth += torch.bincount(index, weights=weight, minlength=len(self._truth))

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several processes have counted."""
        self._pixels, self._truth = total(self._pixels), total(self._truth)

    def score(self) -> Tensor:
        """Mean over the channels that have a lesion of the best Dice, [L]; NaN where no channel has one."""
        pixels = self._pixels.reshape(*self._shape, BINS).flip(-1).cumsum(-1)
        truth = self._truth.reshape(*self._shape, BINS).flip(-1).cumsum(-1)
        lesion = truth[..., -1:]
        dice = (2 * truth / (pixels + lesion).clamp_min(1e-12)).amax(dim=-1)
        return torch.where(lesion[..., 0] > 0, dice, torch.nan).nanmean(dim=1)
