"""Images through an encoder once: decoded in threads, computed by the caller, stored chunk by chunk."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from evalfm.data.images import is_constant
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.cores import reader_count
from evalfm.features.feature_arrays import FeatureArrays
from evalfm.features.forward import Forward, automatic_batch_size, device_of
from evalfm.features.packing import pack
from evalfm.features.segment_writer import SegmentWriter
from evalfm.features.store import EncoderCache
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.images import Image

CHUNK_ROWS = 256
CHUNK_BYTES = 256_000_000
BATCHES_AHEAD = 2
"""Batches decoded while one is computed; it bounds the memory whatever the number of images."""


Load: TypeAlias = "Callable[[int], Image]"
"""Reads the image of a row of the manifest."""


@dataclass(frozen=True)
class Item:
    """An image to extract: its address in the store and its row in the manifest."""

    address: str
    row: int


Chunk: TypeAlias = tuple[Item, ...]


@dataclass(frozen=True)
class Batch:
    """Images decoded and brought to the encoder's input.

    Attributes:
        items: [B] which they are.
        tensor: [B, C, h, w] the input.
        sizes: [B] height and width of the films.
    """

    items: tuple[Item, ...]
    tensor: Tensor
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Work:
    """What was computed: calls of the encoder, and images that went through it."""

    calls: int = 0
    images: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.calls + other.calls, self.images + other.images)


def extract(
    encoder: Encoder,
    items: Sequence[Item],
    load: Load,
    cache: EncoderCache,
    *,
    maps: bool = False,
    batch_size: int | None = None,
    map_bytes: int = 0,
    workers: int | None = None,
    label: str = "features",
    progress: Progress = SILENT,
) -> Work:
    """Run ``encoder`` over ``items`` and store what is not stored yet: pooled features and, if asked, maps.

    Rows appear in the store every few seconds; a kill loses those since. Batches never cross a chunk.

    Args:
        encoder: in evaluation mode, on its device.
        items: what to extract, each address once.
        load: reads the image of a row; called in threads.
        cache: where the features go.
        maps: also store spatial maps.
        batch_size: images per batch; automatic by default.
        map_bytes: bytes that the maps of one image take, which bounds the size of a chunk.
        workers: processes that decode; by default one per core.
        label: what the bar is called.
        progress: where the work is shown.

    Raises:
        EvalfmError: an image cannot be read, features are not finite or not as declared, the disk is full.
    """
    batch_size = batch_size or automatic_batch_size(encoder)
    rows = chunk_rows(batch_size, map_bytes if maps else 0)
    work, forward = Work(), Forward(encoder)
    with ExitStack() as stack:
        decoder = stack.enter_context(Decoder(encoder, load, workers))
        pooled_writer = stack.enter_context(cache.pooled.writer())
        maps_writer = stack.enter_context(cache.maps.writer()) if maps else None
        batches = decoder.batches(_plan(items, rows, batch_size, cache.maps if maps else cache.pooled))
        shown = progress.track(batches, label, -(-len(items) // batch_size))
        for chunk, of_chunk in _by_chunk(shown, batch_size):
            lacking = set(cache.pooled.missing([item.address for item in chunk]))
            work += _write_features(forward, of_chunk, lacking, pooled_writer, maps_writer)
    return work


def extract_films(
    encoder: Encoder,
    items: Sequence[Item],
    load: Load,
    films: FeatureArrays,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Store the encoder's input of ``items``, exactly as ``prepare`` made it, so that none is decoded twice.

    Raises:
        EvalfmError: an image cannot be read, or the disk is full.
    """
    batch_size = batch_size or automatic_batch_size(encoder)
    rows = chunk_rows(batch_size, film_bytes(encoder))
    with Decoder(encoder, load, workers) as decoder:
        batches = decoder.batches(_plan(items, rows, batch_size, films))
        shown = progress.track(batches, "decoding films", -(-len(items) // batch_size))
        with films.writer() as writer:
            for _, batch in shown:
                writer.append([item.address for item in batch.items], batch.sizes, [batch.tensor.numpy()])


def film_bytes(encoder: Encoder) -> int:
    """Bytes of one prepared film of three channels."""
    height, width = encoder.input_size
    return 3 * 4 * height * width


def chunk_rows(batch_size: int, bytes_per_row: int) -> int:
    """Rows of a chunk: whole batches, at most 256 and 256 MB unless one batch is more."""
    rows = min(CHUNK_ROWS, CHUNK_BYTES // bytes_per_row) if bytes_per_row else CHUNK_ROWS
    return max(batch_size, rows // batch_size * batch_size)


def _plan(items: Sequence[Item], rows: int, batch_size: int, wanted: FeatureArrays) -> Iterator[tuple[Chunk, Chunk]]:
    """Batches, each with its chunk, without what another process has stored since the items were listed."""
    for start in range(0, len(items), rows):
        part = items[start : start + rows]
        missing = set(wanted.missing([item.address for item in part]))
        chunk = tuple(item for item in part if item.address in missing)
        for first in range(0, len(chunk), batch_size):
            yield chunk, chunk[first : first + batch_size]


def _by_chunk(pairs: Iterator[tuple[Chunk, Batch]], batch_size: int) -> Iterator[tuple[Chunk, Iterator[Batch]]]:
    """The batches of each chunk, without asking for the next chunk's before one is written."""
    for chunk, first in pairs:
        others = itertools.islice(pairs, -(-len(chunk) // batch_size) - 1)
        yield chunk, itertools.chain([first], (batch for _, batch in others))


def _write_features(
    forward: Forward,
    batches: Iterable[Batch],
    lacking: set[str],
    pooled_writer: SegmentWriter,
    maps_writer: SegmentWriter | None,
) -> Work:
    """Compute batches; each is written in the background while the next is computed."""
    work = Work()
    for batch in batches:
        features = forward(batch.tensor)
        work += Work(1, len(batch.items))
        keep = [number for number, item in enumerate(batch.items) if item.address in lacking]
        addresses = [item.address for item in batch.items]
        if keep:
            pooled_writer.append(
                [addresses[number] for number in keep],
                [batch.sizes[number] for number in keep],
                [features.pooled[keep].float().cpu()],
            )
        if maps_writer is not None:
            maps_writer.append(addresses, batch.sizes, [pack(each).cpu() for each in features.maps])
    return work


class Decoder:
    """Threads that read and prepare images ahead of the encoder; a context manager.

    Reading and resizing release the interpreter's lock, and threads need no copy of encoder or manifest. At
    most ``BATCHES_AHEAD`` batches wait, so memory does not grow with the number of images.
    """

    def __init__(self, encoder: Encoder, load: Load, workers: int | None) -> None:
        self._encoder = encoder
        self._load = load
        self._pool = ThreadPoolExecutor(reader_count(workers))
        self._pin = device_of(encoder).type == "cuda"

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, parts: Iterable[tuple[Chunk, Chunk]]) -> Iterator[tuple[Chunk, Batch]]:
        """Decode batches of items, in order; each comes with the chunk it was given with.

        Raises:
            EvalfmError: an image cannot be read.
        """
        waiting: deque[tuple[Chunk, Future[Batch]]] = deque()
        for chunk, part in parts:
            images = [self._pool.submit(self._prepare, item) for item in part]
            # Tasks start in the order of submission: those that _stack waits for are running when it starts.
            waiting.append((chunk, self._pool.submit(self._stack, part, images)))
            if len(waiting) > BATCHES_AHEAD:
                ready, batch = waiting.popleft()
                yield ready, batch.result()
        while waiting:
            ready, batch = waiting.popleft()
            yield ready, batch.result()

    def _prepare(self, item: Item) -> tuple[Tensor, tuple[int, int]]:
        try:
            image = self._load(item.row)
            if is_constant(image):
                raise EvalfmError(
                    f"all pixels of the image have the value {image.pixels.flat[0]:g}; replace the file or drop the "
                    "row (`evalfm data check` lists all such rows)."
                )
            tensor, geometry = self._encoder.prepare(image)
        except EvalfmError as error:
            raise EvalfmError(f"Row {item.row + 1} of the manifest: {error}") from None
        return tensor, geometry.source

    def _stack(self, part: Chunk, images: list[Future[tuple[Tensor, tuple[int, int]]]]) -> Batch:
        prepared = [image.result() for image in images]
        tensor = torch.stack([tensor for tensor, _ in prepared])
        return Batch(part, tensor.pin_memory() if self._pin else tensor, tuple(size for _, size in prepared))
