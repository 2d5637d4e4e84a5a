"""The U-Net dense head: segmentation-models-pytorch's decoder on the maps of a hierarchical encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder as LibraryDecoder
from torch import Tensor, nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Context
from evalfm.heads.module import HeadModule, Layout, Maps, drawn_from
from evalfm.heads.trained import TrainedDenseHead

WIDTH_PER_STRIDE = 16
LARGEST_WIDTH = 256


class UNetDecoder(HeadModule):
    """From the deepest map up: nearest upsampling, the next finer map beside it, two 3×3 convolutions; then the answer.

    U-Net (Ronneberger et al. 2015) in the version of segmentation-models-pytorch: batch norm, and a block's width
    is 16 times the stride that it answers at, at most 256 (256, 128, 64, 32, 16 for strides 16 to 1). The last block
    answers at the input's own size without a map beside it: the image is never an input. Maps are taken as they are,
    as the supervised network does that this head completes.
    """

    stackable: ClassVar[bool] = False

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        assert layout.grid is not None
        self.grid = layout.grid
        answered = (1, *layout.strides[:-1])
        widths = [min(LARGEST_WIDTH, WIDTH_PER_STRIDE * stride) for stride in reversed(answered)]
        with drawn_from(generator):
            # The first of the library's levels is the image's own, of which it reads the size alone.
            self.decoder = LibraryDecoder((0, *layout.channels), widths, n_blocks=len(widths))
            initialize_decoder(self.decoder)
        self.answer = nn.Parameter(torch.randn(layout.outputs, widths[-1], 3, 3, generator=generator) * 0.01)
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]; ``pooled`` is not looked at."""
        size_alone = maps[0].new_empty(len(maps[0]), 0, *self.grid)
        decoded = self.decoder([size_alone, *maps])
        return functional.conv2d(decoded, self.answer, self.bias, padding=1)


class UNetHead(TrainedDenseHead):
    """The decoder of the usual supervised network, for encoders whose maps fall in resolution."""

    name: ClassVar[str] = "unet"
    summary: ClassVar[str] = (
        "the U-Net decoder of segmentation-models-pytorch, for encoders whose maps fall in resolution"
    )
    rates: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    def layout(self, source: FeatureSource, context: Context) -> Layout:
        """Masks at the input's own size.

        Raises:
            EvalfmError: the source has no maps, or maps whose resolution does not fall from each to the next.
        """
        layout = super().layout(source, context)
        if len(layout.strides) < 2 or list(layout.strides) != sorted(set(layout.strides)):
            strides = ", ".join(map(str, layout.strides))
            raise EvalfmError(
                f"The head 'unet' needs maps of falling resolution and those of {source.name} have strides {strides}; "
                "take the head upernet or multiscale."
            )
        return layout

    def answer_grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """The input's own size."""
        return input_size

    def new_module(self, layout: Layout, generator: torch.Generator) -> UNetDecoder:
        """A fresh decoder."""
        return UNetDecoder(layout, generator)

    def settings(self) -> dict[str, object]:
        """Widths of the decoder, its norm, and that maps are not standardised."""
        return {
            "width_per_stride": WIDTH_PER_STRIDE,
            "largest_width": LARGEST_WIDTH,
            "norm": "batch",
            "standardised": False,
        }
