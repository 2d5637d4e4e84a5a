"""Rows of stored arrays: where each lies, by a table in memory, and their bytes read and checked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.features.disk import open_file, raw, read_at
from evalfm.features.segment_format import ENTRY, Layout, record_bytes

UNCHECKED, CHECKED, DAMAGED, GONE = range(4)
"""States of a row: of ours or read and as it was written, read and not as it was written, and removed."""


class RowIndex:
    """Rows by address; of two of the same address the first counts, unless the second mends it.

    New rows are sorted by themselves and merged with earlier ones of the same number, so that adding a few to a
    million costs little. Not for several threads at once.

    >>> index, entries = RowIndex(), np.zeros(2, ENTRY)
    >>> entries["address"][:, 0] = [7, 5]
    >>> index.add(entries)
    >>> index.find(np.array([[5, 0, 0, 0], [6, 0, 0, 0]], np.uint64))
    array([ 1, -1])
    """

    def __init__(self) -> None:
        self._table = np.zeros(0, ENTRY)
        self._count = 0
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = []

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> NDArray[Any]:
        """All rows [N] of dtype ``ENTRY``, by the number that ``find`` gives; a view, whose state may be set."""
        return self._table[: self._count]

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more rows at once."""
        if self._count + count > len(self._table):
            table = np.zeros(self._count + count, ENTRY)
            table[: self._count] = self.rows
            self._table = table

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Number of the row of each key [N, 4], -1 where there is none."""
        found = np.full(len(keys), -1, np.intp)
        prefixes = np.ascontiguousarray(keys[:, 0])
        for sorted_prefixes, numbers in self._runs:
            last = len(sorted_prefixes) - 1
            at = np.searchsorted(sorted_prefixes, prefixes)
            open_ = np.flatnonzero(found < 0)
            while True:
                inside = open_[at[open_] <= last]
                open_ = inside[sorted_prefixes[at[inside]] == prefixes[inside]]
                if not len(open_):
                    break
                candidates = numbers[at[open_]]
                same = (self._table["address"][candidates] == keys[open_]).all(axis=1)
                found[open_[same]] = candidates[same]
                # Two addresses may begin with the same 64 bits.
                open_ = open_[~same]
                at[open_] += 1
        return found

    def add(self, entries: NDArray[Any]) -> None:
        """Add rows; one that is known stays as it is, unless it is damaged or gone or of an earlier generation."""
        entries = _first_of_each(entries)
        known = self.find(entries["address"])
        old = np.flatnonzero(known >= 0)
        if len(old):
            ours, theirs = self._table[known[old]], entries[old]
            better = (theirs["generation"] > ours["generation"]) | (
                (ours["state"] >= DAMAGED) & (theirs["generation"] >= ours["generation"])
            )
            self._table[known[old[better]]] = theirs[better]
            entries = entries[known < 0]
        if not len(entries):
            return
        if self._count + len(entries) > len(self._table):
            self.reserve(max(len(entries), self._count // 2))
        numbers = np.arange(self._count, self._count + len(entries), dtype=np.uint32)
        self._table[self._count : self._count + len(entries)] = entries
        self._count += len(entries)
        self._runs.append(_sorted(entries["address"][:, 0], numbers))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(np.concatenate([before[0], last[0]]), np.concatenate([before[1], last[1]])))


def _sorted(prefixes: NDArray[np.uint64], numbers: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    order = np.argsort(prefixes, kind="stable")
    return prefixes[order], numbers[order]


def _first_of_each(entries: NDArray[Any]) -> NDArray[Any]:
    """``entries`` in order without those of an address that comes earlier, or later in a higher generation."""
    prefixes = np.sort(entries["address"][:, 0])
    if (prefixes[1:] != prefixes[:-1]).all():
        return entries
    address = entries["address"]
    # The generation is negated: higher ones come first.
    order = np.lexsort((-entries["generation"].astype(np.int64), *address.T[::-1]))
    ordered = address[order]
    again = np.zeros(len(entries), bool)
    again[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return entries[~again]


SMALL_BYTES = 64 << 10
"""Records below are read by the span and copied row by row, larger ones each straight to its place."""
SPAN_BYTES = 8 << 20
THREADS = 4
THREADED_BYTES = 16 << 20
"""Reads below are done before threads have started."""


@dataclass(frozen=True)
class Records:
    """Rows of one segment and layout, in the order of the file.

    Attributes:
        path: of the data.
        layout: of each row.
        offsets: [N] where they begin.
        crc32: [N] of their bytes.
        check: [N] whether the checksum is looked at.
        places: [N] number of each row in the arrays they are read into.
    """

    path: Path
    layout: Layout
    offsets: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    check: NDArray[np.bool_]
    places: NDArray[np.intp]

    def part(self, first: int, last: int) -> Records:
        """Rows ``first`` to ``last``, without that."""
        some = slice(first, last)
        return Records(
            self.path, self.layout, self.offsets[some], self.crc32[some], self.check[some], self.places[some]
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all records."""
        return len(self.offsets) * record_bytes(self.layout)


