"""Encoders without published weights: cosine frequencies, histograms of oriented gradients, a small network."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.weights import Checkpoint
from evalfm.errors import EvalfmError, UnknownNameError

WIDTHS = (32, 64, 128, 256)
SMALLEST = 28


class Pixels(Encoder):
    """The image at 32 × 32, as the 16 × 16 lowest coefficients of its orthonormal cosine transform (DCT-II).

    A fixed transform instead of principal components, so that nothing is fitted. The map's channels are the
    4 × 4 means of each cell of 16 pixels.
    """

    SIDE, KEPT, CELL = 32, 16, 16

    def __init__(self, card: EncoderCard, state: EncoderState | None = None) -> None:
        super().__init__(card, state)
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
        # Zero where the image is blank, and differentiable there.
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


class LightCNN(Encoder):
    """Four blocks of a 3×3 convolution, batch norm and ReLU, with 2×2 maximum pooling after the first three.

    Blocks of 32, 64, 128 and 256 channels; layers 0 and 1 are the first two after pooling (strides 2 and 4), 2 the
    third after pooling and 3 the last (both stride 8). Odd sides are pooled with a last half-filled cell, so that
    every map covers the image.

    Raises:
        EvalfmError: the input is smaller than 28 pixels.
    """

    def __init__(self, card: EncoderCard, state: EncoderState | None = None) -> None:
        super().__init__(card, state)
        if min(self.input_size) < SMALLEST:
            raise EvalfmError(f"{card.name} takes images of {SMALLEST} pixels or more; raise --input-size.")
        widths = (self.preparer.facts.channels, *WIDTHS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True) if outputs != WIDTHS[-1] else nn.Identity(),
            )
            for inputs, outputs in pairwise(widths)
        )

    def _forward(self, batch: Tensor) -> RawFeatures:
        layers = []
        for block in self.blocks:
            batch = block(batch)
            layers.append(batch)
        return RawFeatures(layers=tuple(layers[index] for index in self.card.map_layers), final=batch)


def cosine_matrix(side: int) -> Tensor:
    """Orthonormal DCT-II as a matrix [side, side]: row k holds the k-th cosine.

    >>> matrix = cosine_matrix(4)
    >>> bool(torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-6))
    True
    """
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    position = torch.arange(side, dtype=torch.float64)[None, :] + 0.5
    matrix = torch.cos(math.pi * frequency * position / side) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


KINDS: dict[str, type[Encoder]] = {"pixels": Pixels, "hog": Hog, "light-cnn": LightCNN}


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The encoder without weights that the card's architecture names; there is no checkpoint to read."""
    if card.architecture not in KINDS:
        raise UnknownNameError("encoder without weights", card.architecture, KINDS)
    return KINDS[card.architecture](card, state)
