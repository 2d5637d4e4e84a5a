"""The global-local dense head: the pooled embedding modulates the maps at every scale and gates the mask."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics
from evalfm.heads.segmentation.multiscale import WIDTH, MultiscaleDecoder, decoder_settings
from evalfm.heads.trained import TrainedDenseHead


class GlobalLocalDecoder(HeadModule):
    """A multiscale decoder whose projected maps are scaled and shifted per channel by the pooled embedding.

    The modulation is FiLM (Perez et al. 2018): at every scale ``map · (1 + scale) + shift``, both linear in the
    standardised pooled embedding. A logit per mask channel, linear in it too, is added to every place of the mask, so
    that a film which as a whole looks healthy can be left empty. All three start at zero: the decoder starts as a
    multiscale one. The image is never seen.
    """

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

    def init_bias(self, answer: Tensor) -> None:
        """Set the last bias to ``answer`` [K]."""
        self.local.init_bias(answer)

    def _take_pooled(self, mean: Tensor, scale: Tensor) -> None:
        # Divided by √D, for else a step of Adam, which moves all D weights at once, would move the answer by D rates.
        for projection in (*self.films, self.gate):
            assert isinstance(projection, Projection)
            projection.standardise(mean, scale * len(scale) ** 0.5)


class GlobalLocalHead(TrainedDenseHead):
    """What a light decoder can read off all maps when it knows the image's pooled embedding."""

    name: ClassVar[str] = "global-local"
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