def read_records(groups: Sequence[Records], arrays: Sequence[NDArray[np.generic]]) -> list[NDArray[np.bool_]]:
    """Read ``groups`` into ``arrays`` [rows, ...]; which rows are whole and, where looked at, as they were written.

    Arrays may be wider than what is stored (float32 for float16). A file that is gone has no whole rows.

    Raises:
        OSError: the disk cannot be read.
    """
    whole = [np.zeros(len(group.offsets), bool) for group in groups]
    tasks: list[Callable[[], None]] = []
    files: list[int] = []
    try:
        for group, mask in zip(groups, whole, strict=True):
            try:
                file = open_file(group.path)
            except FileNotFoundError:
                continue
            files.append(file)
            for first, last in _spans(group):
                tasks.append(_Task(file, group.part(first, last), arrays, mask[first:last]))
        large = sum(group.nbytes for group in groups) >= THREADED_BYTES
        threads = min(THREADS, os.cpu_count() or 1, len(tasks)) if large else 1
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(task) for task in tasks]:
                    done.result()
        else:
            for task in tasks:
                task()
    finally:
        for file in files:
            os.close(file)
    return whole


def _spans(group: Records) -> Iterator[tuple[int, int]]:
    """Runs of rows that lie one behind the other, cut to a size that threads share."""
    length = record_bytes(group.layout)
    most = max(1, SPAN_BYTES // max(1, length))
    ends = np.flatnonzero(np.diff(group.offsets) != length) + 1
    for start, stop in pairwise([0, *ends.tolist(), len(group.offsets)]):
        for first in range(start, stop, most):
            yield first, min(stop, first + most)


@dataclass(frozen=True)
class _Task:
    """Reads neighbours: ``records`` lie one behind the other."""

    file: int
    records: Records
    arrays: Sequence[NDArray[np.generic]]
    whole: NDArray[np.bool_]

    def __call__(self) -> None:
        records, length = self.records, record_bytes(self.records.layout)
        stored = [np.dtype(array.dtype) for array in records.layout]
        same = all(dtype == array.dtype for dtype, array in zip(stored, self.arrays, strict=True))
        if same and (length >= SMALL_BYTES or (len(stored) == 1 and (np.diff(records.places) == 1).all())):
            self._straight()
        else:
            self._through_memory(length)

    def _straight(self) -> None:
        """Into the arrays themselves."""
        places, offset = self.records.places, int(self.records.offsets[0])
        if len(self.arrays) == 1 and (np.diff(places) == 1).all():
            block = raw(self.arrays[0][places[0] : places[-1] + 1])
            length = block.nbytes // len(places)
            whole = read_at(self.file, [block], offset)
            rows = [] if whole else [[block[at : at + length]] for at in range(0, block.nbytes, length)]
            if whole:
                self._check_block(block, length)
        else:
            rows = [[raw(array[place, ...]) for array in self.arrays] for place in places]
            whole = read_at(self.file, [view for row in rows for view in row], offset)
        for number, row in enumerate(rows):
            # Where the file ends too early, row by row, to know which are there.
            there = whole or read_at(self.file, row, int(self.records.offsets[number]))
            self.whole[number] = there and self._is_good(number, row)

    def _check_block(self, block: memoryview, length: int) -> None:
        """The first rows of the task, which lie one behind the other in ``block``."""
        count = block.nbytes // length
        self.whole[:count] = True
        for number in np.flatnonzero(self.records.check[:count]).tolist():
            crc32 = zlib.crc32(block[number * length : (number + 1) * length])
            self.whole[number] = crc32 == self.records.crc32[number]

    def _through_memory(self, length: int) -> None:
        """Into memory first, then row by row and as another dtype into the arrays."""
        count = len(self.records.offsets)
        content = np.empty((count, length), np.uint8)
        there = count
        if not read_at(self.file, [raw(content)], int(self.records.offsets[0])):
            size = os.fstat(self.file).st_size - int(self.records.offsets[0])
            there = max(0, min(count, size // length))
        if there:
            _Task(self.file, self.records.part(0, there), (), self.whole[:there])._check_block(
                raw(content[:there]), length
            )
        first = 0
        for array, layout in zip(self.arrays, self.records.layout, strict=True):
            stop = first + layout.nbytes
            part = np.ascontiguousarray(content[:there, first:stop]).view(layout.dtype)
            array[self.records.places[:there]] = part.reshape(there, *layout.shape)
            first = stop

    def _is_good(self, number: int, views: Sequence[memoryview]) -> bool:
        if not self.records.check[number]:
            return True
        crc32 = 0
        for view in views:
            crc32 = zlib.crc32(view, crc32)
        return crc32 == int(self.records.crc32[number])
