"""The linear dense head: one 1×1 convolution on the deepest map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.heads.segmentation.trained import Decoder, MapLayout, Maps, Projection, TrainedDenseHead, log_odds


class LinearDecoder(Decoder):
    """Standardised deepest map → 1×1 convolution → bilinear to the target grid."""

    def __init__(self, layout: MapLayout, generator: torch.Generator) -> None:
        super().__init__()
        self.grid = layout.grid
        self.project = Projection(layout.channels[-1], layout.outputs, 0.0, generator)

    def forward(self, maps: Maps) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]."""
        logits = self.project(maps[-1])
        return functional.interpolate(logits, self.grid, mode="bilinear", align_corners=False)

    def standardise(self, means: Sequence[Tensor], scales: Sequence[Tensor]) -> None:
        """Take the statistics of the deepest map."""
        self.project.mean.copy_(means[-1])
        self.project.scale.copy_(scales[-1])

    def start_at(self, fraction: Tensor) -> None:
        """Set the bias to the log odds of ``fraction`` [K]; the weights start at zero."""
        self.project.bias.data.copy_(log_odds(fraction))


class LinearDenseHead(TrainedDenseHead):
    """What of the lesion can be read off one place of the deepest map by a plane."""

    name: ClassVar[str] = "linear"
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    def decoder(self, layout: MapLayout, generator: torch.Generator) -> LinearDecoder:
        """A fresh decoder, its weights zero."""
        return LinearDecoder(layout, generator)
