"""The feature store: rows of arrays on disk, addressed by the encoder's key and the image's digest."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.data.work_folders import remove_stale
from evalfm.features.chunks import (
    Chunk,
    ChunkWriter,
    DamagedChunkError,
    chunk_folders,
    discard,
)
from evalfm.features.source import FeatureSource

LARGEST_BUDGET = 20_000_000_000
SHARE_OF_DISK = 0.1
FORMAT = "1"
"""Of the files below a key; features of another format are left alone and not read."""


class FeatureStore:
    """A folder of features, shared by runs and processes: ``<folder>/<key>/<format>/<kind>/<chunk>``."""

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self._budget_bytes = budget_bytes

    @property
    def budget_bytes(self) -> int:
        """Bytes that maps of all encoders together may take before they are computed on the fly."""
        return default_budget(self.folder) if self._budget_bytes is None else self._budget_bytes

    @property
    def map_bytes(self) -> int:
        """How many bytes stored maps of all encoders take now."""
        return _stored_bytes(self.folder)

    @property
    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the store."""
        return shutil.disk_usage(_existing(self.folder)).free

    def shelf(self, key: str) -> Shelf:
        """The features of the encoder with ``key``; nothing is read or made yet."""
        # 128 bits of a digest tell any two encoders apart; other keys are hashed to be fit for a file name.
        name = key if re.fullmatch(r"[0-9a-f]{32,}", key) else hashlib.sha256(key.encode()).hexdigest()
        folder = self.folder / name[:32] / FORMAT
        return Shelf(Rows(folder / "pooled"), Rows(folder / "maps"), Rows(folder / "films"))


@dataclass(frozen=True)
class Shelf:
    """What is stored of one encoder; the kinds lie apart, so that asking for one never touches another.

    Attributes:
        pooled: one float32 array [D] a row.
        maps: one array [C, h, w] a row and layer; float16 where it holds the values.
        films: the encoder's input, one float32 array [C, h, w] a row.
    """

    pooled: Rows
    maps: Rows
    films: Rows


class Rows:
    """Rows of one kind, spread over chunks; each row is a tuple of arrays found by its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._places: dict[str, tuple[Chunk, int]] = {}
        self._open: dict[str, tuple[NDArray[Any], ...]] = {}
        self._cleaned = False

    def missing(self, addresses: Sequence[str]) -> list[str]:
        """Those of ``addresses`` that are not stored, each once, in order.

        A chunk that this process asks for the first time is checked; a damaged one is removed with a warning
        and its rows are missing.
        """
        unique = dict.fromkeys(addresses)
        if any(address not in self._places for address in unique):
            self._look_again()
        for chunk in {place[0].folder.name: place[0] for place in map(self._places.get, unique) if place}.values():
            self._arrays(chunk)
        return [address for address in unique if address not in self._places]

    def read(self, addresses: Sequence[str]) -> tuple[Tensor, ...]:
        """Rows in the order of ``addresses`` as float32 tensors [N, ...], copied from memory-mapped files.

        Raises:
            KeyError: a row is missing or its chunk is damaged; ``missing`` tells.
        """
        by_chunk: dict[str, list[int]] = {}
        for number, address in enumerate(addresses):
            by_chunk.setdefault(self._places[address][0].folder.name, []).append(number)
        result: list[Tensor] = []
        for numbers in by_chunk.values():
            chunk = self._places[addresses[numbers[0]]][0]
            positions = [self._places[addresses[number]][1] for number in numbers]
            arrays = self._arrays(chunk)
            if arrays is None:
                raise KeyError(addresses[numbers[0]])
            if not result:
                result = [torch.empty(len(addresses), *array.shape[1:]) for array in arrays]
            for rows, array in zip(result, arrays, strict=True):
                rows[numbers] = torch.from_numpy(array[positions].astype(np.float32))
        return tuple(result)

    def size(self, address: str) -> tuple[int, int] | None:
        """Height and width of the stored film, or None where the row is not stored."""
        place = self._places.get(address)
        return None if place is None else place[0].sizes[place[1]]

    @contextmanager
    def write(self, addresses: Sequence[str]) -> Iterator[ChunkWriter]:
        """Write one chunk; it is published when the block ends, and not at all where it fails.

        Raises:
            EvalfmError: the folder cannot be written.
        """
        if not self._cleaned:
            remove_stale(self._folder)
            self._cleaned = True
        with ChunkWriter(self._folder, addresses) as writer:
            yield writer
            writer.publish()
        self._look_again()

    def _look_again(self) -> None:
        """Learn of chunks that were published since the last look, by this process or another."""
        for folder in chunk_folders(self._folder):
            if folder.name in self._seen:
                continue
            try:
                inode = folder.stat().st_ino
            except FileNotFoundError:
                continue
            try:
                chunk = Chunk.read(folder)
            except DamagedChunkError as error:
                self._reject(folder, inode, error)
                continue
            self._seen.add(folder.name)
            for position, address in enumerate(chunk.addresses):
                self._places.setdefault(address, (chunk, position))

    def _arrays(self, chunk: Chunk) -> tuple[NDArray[Any], ...] | None:
        """The arrays of ``chunk``, checked once in this process; None where they are damaged."""
        name = chunk.folder.name
        if name not in self._open:
            try:
                inode = chunk.folder.stat().st_ino
                self._open[name] = chunk.open()
            except FileNotFoundError:
                self._forget(chunk)
                return None
            except DamagedChunkError as error:
                self._forget(chunk)
                self._reject(chunk.folder, inode, error)
                return None
        return self._open[name]

    def _forget(self, chunk: Chunk) -> None:
        self._seen.discard(chunk.folder.name)
        for address in chunk.addresses:
            if address in self._places and self._places[address][0] is chunk:
                del self._places[address]

    def _reject(self, folder: Path, inode: int, error: DamagedChunkError) -> None:
        warnings.warn(f"Stored features are damaged ({error}) and are computed again.", stacklevel=2)
        discard(folder, inode)


def default_budget(folder: Path) -> int:
    """Bytes that maps may take: 20 GB, or if less 10 % of what would be free on the disk without them."""
    free = shutil.disk_usage(_existing(folder)).free
    return min(LARGEST_BUDGET, int(SHARE_OF_DISK * (free + _stored_bytes(folder))))


def estimate_bytes(source: FeatureSource, n: int, *, maps: bool = True) -> int:
    """Bytes that features of ``n`` images take on disk: pooled as float32, ``maps`` as float16."""
    values = 0
    if maps:
        for channels, (height, width) in zip(source.map_channels, map_grids(source), strict=True):
            values += channels * height * width
    return n * (4 * source.pooled_dim + 2 * values)


def map_grids(source: FeatureSource) -> tuple[tuple[int, int], ...]:
    """Height and width of each map of ``source``, from its input size and strides."""
    height, width = source.input_size
    return tuple((-(-height // stride), -(-width // stride)) for stride in source.map_strides)


def _stored_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*/*/maps/*/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # published or removed by another process meanwhile
            continue
    return total


def _existing(folder: Path) -> Path:
    """``folder`` or the nearest parent that is there."""
    return next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
