"""Small stand-ins for an encoder and a manifest, which count what is asked of them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Features
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress


class CountingEncoder(nn.Module):
    """Features of each image by itself: means of its cells, scaled by ``gain``."""

    pooled_dim = 6
    map_strides = (2, 4)

    def __init__(self, name: str = "counting", *, gain: float = 1.0, channels: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        self.card = SimpleNamespace(name=name)
        self.key = hashlib.sha256(f"{name} {gain} {channels}".encode()).hexdigest()
        self.gain = gain
        self.map_channels = channels
        self.map_strides = (2, 4)[: len(channels)]
        self.input_size = (16, 16)
        self.batches: list[int] = []
        self.seconds = 0.0

    def prepare(self, image: SimpleNamespace) -> tuple[Tensor, Geometry]:
        pixels = torch.from_numpy(image.pixels)
        geometry = Geometry.identity(pixels.shape[1:]).resize(self.input_size)
        return functional.interpolate(pixels[None], self.input_size, mode="bilinear")[0], geometry

    def geometry_of(self, height: int, width: int) -> Geometry:
        return Geometry.identity((height, width)).resize(self.input_size)

    def encode(self, batch: Tensor) -> Features:
        time.sleep(self.seconds)
        self.batches.append(len(batch))
        weights = torch.arange(1, 7, dtype=torch.float32)
        pooled = batch.flatten(1).mean(1)[:, None] * weights * self.gain
        maps = []
        for channels, stride in zip(self.map_channels, self.map_strides, strict=True):
            cells = functional.avg_pool2d(batch, stride)
            maps.append(cells * torch.linspace(0.1, 3, channels)[:, None, None] * self.gain)
        return Features(pooled, tuple(maps))


@dataclass
class Radiographs:
    """A manifest of made-up radiographs: the radiograph of a row is decided by its number in ``contents``."""

    contents: list[int]
    info: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(bits=None, unit=None))
    broken: frozenset[int] = frozenset()
    read: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    most_at_once: int = 0

    def __len__(self) -> int:
        return len(self.contents)

    def size(self, row: int) -> tuple[int, int]:
        return 20 + self.contents[row] % 7, 24

    def image(self, row: int) -> SimpleNamespace:
        if row in self.broken:
            raise EvalfmError(f"The image of row {row} is truncated; mend the file.")
        with self.lock:
            self.read.append(row)
        generator = np.random.default_rng(self.contents[row])
        return SimpleNamespace(pixels=generator.random((1, *self.size(row)), dtype=np.float32))

    def digests(self, rows: Sequence[int] | None = None, *, progress: Progress = SILENT) -> np.ndarray:
        chosen = range(len(self)) if rows is None else rows
        names = [hashlib.sha256(f"film {self.contents[row]}".encode()).hexdigest() for row in chosen]
        return np.array(names, dtype=object)


def direct(encoder: CountingEncoder, radiographs: Radiographs, rows: Sequence[int]) -> Features:
    """Features without any store, one image at a time; maps through float16."""
    results = [encoder.encode(encoder.prepare(radiographs.image(row))[0][None]) for row in rows]
    layers = zip(*(result.maps for result in results), strict=True)
    return Features(
        torch.cat([result.pooled for result in results]),
        tuple(torch.cat(layer).half().float() for layer in layers),
    )


@pytest.fixture
def make_encoder() -> type[CountingEncoder]:
    return CountingEncoder


@pytest.fixture
def make_radiographs() -> Callable[..., Radiographs]:
    return lambda contents, **keywords: Radiographs(list(contents), **keywords)


@pytest.fixture
def compute() -> Callable[[CountingEncoder, Radiographs, Sequence[int]], Features]:
    return direct
