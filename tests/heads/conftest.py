"""A feature source made of planted arrays, and the examples that go with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Features
from evalfm.heads.head import Examples


@dataclass
class ArraySource:
    """Features held in memory; counts how often maps are asked for."""

    pooled: torch.Tensor
    maps: tuple[torch.Tensor, ...] = ()
    strides: tuple[int, ...] = ()
    size: tuple[int, int] = (64, 64)
    film: tuple[int, int] = (64, 64)
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
        return Geometry.identity(self.film).resize(self.size)


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
