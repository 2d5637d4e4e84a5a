"""What heads learn on: one contract for image encoders, tables of embeddings and baselines alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Encoder, Features


class FeatureSource(Protocol):
    """Features of the rows of one manifest, wherever they come from.

    A head asks only for these declarations, never which source it has. ``map_channels`` and ``map_strides``
    are empty where there are no maps; ``key`` changes whenever any feature could.
    """

    @property
    def name(self) -> str:
        """What tables call the source."""

    @property
    def key(self) -> str:
        """Changes whenever any feature could."""

    @property
    def pooled_dim(self) -> int:
        """D of the pooled features [N, D]."""

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map, shallow to deep; empty where there are no maps."""

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input that the maps cover."""

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] on the CPU and, if asked, maps of ``rows`` (of the manifest), in order.

        Maps are float16 where it holds them and float32 where it does not, on whatever device keeps them; who uses them
        brings them to its own device and to float32 there.
        """

    def geometry(self, row: int) -> Geometry:
        """How the image of ``row`` lies in the encoder's input."""


class DeclaredByEncoder:
    """The declarations of a source behind which an encoder of images stands.

    Attributes:
        encoder: whose features they are.
    """

    encoder: Encoder

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self.encoder.card.name

    @property
    def pooled_dim(self) -> int:
        """Dimension of the pooled embedding."""
        return self.encoder.pooled_dim

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map, shallow to deep."""
        return self.encoder.map_channels

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map."""
        return self.encoder.map_strides

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the encoder's input."""
        return self.encoder.input_size


def no_features(source: FeatureSource, *, maps: bool) -> Features:
    """Features of no image: pooled [0, D] and, if asked, maps [0, C, h, w]."""
    shapes = zip(source.map_channels, map_grids(source), strict=True) if maps else ()
    levels = tuple(torch.zeros(0, channels, *grid, dtype=torch.half) for channels, grid in shapes)
    return Features(torch.zeros(0, source.pooled_dim), levels)


def map_grids(source: FeatureSource) -> tuple[tuple[int, int], ...]:
    """Height and width of each map of ``source``, from its input size and strides."""
    height, width = source.input_size
    return tuple((-(-height // stride), -(-width // stride)) for stride in source.map_strides)
