"""Rows of arrays of one kind, spread over the segments of a folder and addressed by the image's digest."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.features.disk import status_of
from evalfm.features.rows import CHECKED, DAMAGED, GONE, Records, RowIndex, read_records
from evalfm.features.segment import DATA, INDEX, Extent, segment_names, void_damage
from evalfm.features.segment_format import (
    LINE,
    ArrayLayout,
    Block,
    BlockKind,
    Damage,
    IndexReader,
    Layout,
    keys_of,
)
from evalfm.features.segment_writer import SegmentWriter

SECOND_LOOK_SECONDS = 0.05
"""What looks damaged may be half written where a file system shows later bytes first."""


class MissingRowsError(KeyError):
    """Rows that are not stored, or were damaged when they were read.

    Attributes:
        addresses: which they are.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(f"{len(addresses)} rows are not stored, {addresses[0]} among them")
        self.addresses = tuple(addresses)


@dataclass
class _Segment:
    """What is known of a segment."""

    name: str
    extent: Extent
    inode: int


class FeatureArrays:
    """Rows of one kind; each is a tuple of arrays found by its address. Safe for several threads.

    >>> import tempfile
    >>> rows = FeatureArrays(Path(tempfile.mkdtemp()) / "pooled")
    >>> with rows.writer() as writer:
    ...     writer.append(["one", "two"], [(8, 8), (9, 9)], [torch.arange(6.0).reshape(2, 3)])
    >>> rows.missing(["two", "three"]), rows.size("two")
    (['three'], (9, 9))
    >>> rows.read(["two"])
    (tensor([[3., 4., 5.]]),)
    """

    def __init__(self, folder: Path, *, half: bool = False, facts: dict[str, Any] | None = None) -> None:
        """Nothing is read or made yet.

        Args:
            folder: where the segments lie.
            half: keep float32 arrays of a row as float16 where none of its values is beyond ±65504.
            facts: what a segment says of itself; a writer goes on with segments of the same facts alone.
        """
        self.folder = Path(folder)
        self._half = half
        self._facts = facts or {}
        self._guard = threading.RLock()
        self._index = RowIndex()
        self._segments: list[_Segment] = []
        self._numbers: dict[str, int] = {}
        self._layouts: list[Layout] = []
        self._layout_numbers: dict[str, int] = {}
        self._own: dict[str, list[tuple[int, int]]] = {}

    def missing(self, addresses: Sequence[str], *, fresh: bool = False) -> list[str]:
        """Those of ``addresses`` that are not stored, each once, in order.

        Rows that another process has committed since are there; on a network file system at once where ``fresh`` asks
        for that, which costs it a few calls. Nothing but the index is read: a row that is damaged is missing once
        ``read`` has met it.
        """
        unique = list(dict.fromkeys(addresses))
        absent = self._find(unique, fresh=fresh) < 0
        return [unique[number] for number in np.flatnonzero(absent).tolist()]

    def size(self, address: str) -> tuple[int, int] | None:
        """Height and width of the stored image, or None where the row was not stored at the last look."""
        with self._guard:
            number = int(self._numbers_of(keys_of([address]))[0])
            if number < 0:
                return None
            row = self._index.rows[number]
            return int(row["height"]), int(row["width"])

    def any(self) -> bool:
        """Whether a row is stored; of a large index the beginning is read."""
        for name in segment_names(self.folder):
            with contextlib.suppress(FileNotFoundError):
                for block in IndexReader(self.folder / f"{name}{INDEX}").read():
                    if isinstance(block, Block) and len(block.entries):
                        return True
        return False

    def layout(self, addresses: Sequence[str]) -> Layout:
        """Shape and dtype of each array that ``read`` of ``addresses`` gives, for whoever brings the memory.

        Raises:
            MissingRowsError: a row is not stored.
            ValueError: the rows are of several shapes, or of several dtypes other than float16 and float32.
        """
        _, rows = self._rows_of(addresses)
        return _common([self._layouts[number] for number in np.unique(rows["layout"])])

    def read(self, addresses: Sequence[str], out: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Rows in the order of ``addresses``: one tensor [N, ...] an array of the row, in the dtype it is stored in.

        An array is float32 if it is float16 in some rows and float32 in others. Each row is held against its
        checksum the first time this process reads it, unless this process has written it.

        Args:
            addresses: which rows; one may come twice.
            out: contiguous CPU tensors [N, ...] to read into, pinned for instance; of ``layout``, or wider.

        Raises:
            MissingRowsError: rows are not stored, or are damaged: those are warned of, and missing from now on.
            ValueError: ``out`` does not hold the rows, or they do not fit one tensor; see ``layout``.
        """
        numbers, rows = self._rows_of(addresses)
        if not len(rows):
            return tuple(out or ())
        layout = _common([self._layouts[number] for number in np.unique(rows["layout"])])
        if out is None:
            out = [torch.from_numpy(np.empty((len(rows), *array.shape), array.dtype)) for array in layout]
        else:
            _check(out, len(rows), layout)
        self._fill(addresses, numbers, rows, [tensor.detach().numpy() for tensor in out])
        return tuple(out)

    def read_each(self, addresses: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """As ``read`` for rows of whatever shapes and dtypes: the arrays of each row by themselves.

        Raises:
            MissingRowsError: as ``read``.
        """
        _, rows = self._rows_of(addresses)
        result: list[tuple[Tensor, ...]] = [()] * len(rows)
        for number in np.unique(rows["layout"]):
            which = np.flatnonzero(rows["layout"] == number)
            tensors = self.read([addresses[each] for each in which.tolist()])
            for place, row in enumerate(which):
                result[row] = tuple(tensor[place] for tensor in tensors)
        return result

    def writer(self) -> SegmentWriter:
        """A writer of rows, to be used as a context manager; see ``SegmentWriter``."""
        return SegmentWriter(
            self.folder,
            facts=self._facts,
            half=self._half,
            generations=self._next_generations,
            extents=self._extents,
            committed=self._note_own,
        )

    # The index

    def _find(self, addresses: Sequence[str], *, fresh: bool = False) -> NDArray[np.intp]:
        """Number of each row in the index, -1 where it is not stored; looks again where one is not known."""
        if not addresses:
            return np.zeros(0, np.intp)
        keys = keys_of(addresses)
        with self._guard:
            numbers = self._numbers_of(keys)
            if (numbers < 0).any():
                self._look_again(fresh)
                numbers = self._numbers_of(keys)
            return numbers

    def _numbers_of(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        numbers = self._index.find(keys)
        known = np.flatnonzero(numbers >= 0)
        numbers[known[self._index.rows["state"][numbers[known]] >= DAMAGED]] = -1
        return numbers

    def _rows_of(self, addresses: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """Numbers and copies of the rows."""
        with self._guard:
            numbers = self._find(addresses)
            absent = np.flatnonzero(numbers < 0)
            if len(absent):
                raise MissingRowsError([addresses[number] for number in absent.tolist()])
            return numbers, self._index.rows[numbers]

    def _look_again(self, fresh: bool) -> None:
        """Learn what was committed or removed since the last look, by this process or another."""
        if fresh:
            # A network file system may hold for a minute that there is none, unless it shall be made.
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
        names = set(segment_names(self.folder, fresh=fresh))
        for number, segment in enumerate(self._segments):
            if segment.name in self._numbers and segment.name not in names:
                self._forget(number)
        for name in sorted(names):
            path = self.folder / f"{name}{INDEX}"
            try:
                found = status_of(path, fresh=fresh)
            except FileNotFoundError:
                continue
            number = self._numbers.get(name, -1)
            known = None if number < 0 else self._segments[number]
            if known is not None and (found.st_ino != known.inode or found.st_size < known.extent.index):
                self._forget(number)
                known = None
            if known is None:
                number, known = len(self._segments), _Segment(name, Extent(), found.st_ino)
                self._segments.append(known)
                self._numbers[name] = number
                self._index.reserve(found.st_size // LINE)
            if found.st_size > known.extent.index:
                self._read_tail(number)

    def _read_tail(self, number: int) -> None:
        segment, damages = self._segments[number], []
        path = self.folder / f"{segment.name}{INDEX}"
        try:
            reader = IndexReader(path, segment.extent.index)
            blocks = list(reader.read())
            if any(isinstance(block, Damage) for block in blocks):
                time.sleep(SECOND_LOOK_SECONDS)
                blocks = list(IndexReader(path, segment.extent.index).read())
        except FileNotFoundError:
            return
        entries = []
        for block in blocks:
            segment.extent = segment.extent.after(block)
            if isinstance(block, Damage):
                damages.append(block)
            elif block.kind == BlockKind.ROWS:
                entries.append(self._entries(number, block))
        if entries:
            self._index.add(np.concatenate(entries))
        if damages:
            _warn(f"the index of segment {segment.name}")
            void_damage(self.folder, segment.name, damages)

    def _entries(self, number: int, block: Block) -> NDArray[Any]:
        entries = block.entries
        if block.text not in self._layout_numbers:
            self._layout_numbers[block.text] = len(self._layouts)
            self._layouts.append(block.layout)
        entries["layout"] = self._layout_numbers[block.text]
        entries["segment"] = number
        for first, last in self._own.get(self._segments[number].name, ()):
            entries["state"][(entries["offset"] >= first) & (entries["offset"] < last)] = CHECKED
        return entries

    def _forget(self, number: int) -> None:
        """A segment was removed or replaced: its rows are not stored."""
        rows = self._index.rows
        rows["state"][rows["segment"] == number] = GONE
        self._numbers.pop(self._segments[number].name, None)

    # For the writer, whose threads call these

    def _next_generations(self, keys: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """How many copies of each row were damaged before the one that is about to be written."""
        with self._guard:
            numbers = self._index.find(keys)
            rows = self._index.rows
            known = numbers >= 0
            result = np.zeros(len(keys), np.uint16)
            result[known] = rows["generation"][numbers[known]] + (rows["state"][numbers[known]] == DAMAGED)
            return result

    def _extents(self) -> dict[str, Extent]:
        with self._guard:
            return {name: self._segments[number].extent for name, number in self._numbers.items()}

    def _note_own(self, name: str, first: int, last: int) -> None:
        with self._guard:
            kept = [(start, stop) for start, stop in self._own.get(name, ()) if start != first]
            self._own[name] = [*kept, (first, last)]

    # Reading

    def _fill(
        self,
        addresses: Sequence[str],
        numbers: NDArray[np.intp],
        rows: NDArray[Any],
        arrays: Sequence[NDArray[Any]],
    ) -> None:
        order = np.lexsort((rows["offset"], rows["layout"], rows["segment"]))
        ordered = rows[order]
        change = (np.diff(ordered["segment"]) != 0) | (np.diff(ordered["layout"]) != 0)
        parts = np.split(np.arange(len(rows)), np.flatnonzero(change) + 1)
        groups = [
            Records(
                path=self.folder / f"{self._segments[int(ordered['segment'][part[0]])].name}{DATA}",
                layout=self._layouts[int(ordered["layout"][part[0]])],
                offsets=ordered["offset"][part].astype(np.int64),
                crc32=ordered["crc32"][part],
                check=ordered["state"][part] != CHECKED,
                places=order[part],
            )
            for part in parts
        ]
        good = np.zeros(len(rows), bool)
        for group, whole in zip(groups, read_records(groups, arrays), strict=True):
            good[group.places] = whole
        if (rows["state"] != CHECKED).any() or not good.all():
            self._note_read(numbers, rows, good)
        if not good.all():
            names = sorted({self._segments[number].name for number in rows["segment"][~good].tolist()})
            _warn(f"{np.count_nonzero(~good)} rows of {', '.join(names)}")
            raise MissingRowsError([addresses[number] for number in np.flatnonzero(~good).tolist()])

    def _note_read(self, numbers: NDArray[np.intp], rows: NDArray[Any], good: NDArray[np.bool_]) -> None:
        """Remember which rows are as they were written, and which are not."""
        with self._guard:
            now = self._index.rows[numbers]
            # Another thread may have learnt of a better copy meanwhile.
            same = (now["offset"] == rows["offset"]) & (now["segment"] == rows["segment"]) & (now["state"] < DAMAGED)
            self._index.rows["state"][numbers[same]] = np.where(good, CHECKED, DAMAGED)[same]


def _common(layouts: Sequence[Layout]) -> Layout:
    """The layout that holds rows of all ``layouts``."""
    result = []
    for arrays in zip(*layouts, strict=True):
        shapes, dtypes = {array.shape for array in arrays}, {array.dtype for array in arrays}
        if len(shapes) > 1 or (len(dtypes) > 1 and dtypes != {"<f2", "<f4"}):
            raise ValueError(f"rows of shapes {sorted(shapes)} and dtypes {sorted(dtypes)} are not one tensor")
        result.append(ArrayLayout(arrays[0].shape, max(dtypes)))
    return tuple(result)


def _check(out: Sequence[Tensor], count: int, layout: Layout) -> None:
    """Refuse tensors that would not hold the rows as they are."""
    held = [(tuple(tensor.shape), np.dtype(str(tensor.dtype).removeprefix("torch."))) for tensor in out]
    wanted = [((count, *array.shape), np.dtype(array.dtype)) for array in layout]
    fits = len(held) == len(wanted) and all(
        have[0] == want[0] and (have[1] == want[1] or (have[1] == np.float32 and want[1] == np.float16))
        for have, want in zip(held, wanted, strict=False)
    )
    if not fits or not all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in out):
        raise ValueError(f"the rows are {wanted} and shall be read into {held}, which are to be contiguous CPU tensors")


def _warn(what: str) -> None:
    warnings.warn(f"Stored features are damaged ({what}) and are computed again.", stacklevel=4)
