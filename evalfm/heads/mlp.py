"""A small multilayer perceptron on the pooled features: what a plane cannot separate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.heads.module import HeadModule, Layout, Maps, Projection, Statistics, fan_in_deviation
from evalfm.heads.trained import Schedule, TrainedPooledHead

WIDTH = 256


class PerceptronModule(HeadModule):
    """Standardised pooled features → 256 → GELU → answer, the last layer from zero; no dropout."""

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = Projection(layout.pooled_dim, WIDTH, fan_in_deviation(layout.pooled_dim), generator)
        self.answer = nn.Parameter(torch.zeros(layout.outputs, WIDTH))
        self.bias = nn.Parameter(torch.zeros(layout.outputs))

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Pooled [B, D] to [B, K]."""
        return functional.linear(functional.gelu(self.hidden(pooled)), self.answer, self.bias)

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the pooled features."""
        self.hidden.standardise(statistics.pooled_mean, statistics.pooled_scale)

    def init_bias(self, answer: Tensor) -> None:
        """Set the bias to ``answer`` [K]."""
        self.bias.data.copy_(answer)


class PerceptronHead(TrainedPooledHead):
    """One hidden layer on the pooled features."""

    name: ClassVar[str] = "mlp"
    kinds: ClassVar[frozenset[str]] = frozenset({"binary", "multilabel", "multiclass", "ordinal", "regression"})
    rates: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3)
    default_schedule: ClassVar[Schedule] = Schedule(batch_size=64, statistics_images=4096)

    def new_module(self, layout: Layout, generator: torch.Generator) -> PerceptronModule:
        """A fresh perceptron."""
        return PerceptronModule(layout, generator)

    def settings(self) -> dict[str, object]:
        """Width of the hidden layer."""
        return {"width": WIDTH}
