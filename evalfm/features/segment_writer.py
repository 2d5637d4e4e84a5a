"""Rows appended to a segment in the background: written, checksummed and flushed while the next are computed."""

from __future__ import annotations

import functools
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evalfm.errors import EvalfmError
from evalfm.features import segment as segments
from evalfm.features.disk import raw
from evalfm.features.segment import Extent, OpenSegment, open_segment
from evalfm.features.segment_format import ENTRY, ArrayLayout, Layout, keys_of
from evalfm.features.tiers import LARGEST_HALF

COMMIT_BYTES, COMMIT_SECONDS = 128_000_000, 5.0
"""Written bytes, and age of the oldest of them, at which rows are committed: what a kill may cost."""
QUEUE_BYTES = 256_000_000
"""Bytes that wait to be written before ``append`` waits."""
TOGETHER_BYTES = 8_000_000
"""Up to which rows of several calls are written at once."""
THREADED_BYTES = 64_000
"""Bytes of a row from which on its checksum is computed in a thread of its own."""
AHEAD_BYTES = 1_000_000_000
"""Bytes that are written and wait to be flushed before writing waits."""


@dataclass(frozen=True)
class _Job:
    addresses: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    arrays: tuple[NDArray[Any], ...]
    count: int = 1

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def joins(self, other: _Job) -> bool:
        """Whether both can be written at once: what is small costs more to hand on than to write."""
        mine, others = ([(array.dtype, array.shape[1:]) for array in job.arrays] for job in (self, other))
        return mine == others


def _join(jobs: Sequence[_Job]) -> _Job:
    return _Job(
        [address for job in jobs for address in job.addresses],
        [size for job in jobs for size in job.sizes],
        tuple(np.concatenate(arrays) for arrays in zip(*(job.arrays for job in jobs), strict=True)),
        len(jobs),
    )


@dataclass(frozen=True)
class _Written:
    """Rows in a data file that its index does not name yet."""

    segment: OpenSegment
    rows: Sequence[tuple[Layout, NDArray[Any]]]
    nbytes: int
    jobs: int
    since: float


