"""Where each row lies, in memory: a table of 64 bytes a row and sorted prefixes of the addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.features.segment_format import ENTRY

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
