"""What heads learn on: one contract for image encoders, tables of embeddings and baselines alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Features


class FeatureSource(Protocol):
    """Features of the rows of one manifest, wherever they come from.

    A head asks only for these declarations, never which source it has. ``map_channels`` and ``map_strides``
    are empty where there are no maps; ``key`` changes whenever any feature could.
    """

    @property
    def name(self) -> str:
        """What tables call the source."""
        ...

    @property
    def key(self) -> str:
        """Changes whenever any feature could."""
        ...

    @property
    def pooled_dim(self) -> int:
        """D of the pooled features [N, D]."""
        ...

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map, shallow to deep; empty where there are no maps."""
        ...

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input that the maps cover."""
        ...

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] and, if asked, float32 maps of ``rows`` (of the manifest), in order."""
        ...

    def geometry(self, row: int) -> Geometry:
        """How the film of ``row`` lies in the encoder's input."""
        ...