class SegmentWriter:
    """Appends rows to one segment; used as a context manager.

    Leaving the block commits everything that was appended. Where an exception leaves it, what was committed by then
    stays and the rest is dropped. What goes wrong in the background is raised by the next call, or on leaving.

    Attributes:
        open_segments: what is written: one segment, and full ones whose last rows are not committed yet.
    """

    def __init__(
        self,
        folder: Path,
        *,
        facts: Mapping[str, Any],
        half: bool,
        generations: Callable[[NDArray[np.uint64]], NDArray[np.uint16]],
        extents: Callable[[], Mapping[str, Extent]],
        committed: Callable[[str, int, int], None],
    ) -> None:
        """Nothing is written or made before rows are appended.

        Args:
            folder: where the segments of one kind lie.
            facts: what a segment says of itself.
            half: keep float32 arrays of a row as float16 where no value is beyond ±65504.
            generations: how many copies of the rows with these keys were damaged before.
            extents: what is known of the folder's segments.
            committed: called with segment and first and last byte of what this writer has committed to it.
        """
        self._folder, self._facts, self._half = folder, dict(facts), half
        self._generations, self._extents, self._note = generations, extents, committed
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._pending: deque[_Written] = deque()
        self._queued_bytes = self._pending_bytes = 0
        self._appended = self._committed = self._wanted = 0
        self._closing = self._dropping = self._all_written = False
        self._error: BaseException | None = None
        self.open_segments: list[OpenSegment] = []
        self._threads: list[threading.Thread] = []
        self._process = os.getpid()

    def append(
        self, addresses: Sequence[str], sizes: Sequence[tuple[int, int]], arrays: Sequence[NDArray[Any] | Tensor]
    ) -> None:
        """Hand over rows and return at once, unless 256 MB wait already.

        Args:
            addresses: [B] digests of the images.
            sizes: [B] height and width of the stored images.
            arrays: CPU arrays [B, ...], which nobody may change before they are written.

        Raises:
            EvalfmError: the disk is full or cannot be written.
            ValueError: the arrays do not have a row for each address.
        """
        if os.getpid() != self._process:
            raise RuntimeError("a writer belongs to the process that opened it")
        values = tuple(array.detach().numpy() if isinstance(array, Tensor) else array for array in arrays)
        counts = {len(addresses), len(sizes), *map(len, values)}
        if len(counts) != 1:
            raise ValueError(f"{len(addresses)} addresses, {len(sizes)} sizes and arrays of {counts} rows")
        if not addresses:
            return
        job = _Job(tuple(addresses), tuple(sizes), values)
        with self._changed:
            while self._error is None and self._queue and self._queued_bytes + job.nbytes > QUEUE_BYTES:
                self._changed.wait()
            self._raise()
            self._queue.append(job)
            self._queued_bytes += job.nbytes
            self._appended += 1
            self._changed.notify_all()
        if not self._threads:
            for work in (self._write, self._commit):
                thread = threading.Thread(target=work, name=f"evalfm-store-{work.__name__}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def flush(self) -> None:
        """Wait until everything that was appended is committed: on the disk, and there for every reader.

        Raises:
            EvalfmError: the disk is full or cannot be written.
        """
        with self._changed:
            self._wanted = self._appended
            self._changed.notify_all()
            while self._error is None and self._committed < self._wanted:
                self._changed.wait()
            self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closing, self._dropping = True, self._dropping or kind is not None
            self._changed.notify_all()
        # The threads finish by themselves, also where somebody does not wait for them.
        for thread in self._threads:
            thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OSError):
            raise cannot_write(self._folder, self._error) from self._error
        raise self._error

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    # In the writing thread

    def _write(self) -> None:
        try:
            with ThreadPoolExecutor(1, "evalfm-store-checksums") as checksums:
                while (job := self._next()) is not None:
                    written = self._put(job, checksums)
                    with self._changed:
                        self._pending.append(written)
                        self._pending_bytes += written.nbytes
                        self._changed.notify_all()
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._all_written = True
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            while True:
                if self._error is not None or self._dropping or (self._closing and not self._queue):
                    return None
                if self._queue and self._pending_bytes < AHEAD_BYTES:
                    break
                self._changed.wait()
            jobs = [self._queue.popleft()]
            nbytes = jobs[0].nbytes
            while self._queue and self._queue[0].joins(jobs[0]) and nbytes + self._queue[0].nbytes <= TOGETHER_BYTES:
                jobs.append(self._queue.popleft())
                nbytes += jobs[-1].nbytes
            self._queued_bytes -= nbytes
            self._changed.notify_all()
        return _join(jobs) if len(jobs) > 1 else jobs[0]

    def _put(self, job: _Job, checksums: Executor) -> _Written:
        if not self.open_segments or self.open_segments[-1].end >= segments.SEGMENT_BYTES:
            opened = open_segment(self._folder, self._facts, self._extents())
            with self._changed:
                self.open_segments.append(opened)
        segment, keys = self.open_segments[-1], keys_of(job.addresses)
        entries = np.zeros(len(keys), ENTRY)
        entries["address"], entries["generation"] = keys, self._generations(keys)
        entries["height"], entries["width"] = np.array(job.sizes, np.uint32).T
        since, before = time.monotonic(), segment.end
        rows = [
            (layout, _append(segment, entries[which], arrays, checksums))
            for which, layout, arrays in _uniform(job, self._half)
        ]
        return _Written(segment, rows, segment.end - before, job.count, since)

    # In the committing thread

    def _commit(self) -> None:
        try:
            while written := self._due():
                self._commit_all(written)
                with self._changed:
                    self._committed += sum(each.jobs for each in written)
                    self._pending_bytes -= sum(each.nbytes for each in written)
                    self._changed.notify_all()
            if self._error is None and not self._dropping:
                for segment in self.open_segments:
                    segment.close()
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                while not self._all_written:
                    self._changed.wait()
            for segment in self.open_segments:
                segment.abandon()

    def _due(self) -> list[_Written]:
        """Rows to commit now; none when there will be no more."""
        with self._changed:
            while self._error is None and not self._dropping:
                if self._pending:
                    left = self._pending[0].since + COMMIT_SECONDS - time.monotonic()
                    hurry = self._all_written or self._committed < self._wanted
                    if hurry or left <= 0 or self._pending_bytes >= COMMIT_BYTES:
                        written = list(self._pending)
                        self._pending.clear()
                        return written
                    self._changed.wait(left)
                elif self._all_written:
                    return []
                else:
                    self._changed.wait()
            return []

    def _commit_all(self, written: Sequence[_Written]) -> None:
        for segment in dict.fromkeys(each.segment for each in written):
            rows: dict[Layout, list[NDArray[Any]]] = {}
            for each in written:
                if each.segment is segment:
                    for layout, entries in each.rows:
                        rows.setdefault(layout, []).append(entries)
            segment.commit({layout: np.concatenate(entries) for layout, entries in rows.items()})
            self._note(segment.name, segment.start, segment.committed)
        self._close_full()

    def _close_full(self) -> None:
        """Let go of segments that got their last rows and have a successor."""
        with self._changed:
            waiting = {each.segment for each in self._pending}
            full = [segment for segment in self.open_segments[:-1] if segment not in waiting]
            self.open_segments = [segment for segment in self.open_segments if segment not in full]
        for segment in full:
            segment.close()


