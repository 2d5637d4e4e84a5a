"""Features that nobody trained: cosine frequencies of the pixels, and histograms of oriented gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, RawFeatures, Settings
from evalfm.encoders.weights import Checkpoint
from evalfm.errors import UnknownNameError


class Pixels(Encoder):
    """The film at 32 × 32, as the 16 × 16 lowest coefficients of its orthonormal cosine transform (DCT-II).

    A fixed transform instead of principal components, so that nothing is fitted. The map's channels are the
    4 × 4 means of each cell of 16 pixels.
    """

    SIDE, KEPT, CELL = 32, 16, 16

    def __init__(self, card: EncoderCard, settings: Settings | None = None) -> None:
        super().__init__(card, settings)
        self.cosines: Tensor
        self.register_buffer("cosines", cosine_matrix(self.SIDE)[: self.KEPT], persistent=False)

    def _forward(self, batch: Tensor) -> RawFeatures:
        small = functional.adaptive_avg_pool2d(batch, self.SIDE)[:, 0]
        low = self.cosines @ small @ self.cosines.T
        fine = functional.avg_pool2d(batch, self.CELL // 4)
        return RawFeatures(layers=(functional.pixel_unshuffle(fine, 4),), pooled={"dct": low.flatten(1)})


class Hog(Encoder):
    """Histograms of oriented gradients (Dalal and Triggs 2005): nine orientations in cells of 8 × 8 pixels.

    Each gradient's magnitude is shared linearly between the two nearest orientations. Blocks of 2 × 2 cells
    are normalised (L2, cut at .2, L2); a cell's nine map channels are its means over the blocks that hold
    it, the tenth is log(1 + its gradient energy). Pooled: the nine channels averaged on an 8 × 8 grid.
    """

    ORIENTATIONS, CELL, GRID, CUT, EPSILON = 9, 8, 8, 0.2, 1e-3

    def _forward(self, batch: Tensor) -> RawFeatures:
        # One image at a time stays in the processor's cache: four times as fast as the whole batch.
        cells = torch.cat([self._histograms(image) for image in batch])
        normalised = self._normalise(cells)
        energy = torch.log1p(cells.sum(1, keepdim=True))
        pooled = functional.adaptive_avg_pool2d(normalised, self.GRID).flatten(1)
        return RawFeatures(layers=(torch.cat([normalised, energy], dim=1),), pooled={"grid": pooled})

    def _histograms(self, grey: Tensor) -> Tensor:
        """Mean gradient magnitude per orientation and cell of images [B, h, w]: [B, 9, h / 8, w / 8]."""
        padded = functional.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
        # Zero where the film is blank, and differentiable there.
        magnitude = torch.sqrt(across.square() + down.square() + 1e-12) - 1e-6
        position = torch.atan2(down, across) * (self.ORIENTATIONS / math.pi)
        lower = torch.floor(position)
        upper_share = magnitude * (position - lower)
        shares = torch.stack([magnitude - upper_share, upper_share], dim=1)
        lower = lower.remainder(self.ORIENTATIONS)[:, None]
        votes = [functional.avg_pool2d(shares * (lower == each), self.CELL) for each in range(self.ORIENTATIONS)]
        own, next_ones = torch.stack(votes, dim=2).unbind(1)
        # What a gradient gives to its upper orientation was gathered under its lower one.
        return own + next_ones.roll(1, dims=1)

    def _normalise(self, cells: Tensor) -> Tensor:
        """Each cell's histogram, averaged over the blocks of 2 × 2 cells in which it is normalised."""
        height, width = cells.shape[2:]
        total = torch.zeros_like(cells)
        count = cells.new_zeros(1, 1, height, width)
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
        blocks = [cells[:, :, y : height - 1 + y, x : width - 1 + x] for y, x in corners]
        norm = torch.sqrt(sum((block.square().sum(1, keepdim=True) for block in blocks), torch.tensor(self.EPSILON**2)))
        cut = [(block / norm).clamp(max=self.CUT) for block in blocks]
        norm = torch.sqrt(sum((block.square().sum(1, keepdim=True) for block in cut), torch.tensor(self.EPSILON**2)))
        for (y, x), block in zip(corners, cut, strict=True):
            total[:, :, y : height - 1 + y, x : width - 1 + x] += block / norm
            count[:, :, y : height - 1 + y, x : width - 1 + x] += 1
        return total / count


def cosine_matrix(side: int) -> Tensor:
    """Orthonormal DCT-II as a matrix [side, side]: row k holds the k-th cosine."""
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    position = torch.arange(side, dtype=torch.float64)[None, :] + 0.5
    matrix = torch.cos(math.pi * frequency * position / side) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


KINDS: dict[str, type[Encoder]] = {"pixels": Pixels, "hog": Hog}


def build(card: EncoderCard, settings: Settings, checkpoint: Checkpoint | None) -> Encoder:
    """The encoder without weights that the card's architecture names; there is no checkpoint to read."""
    if card.architecture not in KINDS:
        raise UnknownNameError("encoder without weights", card.architecture, KINDS)
    return KINDS[card.architecture](card, settings)
