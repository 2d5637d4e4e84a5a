"""Heads that a plane does not limit: a perceptron on the pooled features, attentive pooling of the deepest map."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics, fan_in_deviation
from evalfm.heads.trained import Schedule, TrainedPooledHead

PERCEPTRON_WIDTH = 256
QUERIES = 8
VALUE_WIDTH = 32


class PerceptronModule(HeadModule):
    """Standardised pooled features → 256 → GELU → answer, the last layer from zero; no dropout."""

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = Projection(layout.pooled_dim, PERCEPTRON_WIDTH, fan_in_deviation(layout.pooled_dim), generator)
        self.answer = nn.Parameter(torch.zeros(layout.outputs, PERCEPTRON_WIDTH))
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Pooled [B, D] to [B, K]."""
        return functional.linear(functional.gelu(self.hidden(pooled)), self.answer, self.bias)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the pooled features."""
        self.hidden.standardise(statistics.pooled_mean, statistics.pooled_scale)


class PerceptronHead(TrainedPooledHead):
    """One hidden layer on the pooled features."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "one hidden layer on standardised pooled features, rate and epoch chosen on val"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multilabel", "multiclass", "ordinal", "regression"})
    rates: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3)
    default_schedule: ClassVar[Schedule] = Schedule(batch_size=64, statistics_images=4096)

    def new_module(self, layout: Layout, generator: torch.Generator) -> PerceptronModule:
        """A fresh perceptron."""
        return PerceptronModule(layout, generator)

    def settings(self) -> dict[str, object]:
        """Width of the hidden layer."""
        return {"width": PERCEPTRON_WIDTH}


class AttentiveModule(HeadModule):
    """Standardised deepest map → eight queries attend over its cells → 32 values each → answer.

    The cross-attention of one learnt query with eight heads (Bardes et al., V-JEPA 2024) in its smallest form: a
    query's product with its key matrix is itself one learnt vector, and values are projected after the cells are
    mixed, which is the same and costs less. No perceptron after it, and no positions but those that the encoder has
    written into its tokens. The answer starts at zero.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        channels = layout.channels[-1]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.query = nn.Parameter(torch.randn(QUERIES, channels, generator=generator))
        deviation = fan_in_deviation(channels)
        self.value = nn.Parameter(torch.randn(QUERIES, VALUE_WIDTH, channels, generator=generator) * deviation)
        self.answer = nn.Parameter(torch.zeros(layout.outputs, QUERIES * VALUE_WIDTH))
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """The deepest map [B, C, h, w] to [B, K]; pooled features are not looked at."""
        tokens = (maps[-1].flatten(2).transpose(1, 2) - self.mean) / self.scale
        weight = torch.softmax(tokens @ self.query.T / tokens.shape[-1] ** 0.5, dim=1)
        mixed = weight.transpose(1, 2) @ tokens
        seen = torch.einsum("bqc,qwc->bqw", mixed, self.value).flatten(1)
        return functional.linear(seen, self.answer, self.bias)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the deepest map."""
        self.mean.copy_(statistics.map_means[-1])
        self.scale.copy_(statistics.map_scales[-1])


class AttentiveHead(TrainedPooledHead):
    """What can be read off the cells that matter, wherever they lie."""

    name: ClassVar[str] = "attentive"
    summary: ClassVar[str] = "a learnt query attends over the cells of the deepest map, rate and epoch chosen on val"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multilabel", "multiclass", "ordinal", "regression"})
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    rates: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3, 1e-2)
    default_schedule: ClassVar[Schedule] = Schedule(batch_size=32)

    def new_module(self, layout: Layout, generator: torch.Generator) -> AttentiveModule:
        """Fresh queries and values."""
        return AttentiveModule(layout, generator)

    def settings(self) -> dict[str, object]:
        """Number of queries and values of each."""
        return {"queries": QUERIES, "width": VALUE_WIDTH}
