"""Images read and prepared ahead of an encoder, in order, by processes or, where they are few, by threads."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.data.manifest import Manifest
from evalfm.encoders.preprocessing import Prepared, Preparer
from evalfm.errors import EvalfmError
from evalfm.features.kept_images import KeptImages
from evalfm.features.memory import HOST, MEMORY, PINNED, MemoryBudget
from evalfm.features.reader_pool import CannotStart, Read, ReaderPool
from evalfm.features.reader_process import ImageFiles
from evalfm.progress import SILENT, Progress
from evalfm.workers.cores import reader_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = TypeVar("Part")
Result = TypeVar("Result")
FEW_IMAGES = 64
"""Fewer are read by threads: processes take half a second to start."""
BATCHES_AHEAD = 2
"""Batches that are read while one is used; more where they are small beside what the readers have under way."""
IMAGES_AHEAD = 12
"""Images under way for each reader, so that none waits for a slow neighbour."""
PROCESS_BYTES = 100_000_000
"""Main memory of a reader process with the image that it decodes."""


@dataclass(frozen=True)
class PreparedBatch:
    """Images as ``Preparer`` leaves them, stacked.

    Attributes:
        rows: [B] rows of the manifest.
        pixels: [B, 1 or 3, h, w] of one type: images of several depths are brought to the deepest of them exactly, grey
            ones among colour to three channels; in pinned memory where that was asked for and is to be had.
        geometries: [B] where each image's pixels lie on it.
        seconds: processor seconds spent by readers in each stage (``decode``, ``resize``), for all images together;
            none for images that were kept.
    """

    rows: tuple[int, ...]
    pixels: Tensor
    geometries: tuple[Geometry, ...]
    seconds: dict[str, float] = field(default_factory=dict)


class ImageReader:
    """Images of a manifest as one encoder takes them; a context manager that lives as long as its owner.

    Processes start when they are first of use, and stay. Where they cannot be started threads do their work, and the
    progress says so.

    Attributes:
        decoded: images that were read from their files so far.

    >>> from evalfm.data.manifest import read_data
    >>> from evalfm.data.phantom import make_phantom
    >>> from evalfm.encoders import load_encoder
    >>> manifest = read_data(make_phantom("radiographs", n=4, size=64).folder)
    >>> with ImageReader(load_encoder("pixels").preparer, manifest, workers=1) as reader:
    ...     for batch in reader.batches([[0, 1, 2], [3]]):
    ...         print(batch.rows, tuple(batch.pixels.shape), batch.pixels.dtype)
    (0, 1, 2) (3, 1, 256, 256) torch.uint16
    (3,) (1, 1, 256, 256) torch.uint16
    """

    def __init__(
        self,
        preparer: Preparer,
        manifest: Manifest,
        *,
        workers: int | None,
        memory: MemoryBudget | None = None,
        pin: bool = False,
        keep: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        """Nothing is read or started before batches are asked for.

        Args:
            preparer: of the encoder.
            manifest: whose rows are read.
            workers: processes that decode; None follows the machine.
            memory: the budget; that of this process by default.
            pin: stack batches in pinned memory, for copies to a device that nothing waits for.
            keep: keep images in memory in their stored depth as far as the budget goes.
            progress: where it is said that processes cannot be started.

        Raises:
            EvalfmError: fewer than one worker.
        """
        self.decoded = 0
        self._preparer, self._manifest = preparer, manifest
        self._memory = MEMORY if memory is None else memory
        self._workers = reader_count(workers)
        if workers is None:
            self._workers = max(1, min(self._workers, self._memory.free(HOST) // PROCESS_BYTES))
        self._pin = pin and torch.cuda.is_available()
        self._image_bytes = 2 * int(np.prod(preparer.facts.input_size))
        room = min(2 * IMAGES_AHEAD * self._workers * self._image_bytes, self._memory.free(HOST) // 4)
        self._kept = KeptImages(self._memory, room=room) if keep else None
        self._progress = progress
        # Images that a manifest makes itself, such as those with a region painted over, lie in no file.
        own = type(manifest).image is not Manifest.image
        self._files = None if own else ImageFiles(manifest.root, manifest.info.bits, manifest.info.unit)
        self._lock = threading.Lock()
        self._under_way: dict[int, Future[Read]] = {}
        self._pool: ReaderPool | None = None
        self._no_processes = own
        self._threads: ThreadPoolExecutor | None = None
        self._stacker = ThreadPoolExecutor(1, "evalfm-stack")

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End processes and threads, and give all memory back."""
        if self._pool is not None:
            self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._stacker.shutdown(wait=True, cancel_futures=True)
        if self._kept is not None:
            self._kept.clear()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Numbers of the reader processes; none where threads read."""
        return () if self._pool is None else self._pool.process_ids

    def batches(self, parts: Iterable[Sequence[int]]) -> Iterator[PreparedBatch]:
        """The images of each of ``parts`` (rows, repeats allowed), in order, read ahead within the memory's budget.

        Raises:
            EvalfmError: an image cannot be read or is constant, with its row; or a process was killed.
        """
        coming = iter(parts)
        first: list[Sequence[int]] = []
        images = 0
        new: set[int] = set()
        while images + self.decoded < FEW_IMAGES and (part := next(coming, None)) is not None:
            first.append(part)
            # Where images are kept, those that are and those that come again need no reader.
            new.update(int(row) for row in part if self._kept is not None and int(row) not in self._kept)
            images = images + len(part) if self._kept is None else len(new)
        self._start(images + self.decoded >= FEW_IMAGES)
        waiting: deque[tuple[int, Future[PreparedBatch]]] = deque()
        try:
            for part in itertools.chain(first, coming):
                # Each image stands alone and in its batch for a moment.
                size = 2 * len(part) * self._image_bytes
                while waiting and not self._has_room(waiting, len(part), size):
                    yield self._next(waiting)
                reserved = size if self._memory.reserve(HOST, size) else 0
                images_read = [self._fetch(int(row)) for row in part]
                stacked = self._stacker.submit(self._stack, tuple(map(int, part)), images_read)
                waiting.append((reserved, stacked))
            while waiting:
                yield self._next(waiting)
        finally:
            for reserved, batch in waiting:
                self._memory.release(HOST, reserved)
                batch.cancel()

    def _next(self, waiting: deque[tuple[int, Future[PreparedBatch]]]) -> PreparedBatch:
        reserved, batch = waiting.popleft()
        try:
            return batch.result()
        finally:
            self._memory.release(HOST, reserved)

    def _has_room(self, waiting: deque[tuple[int, Future[PreparedBatch]]], images: int, size: int) -> bool:
        """Whether another batch may be begun beside those that wait."""
        ahead = max(BATCHES_AHEAD, -(-IMAGES_AHEAD * self._workers // max(images, 1)))
        if len(waiting) > ahead:
            return False
        if self._kept is not None and len(waiting) < BATCHES_AHEAD:
            self._kept.give_up(size)
        return self._memory.free(HOST) >= size

    # One image

    def _fetch(self, row: int) -> Future[Read]:
        """The image of ``row``: kept, under way already, or to be read now."""
        kept = None if self._kept is None else self._kept.get(row)
        if kept is not None:
            done: Future[Read] = Future()
            done.set_result((kept, {}))
            return done
        with self._lock:
            if row in self._under_way:
                return self._under_way[row]
            self.decoded += 1
            if self._pool is not None:
                image = self._pool.submit(row, self._manifest.locator(row))
            else:
                assert self._threads is not None
                image = self._threads.submit(self._read, row)
            self._under_way[row] = image
        image.add_done_callback(lambda future: self._finished(row, future))
        return image

    def _finished(self, row: int, image: Future[Read]) -> None:
        if not image.cancelled() and image.exception() is None:
            prepared, _ = image.result()
            self._image_bytes = max(self._image_bytes, prepared.pixels.nbytes)
            if self._kept is not None:
                self._kept.put(row, prepared)
        with self._lock:
            self._under_way.pop(row, None)

    def _read(self, row: int) -> Read:
        """In a thread; no other thread of numpy or torch works for it."""
        if self._files is not None:
            return self._files.read(self._preparer, self._manifest.locator(row))
        began = time.thread_time()
        # Nothing is wrong with the file where a change has left one value in every pixel.
        image = self._manifest.image(row)
        decoded = time.thread_time()
        prepared = self._preparer(image)
        return prepared, {"decode": decoded - began, "resize": time.thread_time() - decoded}

    # Readers

    def _start(self, many: bool) -> None:
        if self._pool is not None and self._pool.is_broken:
            self._pool.close()
            self._pool = None
        if self._pool is None and many and not self._no_processes and self._files is not None:
            try:
                self._pool = ReaderPool(self._preparer, self._files, self._workers)
                weakref.finalize(self, self._pool.kill)
            except CannotStart as error:
                self._no_processes = True
                self._progress.say(f"Images are read by threads, which is slower: {error}.")
        if self._pool is None and self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, "evalfm-reader")

    # Batches

    def _stack(self, rows: tuple[int, ...], images: Sequence[Future[Read]]) -> PreparedBatch:
        seconds: dict[str, float] = {}
        read: list[Prepared] = []
        counted: set[int] = set()
        for row, image in zip(rows, images, strict=True):
            try:
                prepared, spent = image.result()
            except EvalfmError as error:
                said = str(error)
                raise EvalfmError(
                    said if said.startswith("Row ") else f"Row {row + 1} of the manifest: {said}"
                ) from None
            read.append(prepared)
            if row not in counted:
                counted.add(row)
                for stage, each in spent.items():
                    seconds[stage] = seconds.get(stage, 0.0) + each
        return PreparedBatch(rows, self._together(read), tuple(each.geometry for each in read), seconds)

    def _together(self, images: Sequence[Prepared]) -> Tensor:
        """The pixels of ``images``, pinned where that was asked for and there is room."""
        most = 3 * int(np.prod(self._preparer.facts.input_size)) * 4 * len(images)
        return stacked(images, pin=self._pin and self._memory.free(PINNED) >= (BATCHES_AHEAD + 1) * most)


def stacked(images: Sequence[Prepared], *, pin: bool = False) -> Tensor:
    """The pixels [B, 1 or 3, h, w] of ``images`` in the deepest of their types and the most of their channels."""
    kind = max((each.pixels.dtype for each in images), key=lambda each: each.itemsize)
    channels = max(len(each.pixels) for each in images)
    pixels = torch.empty((len(images), channels, *images[0].pixels.shape[1:]), dtype=_TORCH[kind], pin_memory=pin)
    array: NDArray[np.generic] = pixels.numpy()
    for place, image in zip(array, images, strict=True):
        place[...] = _deepened(image, kind)
    return pixels


_TORCH = {np.dtype(np.uint8): torch.uint8, np.dtype(np.uint16): torch.uint16, np.dtype(np.float32): torch.float32}


def _deepened(image: Prepared, kind: np.dtype[np.generic]) -> NDArray[np.generic]:
    """The same values in a deeper type, to the last bit as ``model_input`` has them."""
    pixels = image.pixels
    if pixels.dtype == kind:
        return pixels
    if kind == np.float32:
        return pixels.astype(np.float32) / np.float32(round(1 / image.scale))
    # 65535 is 257 times 255.
    return pixels.astype(np.uint16) * np.uint16(257)


def read_ahead(parts: Iterable[Part], read: Callable[[Part], Result], ahead: int = 1) -> Iterator[Result]:
    """``read`` of each part in order; a thread reads the next ``ahead`` while one is used.

    >>> list(read_ahead([1, 2, 3], str))
    ['1', '2', '3']
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for part in parts:
            waiting.append(pool.submit(read, part))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