def cannot_write(folder: Path, error: OSError) -> EvalfmError:
    """What to do where ``folder`` cannot be written."""
    return EvalfmError(
        f"The feature store {folder} cannot be written ({error.strerror}); free space there, "
        "put the store on another disk, or compute maps on the fly with --maps stream."
    )


def _uniform(job: _Job, half: bool) -> Iterator[tuple[NDArray[np.intp], Layout, list[NDArray[Any]]]]:
    """The rows of ``job`` by layout: which, the layout, and their arrays as they are stored."""
    count = len(job.addresses)
    narrow = np.zeros((count, len(job.arrays)), bool)
    if half:
        for number, array in enumerate(job.arrays):
            if array.dtype == np.float32:
                flat = array.reshape(count, -1)
                narrow[:, number] = np.maximum(flat.max(axis=1), -flat.min(axis=1)) <= LARGEST_HALF
    patterns = narrow[:1] if (narrow == narrow[0]).all() else np.unique(narrow, axis=0)
    for pattern in patterns:
        which = np.flatnonzero((narrow == pattern).all(axis=1))
        parts = job.arrays if len(which) == count else [array[which] for array in job.arrays]
        arrays = [
            np.ascontiguousarray(part, dtype=np.float16 if fits else part.dtype)
            for part, fits in zip(parts, pattern, strict=True)
        ]
        layout = tuple(ArrayLayout(array.shape[1:], array.dtype.str) for array in arrays)
        yield which, layout, arrays


def _append(
    segment: OpenSegment, entries: NDArray[Any], arrays: Sequence[NDArray[Any]], checksums: Executor
) -> NDArray[Any]:
    """Write rows of one layout while their checksums are computed; their entries with both."""
    count = len(entries)
    flat = [raw(array) for array in arrays]
    lengths = [view.nbytes // count for view in flat]
    rows = [] if len(flat) == 1 else [_row(flat, lengths, number) for number in range(count)]
    # Of small rows the interpreter is kept for itself, and a thread beside only waits for it.
    large = sum(lengths) >= THREADED_BYTES
    beside = checksums.submit(_checksums, flat, lengths, rows) if large else None
    crc32 = [] if large else _checksums(flat, lengths, rows)
    first = segment.append([view for row in rows for view in row] or flat)
    entries["offset"] = first + np.arange(count) * sum(lengths)
    entries["crc32"] = crc32 if beside is None else beside.result()
    return entries


def _row(flat: Sequence[memoryview], lengths: Sequence[int], number: int) -> list[memoryview]:
    return [view[number * length : (number + 1) * length] for view, length in zip(flat, lengths, strict=True)]


def _checksums(flat: Sequence[memoryview], lengths: Sequence[int], rows: Sequence[list[memoryview]]) -> list[int]:
    """Checksum of each row; ``rows`` are none where a row is one array."""
    if not rows:
        return [zlib.crc32(flat[0][at : at + lengths[0]]) for at in range(0, flat[0].nbytes, lengths[0])]
    return [functools.reduce(lambda crc32, view: zlib.crc32(view, crc32), row, 0) for row in rows]
