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
from evalfm.data.images import Image
from evalfm.encoders.card import Preprocessing
from evalfm.encoders.encoder import Features
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

FACTS = Preprocessing(
    input_size=(16, 16),
    resize="squash",
    interpolation="bilinear",
    antialias=True,
    channels=1,
    units=("unit-interval",),
    input_range=(0.0, 1.0),
    mean=(0.0,),
    std=(1.0,),
)


class CountingEncoder(nn.Module):
    """Features of each image by itself: means of its cells, scaled by ``gain``."""

    pooled_dim = 6
    precision = "float32"
    not_finite = "counting gives NaN or infinite features in float32; check the weights."

    def __init__(
        self,
        name: str = "counting",
        *,
        gain: float = 1.0,
        channels: tuple[int, ...] = (64, 32),
        device: str = "cpu",
        facts: Preprocessing = FACTS,
    ) -> None:
        super().__init__()
        self.card = SimpleNamespace(name=name)
        self.key = hashlib.sha256(f"{name} {gain} {channels}".encode()).hexdigest()
        self.gain = gain
        self.map_channels = channels
        self.map_strides = (2, 4)[: len(channels)]
        self.preparer = Preparer(facts, name)
        self.input_size = facts.input_size
        self.feature_path = SimpleNamespace(name=f"float32-{device}")
        self.batches: list[int] = []
        self.seconds = 0.0

    def prepare(self, image: Image) -> tuple[Tensor, Geometry]:
        prepared = self.preparer(image)
        return model_input(torch.from_numpy(prepared.pixels)[None], self.preparer.facts)[0], prepared.geometry

    def geometry_of(self, height: int, width: int) -> Geometry:
        return self.preparer.geometry_of(height, width)

    def encode(self, batch: Tensor, check: bool = True) -> Features:
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

    def __len__(self) -> int:
        return len(self.contents)

    def locators(self, rows: Sequence[int]) -> list[str]:
        return [f"{row}.png" for row in rows]

    def size(self, row: int) -> tuple[int, int]:
        return 20 + self.contents[row] % 7, 24

    def image(self, row: int) -> Image:
        if row in self.broken:
            raise EvalfmError(f"The image of row {row} is truncated; mend the file.")
        with self.lock:
            self.read.append(row)
        generator = np.random.default_rng(self.contents[row])
        pixels = generator.random((1, *self.size(row)), dtype=np.float32)
        return Image(pixels, "unit-interval", 8, None, "made up")

    def digests(self, rows: Sequence[int] | None = None, *, progress: Progress = SILENT) -> np.ndarray:
        chosen = range(len(self)) if rows is None else rows
        names = [hashlib.sha256(f"radiograph {self.contents[row]}".encode()).hexdigest() for row in chosen]
        return np.array(names, dtype=object)


def direct(encoder: CountingEncoder, radiographs: Radiographs, rows: Sequence[int]) -> Features:
    """Features without any store, one image at a time; maps through float16."""
    results = [encoder.encode(encoder.prepare(radiographs.image(row))[0][None]) for row in rows]
    layers = zip(*(result.maps for result in results), strict=True)
    return Features(
        torch.cat([result.pooled for result in results]),
        tuple(torch.cat(layer).half() for layer in layers),
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
