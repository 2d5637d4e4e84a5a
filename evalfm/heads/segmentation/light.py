"""Light dense heads: one 1×1 convolution, a multiscale decoder, and one that the pooled embedding modulates."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics, fan_in_deviation
from evalfm.heads.trained import TrainedDenseHead


class LinearDecoder(HeadModule):
    """Standardised deepest map → 1×1 convolution → bilinear to the target grid."""

    last_bias: ClassVar[str] = "project.bias"

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


class LinearDenseHead(TrainedDenseHead):
    """What of the lesion can be read off one place of the deepest map by a plane."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "one 1×1 convolution on the deepest map"
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    def new_module(self, layout: Layout, generator: torch.Generator) -> LinearDecoder:
        """A fresh decoder, its weights zero."""
        return LinearDecoder(layout, generator)


WIDTH = 32
GROUPS = 8
SHARPENING = 2
"""The decoder's grid is coarser than the target's by this; it answers with as many sub-cells a side."""


class MultiscaleDecoder(HeadModule):
    """Each map standardised and projected to 32 channels → sum → GroupNorm, ReLU, 3×3 → sum → answer.

    Maps finer than the working grid enter with their cells stacked as channels (space to depth), so nothing
    is averaged away; coarser ones are projected first, then brought up bilinearly. The image is never seen.
    """

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        assert layout.grid is not None
        self.grid = layout.grid
        self.working = tuple(-(-side // SHARPENING) for side in layout.grid)
        finest = 4 * SHARPENING
        self.folds = tuple(max(1, round(finest / stride)) for stride in layout.strides)
        inputs = [channels * fold**2 for channels, fold in zip(layout.channels, self.folds, strict=True)]
        self.projections = nn.ModuleList(
            Projection(count, WIDTH, fan_in_deviation(count * len(inputs)), generator) for count in inputs
        )
        self.first_norm = nn.GroupNorm(GROUPS, WIDTH)
        deviation = fan_in_deviation(WIDTH * 9)
        self.mix = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, 3, generator=generator) * deviation)
        self.second_norm = nn.GroupNorm(GROUPS, WIDTH)
        self.answer = nn.Parameter(torch.randn(layout.outputs, SHARPENING**2, WIDTH, generator=generator) * 0.01)
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]."""
        return self.decode(self.project(maps))

    def project(self, maps: Maps) -> Maps:
        """Every map standardised and projected, [B, 32, h, w] each, on its own grid or the working one."""
        levels = zip(self.projections, self.folds, maps, strict=True)
        return tuple(projection(_fold(level, fold, self.working)) for projection, fold, level in levels)

    def decode(self, projected: Maps) -> Tensor:
        """What ``project`` gave to logits [B, K, *grid]."""
        merged = self._merge(projected)
        mixed = functional.conv2d(functional.relu(self.first_norm(merged)), self.mix, padding=1)
        mixed = functional.relu(self.second_norm(mixed + merged))
        logits = functional.conv2d(mixed, self.answer.flatten(0, 1)[:, :, None, None])
        logits = functional.pixel_shuffle(logits, SHARPENING) + self.bias[:, None, None]
        return _resize(logits, self.grid)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of every map."""
        levels = zip(self.projections, self.folds, statistics.map_means, statistics.map_scales, strict=True)
        for projection, fold, mean, scale in levels:
            assert isinstance(projection, Projection)
            projection.standardise(mean.repeat_interleave(fold**2), scale.repeat_interleave(fold**2))

    def _merge(self, projected: Maps) -> Tensor:
        """The sum of all projections on the working grid: from the coarsest up, each added to the next."""
        sums: dict[tuple[int, ...], Tensor] = {}
        for level in projected:
            place = tuple(level.shape[-2:])
            sums[place] = sums[place] + level if place in sums else level
        merged, *finer = (sums[place] for place in sorted(sums))
        for level in finer:
            merged = _resize(merged, tuple(level.shape[-2:])) + level
        return _resize(merged, self.working)


