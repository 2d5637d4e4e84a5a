"""The U-Net and UPerNet dense heads: segmentation-models-pytorch's decoders on the maps of an encoder."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder as LibraryUPerNet
from torch import Tensor, nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Context
from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics, drawn_from, fan_in_deviation
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
            self.decoder = UnetDecoder((0, *layout.channels), widths, n_blocks=len(widths))
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


WIDTH = 64
GROUPS = 8
LEVELS = 4
FINEST_STRIDE = 4


class UPerNetDecoder(HeadModule):
    """Maps standardised and projected to 64 channels → a pyramid → pyramid pooling and feature pyramid → answer.

    UPerNet (Xiao et al. 2018) in the version of segmentation-models-pytorch. It wants maps of falling resolution.
    A hierarchical encoder's enter as they are, those finer than stride 4 left out. Of an encoder whose maps share a
    stride they are brought to 1, 1/2, 1/4 and 1/8 of the answer's grid, shallow to deep, bilinearly up or by area
    down; two maps on one level are summed. The library's batch norm is replaced by group norm: its pyramid pooling
    normalises a single cell, which batch norm cannot do for a single image, and nothing then depends on the batch.
    The image is never seen.
    """

    # ``vmap`` can run it, but takes half as long again as one copy after the other.
    stackable: ClassVar[bool] = False

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        assert layout.grid is not None
        self.grid = layout.grid
        self.levels = pyramid_levels(layout.strides)
        self.hierarchical = is_hierarchical(layout.strides)
        shared = [self.levels.count(level) for level in self.levels]
        self.projections = nn.ModuleDict(
            {
                str(index): Projection(layout.channels[index], WIDTH, fan_in_deviation(count * together), generator)
                for index, (count, together, level) in enumerate(zip(layout.channels, shared, self.levels, strict=True))
                if level is not None
            }
        )
        count = len({level for level in self.levels if level is not None})
        with drawn_from(generator):
            # The first two of the library's levels are strides 1 and 2, which it leaves out.
            self.decoder = LibraryUPerNet((0, 0, *[WIDTH] * count), decoder_channels=WIDTH)
            _group_norm(self.decoder)
            initialize_decoder(self.decoder)
        self.answer = nn.Parameter(torch.randn(layout.outputs, WIDTH, 1, 1, generator=generator) * 0.01)
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]; ``pooled`` is not looked at."""
        decoded = self.decoder([maps[0], maps[0], *self._pyramid(maps)])
        logits = functional.conv2d(decoded, self.answer, self.bias)
        return functional.interpolate(logits, self.grid, mode="bilinear", align_corners=False)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of every map."""
        for index, projection in self.projections.items():
            assert isinstance(projection, Projection)
            projection.standardise(statistics.map_means[int(index)], statistics.map_scales[int(index)])

    def _pyramid(self, maps: Maps) -> list[Tensor]:
        """One map [B, 64, h, w] per level, fine to coarse."""
        pyramid: dict[int, Tensor] = {}
        for index, projection in self.projections.items():
            level = self.levels[int(index)]
            assert level is not None
            projected = projection(maps[int(index)])
            if not self.hierarchical:
                projected = _rescaled(projected, _level_grid(self.grid, level))
            pyramid[level] = pyramid[level] + projected if level in pyramid else projected
        return [pyramid[level] for level in sorted(pyramid)]


class UPerNetHead(TrainedDenseHead):
    """What a full decoder can read off all maps together."""

    name: ClassVar[str] = "upernet"
    summary: ClassVar[str] = "UPerNet of segmentation-models-pytorch on all maps, with group norm"
    rates: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    def new_module(self, layout: Layout, generator: torch.Generator) -> UPerNetDecoder:
        """A fresh decoder."""
        return UPerNetDecoder(layout, generator)

    def settings(self) -> dict[str, object]:
        """Width of the decoder and its norm."""
        return {"width": WIDTH, "groups": GROUPS, "levels": LEVELS, "norm": "group"}


def is_hierarchical(strides: tuple[int, ...]) -> bool:
    """Whether resolution falls from map to map; a single map counts as such.

    >>> is_hierarchical((4, 8, 16)), is_hierarchical((14, 14))
    (True, False)
    """
    return len(set(strides)) == len(strides)


def pyramid_levels(strides: tuple[int, ...]) -> tuple[int | None, ...]:
    """The level of the pyramid that each map feeds, 0 the finest; None where it is left out.

    Hierarchical maps have a level each, those finer than stride 4 none (unless there is no other). Maps of one
    stride are spread over four levels, or as many as there are maps; of five the first two share the finest.

    >>> pyramid_levels((2, 4, 8, 16)), pyramid_levels((14, 14, 14, 14))
    ((None, 0, 1, 2), (0, 1, 2, 3))
    """
    if not is_hierarchical(strides):
        count = min(LEVELS, len(strides))
        return tuple(index * count // len(strides) for index in range(len(strides)))
    left_out = sum(stride < FINEST_STRIDE for stride in strides)
    if left_out == len(strides):
        left_out = 0
    return tuple(None if index < left_out else index - left_out for index in range(len(strides)))


def _level_grid(grid: tuple[int, int], level: int) -> tuple[int, int]:
    height, width = (math.ceil(side / 2**level) for side in grid)
    return height, width


def _rescaled(level: Tensor, grid: tuple[int, int]) -> Tensor:
    if grid[0] <= level.shape[2] and grid[1] <= level.shape[3]:
        return functional.adaptive_avg_pool2d(level, grid)
    return functional.interpolate(level, grid, mode="bilinear", align_corners=False)


def _group_norm(module: nn.Module) -> None:
    """Put a group norm in place of every batch norm within ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(GROUPS, child.num_features))
        else:
            _group_norm(child)
