"""Rows appended to a segment in the background: written, checksummed and flushed while the next are computed."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from evalfm.features.packing import LARGEST_HALF
from evalfm.features.segment import Extent, OpenSegment, open_segment
from evalfm.features.segment_format import ENTRY, ArrayLayout, Layout, keys_of

COMMIT_BYTES, COMMIT_SECONDS = 256_000_000, 5.0
"""Written bytes, and age of the oldest of them, at which rows are committed: what a kill may cost."""
QUEUE_BYTES = 256_000_000
"""Bytes that wait to be written before ``append`` waits."""
AHEAD_BYTES = 1_000_000_000
"""Bytes that are written and wait to be flushed before writing waits."""


@dataclass(frozen=True)
class _Job:
    addresses: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    arrays: tuple[NDArray[Any], ...]
    release: Callable[[], None] | None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class _Written:
    """Rows in a data file that its index does not name yet."""

    segment: OpenSegment
    rows: Sequence[tuple[Layout, NDArray[Any]]]
    nbytes: int
    since: float


class SegmentWriter:
    """Appends rows to one segment; used as a context manager.

    Leaving the block commits everything that was appended. Where an exception leaves it, what was committed by then
    stays and the rest is dropped. What goes wrong in the background is raised by the next call, or on leaving.
    """

    def __init__(
        self,
        folder: Path,
        *,
        facts: Mapping[str, Any],
        half: bool = False,
        generations: Callable[[NDArray[np.uint64]], NDArray[np.uint16]] | None = None,
        extents: Callable[[], Mapping[str, Extent]] = dict,
        committed: Callable[[str, int, int], None] = lambda name, first, last: None,
    ) -> None:
        """Nothing is written or made before rows are appended.

        Args:
            folder: where the segments of one kind lie.
            facts: what a segment says of itself.
            half: keep float32 arrays of a row as float16 where no value is beyond ±65504.
            generations: how many copies of the rows with these keys were damaged before.
            extents: what is known of the folder's segments.
            committed: called with segment, first and last byte before they are committed.
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
        self._current: OpenSegment | None = None
        self._threads: list[threading.Thread] = []
        self._process = os.getpid()

    def append(
        self,
        addresses: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        arrays: Sequence[NDArray[Any] | Tensor],
        *,
        release: Callable[[], None] | None = None,
    ) -> None:
        """Hand over rows and return at once, unless 256 MB wait already.

        Args:
            addresses: [B] digests of the images.
            sizes: [B] height and width of the stored images.
            arrays: CPU arrays [B, ...], which nobody may change before they are written.
            release: called in another thread as soon as they may be changed again.

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
        job = _Job(tuple(addresses), tuple(sizes), values, release)
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
        for thread in self._threads:
            thread.join()
        try:
            if self._current is not None and self._error is None and not self._dropping:
                self._current.close()
        except OSError as failure:
            raise cannot_write(self._folder, failure) from failure
        finally:
            if self._current is not None:
                self._current.abandon()
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
            while (job := self._next()) is not None:
                written = self._put(job)
                if job.release is not None:
                    job.release()
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
                    job = self._queue.popleft()
                    self._queued_bytes -= job.nbytes
                    self._changed.notify_all()
                    return job
                self._changed.wait()

    def _put(self, job: _Job) -> _Written:
        # The committing thread closes a full segment after its last rows.
        if self._current is None or self._current.end >= segments.SEGMENT_BYTES:
            opened = open_segment(self._folder, self._facts, self._extents())
            with self._changed:
                self._current = opened
        segment, keys = self._current, keys_of(job.addresses)
        generations = 0 if self._generations is None else self._generations(keys)
        entries = np.zeros(len(keys), ENTRY)
        entries["address"], entries["generation"] = keys, generations
        entries["height"], entries["width"] = np.array(job.sizes, np.uint32).T
        since, before = time.monotonic(), segment.end
        rows = [
            (layout, _append(segment, entries[which], arrays)) for which, layout, arrays in _uniform(job, self._half)
        ]
        return _Written(segment, rows, segment.end - before, since)

    # In the committing thread

    def _commit(self) -> None:
        try:
            while written := self._due():
                self._commit_all(written)
                with self._changed:
                    self._committed += len(written)
                    self._pending_bytes -= sum(each.nbytes for each in written)
                    self._changed.notify_all()
        except BaseException as error:
            self._fail(error)

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
            self._note(segment.name, segment.start, segment.end)
            segment.commit({layout: np.concatenate(entries) for layout, entries in rows.items()})
            if segment is not self._current:
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
    for pattern in np.unique(narrow, axis=0):
        which = np.flatnonzero((narrow == pattern).all(axis=1))
        parts = job.arrays if len(which) == count else [array[which] for array in job.arrays]
        arrays = [
            np.ascontiguousarray(part, dtype=np.float16 if fits else part.dtype)
            for part, fits in zip(parts, pattern, strict=True)
        ]
        layout = tuple(ArrayLayout(array.shape[1:], array.dtype.str) for array in arrays)
        yield which, layout, arrays


def _append(segment: OpenSegment, entries: NDArray[Any], arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Write rows of one layout; their entries with place and checksum."""
    count = len(entries)
    flat = [array.reshape(count, -1).view(np.uint8) for array in arrays]
    rows = [[raw(each[number]) for each in flat] for number in range(count)]
    checksums = []
    for row in rows:
        crc32 = 0
        for view in row:
            crc32 = zlib.crc32(view, crc32)
        checksums.append(crc32)
    views = [raw(flat[0])] if len(flat) == 1 else [view for row in rows for view in row]
    first = segment.append(views)
    entries["offset"] = first + np.arange(count) * sum(each.shape[1] for each in flat)
    entries["crc32"] = checksums
    return entries
