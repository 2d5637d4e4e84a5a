"""What heads learn on: one contract for image encoders, tables of embeddings and floors alike."""

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
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def pooled_dim(self) -> int: ...
    @property
    def map_channels(self) -> tuple[int, ...]: ...
    @property
    def map_strides(self) -> tuple[int, ...]: ...
    @property
    def input_size(self) -> tuple[int, int]: ...

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] and, if asked, float32 maps of ``rows`` (positions in the manifest), in order."""
        ...

    def geometry(self, row: int) -> Geometry:
        """How the film of ``row`` lies in the encoder's input."""
        ...
