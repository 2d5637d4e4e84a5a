"""The module of every trained head: features of a batch in, the head's answer before its link out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource

Maps = tuple[Tensor, ...]


@dataclass(frozen=True)
class Layout:
    """The features that a module reads and the shape in which it answers.

    Attributes:
        pooled_dim: D of the pooled features.
        channels: of each map, shallow to deep. strides: input pixels per cell of each map.
        outputs: columns or mask channels K.
        grid: height and width of an answer in masks; None where the answer is one vector an image.
    """

    pooled_dim: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    outputs: int
    grid: tuple[int, int] | None = None

    @classmethod
    def of(cls, source: FeatureSource, outputs: int, grid: tuple[int, int] | None = None, maps: bool = False) -> Layout:
        """Read it off a source; with ``maps`` it must have maps.

        Raises:
            EvalfmError: maps are needed and the source has none.
        """
        if maps and not source.map_channels:
            remedy = "take an encoder with maps (`evalfm ls encoders`) or a task that needs none"
            if grid is None:
                raise EvalfmError(f"{source.name} has no feature maps, which this head reads; {remedy}.")
            raise EvalfmError(f"{source.name} has no feature maps, so it cannot be segmented from; {remedy}.")
        return cls(source.pooled_dim, tuple(source.map_channels), tuple(source.map_strides), outputs, grid)

    def tensors(self) -> dict[str, Tensor]:
        """The layout as integer tensors named ``layout.*``, for head.safetensors."""
        values = {
            "pooled_dim": self.pooled_dim,
            "channels": list(self.channels),
            "strides": list(self.strides),
            "outputs": self.outputs,
            "grid": list(self.grid or ()),
        }
        return {f"layout.{name}": torch.tensor(value, dtype=torch.int64) for name, value in values.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Layout:
        """What ``tensors`` gave, back."""
        grid = tensors["layout.grid"].tolist()
        return cls(
            int(tensors["layout.pooled_dim"].item()),
            tuple(tensors["layout.channels"].tolist()),
            tuple(tensors["layout.strides"].tolist()),
            int(tensors["layout.outputs"].item()),
            (grid[0], grid[1]) if grid else None,
        )


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over train of the pooled features [D] and of each map's channels [C]."""

    pooled_mean: Tensor
    pooled_scale: Tensor
    map_means: tuple[Tensor, ...] = ()
    map_scales: tuple[Tensor, ...] = ()


class HeadModule(nn.Module):
    """Features to the answer before its link: logits, or standardised values.

    Attributes:
        stackable: True where many copies can run as one under ``vmap``: no state changes in a forward pass
            (batch norm) and nothing is drawn (dropout).
        last_bias: name of the parameter [K] that is added to the answer last.
    """

    stackable: ClassVar[bool] = True
    last_bias: ClassVar[str] = "bias"

    @abstractmethod
    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Maps [B, C, h, w] each and pooled [B, D] to [B, K], or to [B, K, *grid] for masks."""

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of train; a module that normalises its input itself ignores them."""

    def init_bias(self, answer: Tensor) -> None:
        """Set the last bias so that the first answer is about ``answer`` [K]."""
        self.get_parameter(self.last_bias).data.copy_(answer)


class Projection(nn.Module):
    """A 1×1 convolution of a standardised map; mean and deviation are folded into the kernel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, outputs: int, deviation: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, generator=generator) * deviation)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] to [B, outputs, h, w]; pooled [B, C] to [B, outputs]."""
        weight = self.weight / self.scale
        bias = self.bias - weight @ self.mean
        if features.ndim == 2:
            return functional.linear(features, weight, bias)
        return functional.conv2d(features, weight[:, :, None, None], bias)

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take mean and standard deviation [C] of the channels over train."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)


class AffineModule(HeadModule):
    """One affine map of the standardised pooled features."""

    last_bias: ClassVar[str] = "project.bias"

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        super().__init__()
        self.project = Projection(layout.pooled_dim, layout.outputs, 0.0, generator)

    def forward(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Pooled [B, D] to [B, K]; maps are not looked at."""
        answer: Tensor = self.project(pooled)
        return answer

    def standardise(self, statistics: Statistics) -> None:
        """Take the statistics of the pooled features."""
        self.project.standardise(statistics.pooled_mean, statistics.pooled_scale)

    def raw(self) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K] on features as they are, float64."""
        weight = self.project.weight.detach().double() / self.project.scale.double()
        return weight, self.project.bias.detach().double() - weight @ self.project.mean.double()

    def take_raw(self, weight: Tensor, bias: Tensor) -> None:
        """Answer as ``weight`` [K, D] and ``bias`` [K] do on features as they are."""
        self.project.weight.data.copy_(weight.double() * self.project.scale.double())
        self.project.bias.data.copy_(bias.double() + weight.double() @ self.project.mean.double())


def log_odds(fraction: Tensor) -> Tensor:
    """Log odds of a ``fraction`` [K], kept off 0 and 1.

    >>> [round(each, 3) for each in log_odds(torch.tensor([0.5, 0.9])).tolist()]
    [0.0, 2.197]
    """
    return torch.logit(fraction.double().clamp(1e-4, 1 - 1e-4)).float()


def fan_in_deviation(inputs: int) -> float:
    """Standard deviation of weights that keeps the variance of ``inputs`` standardised inputs.

    >>> fan_in_deviation(256)
    0.0625
    """
    return 1 / math.sqrt(inputs)


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Within it torch's own generator is seeded by one number of ``generator``; afterwards it is as it was.

    >>> with drawn_from(torch.Generator().manual_seed(0)):
    ...     first = nn.Linear(2, 1).weight
    >>> with drawn_from(torch.Generator().manual_seed(0)):
    ...     second = nn.Linear(2, 1).weight
    >>> torch.equal(first, second)
    True
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
