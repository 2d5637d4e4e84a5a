"""The linear dense head: one 1×1 convolution on the deepest map."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics
from evalfm.heads.trained import TrainedDenseHead


class LinearDecoder(HeadModule):
    """Standardised deepest map → 1×1 convolution → bilinear to the target grid."""

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        assert layout.grid is not None
        self.grid = layout.grid
        self.project = Projection(layout.channels[-1], layout.outputs, 0.0, generator)

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]."""
        logits = self.project(maps[-1])
        return functional.interpolate(logits, self.grid, mode="bilinear", align_corners=False)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the deepest map."""
        self.project.standardise(statistics.map_means[-1], statistics.map_scales[-1])

    def init_bias(self, answer: Tensor) -> None:
        """Set the bias; the weights start at zero."""
        self.project.bias.data.copy_(answer)


class LinearDenseHead(TrainedDenseHead):
    """What of the lesion can be read off one place of the deepest map by a plane."""

    name: ClassVar[str] = "linear"
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    def new_module(self, layout: Layout, generator: torch.Generator) -> LinearDecoder:
        """A fresh decoder, its weights zero."""
        return LinearDecoder(layout, generator)
