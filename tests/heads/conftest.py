"""A feature source made of planted arrays, and the examples that go with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.nn import functional

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Features
from evalfm.heads.head import Examples


@dataclass
class ArraySource:
    """Features held in memory; counts how often maps are read."""

    pooled: torch.Tensor
    maps: tuple[torch.Tensor, ...] = ()
    strides: tuple[int, ...] = ()
    size: tuple[int, int] = (64, 64)
    image: tuple[int, int] = (64, 64)
    name: str = "planted"
    key: str = "planted"
    calls: list[list[int]] = field(default_factory=list)

    @property
    def pooled_dim(self) -> int:
        return self.pooled.shape[1]

    @property
    def map_channels(self) -> tuple[int, ...]:
        return tuple(level.shape[1] for level in self.maps)

    @property
    def map_strides(self) -> tuple[int, ...]:
        return self.strides

    @property
    def input_size(self) -> tuple[int, int]:
        return self.size

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        index = torch.as_tensor(list(rows), dtype=torch.long)
        if not maps:
            return Features(self.pooled[index])
        self.calls.append(list(rows))
        return Features(self.pooled[index], tuple(level[index] for level in self.maps))

    def geometry(self, row: int) -> Geometry:
        return Geometry.identity(self.image).resize(self.size)


def examples_of(source: ArraySource, rows: Sequence[int], target: object = None, masks: object = None) -> Examples:
    positions = np.asarray(rows, dtype=np.intp)
    wanted = np.zeros((len(positions), 0)) if target is None else np.asarray(target, dtype=np.float64)
    patients = np.array([f"p{row}" for row in positions], dtype=object)
    return Examples(source, positions, wanted, patients, masks)  # type: ignore[arg-type]


@pytest.fixture
def array_source() -> type[ArraySource]:
    return ArraySource


@pytest.fixture
def make_examples() -> Callable[..., Examples]:
    return examples_of


@pytest.fixture
def plant(array_source, make_examples) -> Callable[..., tuple]:
    """Radiographs with small squares whose place is written, noisily, into the maps."""

    def build(
        strides=(4, 8, 16),
        channels=12,
        size=64,
        count=48,
        train=32,
        prevalence=0.5,
        side=9,
        noise=0.6,
        seed=0,
        image=None,
    ):
        """(source, train, val): a square of ``side`` pixels on every 1/``prevalence``-th image."""
        draw = np.random.default_rng(seed)
        masks = np.zeros((count, 1, size, size), dtype=bool)
        for index in np.flatnonzero(np.arange(count) % max(1, round(1 / prevalence)) == 0):
            top, left = draw.integers(0, size - side, 2)
            masks[index, 0, top : top + side, left : left + side] = True
        generator = torch.Generator().manual_seed(seed)
        maps = []
        for level, stride in enumerate(strides):
            grid = size // stride
            signal = functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), grid)
            direction = torch.randn(channels + level, generator=generator)
            pattern = noise * torch.randn(count, channels + level, grid, grid, generator=generator)
            # Large unequal offsets and scales: a head that does not standardise cannot learn from these.
            scale = 10 ** torch.linspace(-2, 2, channels + level)
            maps.append(((pattern + 3 * signal * direction[:, None, None]) + 5) * scale[:, None, None])
        source = array_source(torch.zeros(count, 1), tuple(maps), tuple(strides), (size, size), image or (size, size))
        reader = lambda row: masks[row]  # noqa: E731
        order = list(range(count))
        return (
            source,
            make_examples(source, order[:train], masks=reader),
            make_examples(source, order[train:], masks=reader),
        )

    return build