class MultiscaleHead(TrainedDenseHead):
    """What a light decoder can read off all maps together."""

    name: ClassVar[str] = "multiscale"
    summary: ClassVar[str] = "all maps projected, summed at a fine grid and read by a light convolutional decoder"
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    def new_module(self, layout: Layout, generator: torch.Generator) -> MultiscaleDecoder:
        """A fresh decoder."""
        return MultiscaleDecoder(layout, generator)

    def settings(self) -> dict[str, object]:
        """Width of the decoder."""
        return decoder_settings()


def decoder_settings() -> dict[str, object]:
    """Every setting of ``MultiscaleDecoder``."""
    return {"width": WIDTH, "groups": GROUPS, "sharpening": SHARPENING}


def _fold(level: Tensor, fold: int, working: tuple[int, ...]) -> Tensor:
    """Stack ``fold``² cells of a fine map as channels: [B, C, h, w] to [B, C·fold², *working]."""
    if fold == 1:
        return level
    return functional.pixel_unshuffle(_resize(level, tuple(side * fold for side in working)), fold)


def _resize(level: Tensor, grid: tuple[int, ...]) -> Tensor:
    if tuple(level.shape[-2:]) == grid:
        return level
    return functional.interpolate(level, grid, mode="bilinear", align_corners=False)


class GlobalLocalDecoder(HeadModule):
    """A multiscale decoder whose projected maps are scaled and shifted per channel by the pooled embedding.

    The modulation is FiLM (Perez et al. 2018): at every scale ``map · (1 + scale) + shift``, both linear in the
    standardised pooled embedding. A logit per mask channel, linear in it too, is added to every place of the mask, so
    that an image which as a whole looks healthy can be left empty. All three start at zero: the decoder starts as a
    multiscale one. The image is never seen.
    """

    last_bias: ClassVar[str] = "local.bias"

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        self.local = MultiscaleDecoder(layout, generator)
        count = layout.pooled_dim
        self.films = nn.ModuleList(Projection(count, 2 * WIDTH, 0.0, generator) for _ in layout.channels)
        self.gate = Projection(count, layout.outputs, 0.0, generator)
        self._take_pooled(torch.zeros(count), torch.ones(count))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Maps [B, C, h, w] each and pooled [B, D] to logits [B, K, *grid]."""
        levels = zip(self.films, self.local.project(maps), strict=True)
        modulated = tuple(_modulated(level, film(pooled)) for film, level in levels)
        evidence: Tensor = self.gate(pooled)
        return self.local.decode(modulated) + evidence[:, :, None, None]

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of every map and of the pooled features."""
        self.local.standardise(statistics)
        self._take_pooled(statistics.pooled_mean, statistics.pooled_scale)

    def _take_pooled(self, mean: Tensor, scale: Tensor) -> None:
        # Divided by √D, for else a step of Adam, which moves all D weights at once, would move the answer by D rates.
        for projection in (*self.films, self.gate):
            assert isinstance(projection, Projection)
            projection.standardise(mean, scale * len(scale) ** 0.5)


class GlobalLocalHead(TrainedDenseHead):
    """What a light decoder can read off all maps when it knows the image's pooled embedding."""

    name: ClassVar[str] = "global-local"
    summary: ClassVar[str] = "the multiscale decoder, its maps modulated and its mask gated by the pooled embedding"
    needs: ClassVar[frozenset[str]] = frozenset({"maps", "pooled"})
    rates: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    def new_module(self, layout: Layout, generator: torch.Generator) -> GlobalLocalDecoder:
        """A fresh decoder, its modulation the identity."""
        return GlobalLocalDecoder(layout, generator)

    def settings(self) -> dict[str, object]:
        """Those of the multiscale decoder, and the modulation."""
        return {**decoder_settings(), "modulation": "FiLM at every scale and a logit per mask"}


def _modulated(level: Tensor, film: Tensor) -> Tensor:
    """A map [B, 32, h, w] scaled and shifted by ``film`` [B, 64]."""
    scale, shift = film[:, :, None, None].chunk(2, dim=1)
    return level * (1 + scale) + shift
