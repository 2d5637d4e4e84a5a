"""A segment that is written: created, or taken over from a writer that has left, committed block by block.

The data file grows first; once it is flushed, the index says which rows it holds. A kill at any point leaves whole
blocks and perhaps a tail that nobody reads and the next writer cuts off. The lock file is held as long as a segment is
written; a segment is taken over only where the lock says that its writer is gone.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evalfm.data.work_folders import WRITING, flush_folder, machine
from evalfm.features.disk import FileLock, flush_file, names_in, open_file, write_at
from evalfm.features.segment_format import (
    Block,
    BlockKind,
    Damage,
    IndexReader,
    Layout,
    end_block,
    facts_block,
    facts_text,
    record_bytes,
    rows_blocks,
    void_block,
)

SEGMENT_BYTES = 2_000_000_000
"""Bytes from which on a segment gets no more rows."""
DATA, INDEX, LOCK = ".data", ".index", ".lock"


@dataclass(frozen=True)
class Extent:
    """How far the whole blocks of a segment reach.

    Attributes:
        index, data: bytes of the two files that are committed.
        machine: of the last writer.
        ended: whether that has left in good order.
        facts: what the first block says, None where it is damaged.
    """

    index: int = 0
    data: int = 0
    machine: str = ""
    ended: bool = False
    facts: str | None = None

    def after(self, block: Block | Damage) -> Extent:
        """The extent with one more block."""
        if isinstance(block, Damage):
            return Extent(block.stop, self.data, self.machine, self.ended, self.facts)
        data = self.data
        if block.kind == BlockKind.ROWS and len(block.entries):
            data = max(data, int(block.entries["offset"].max()) + record_bytes(block.layout))
        facts = block.text if block.kind == BlockKind.FACTS else self.facts
        writer, ended = (
            (self.machine, self.ended) if block.kind == BlockKind.VOID else (block.machine, block.kind == BlockKind.END)
        )
        return Extent(block.stop, data, writer, ended, facts)


class OpenSegment:
    """A segment this process writes; it holds the lock until ``close`` or ``abandon``.

    Attributes:
        name: without suffix.
        start: bytes of data that were there before.
        end: bytes of data that are written, committed or not.
        committed: bytes of data that the index names.
    """

    def __init__(self, folder: Path, name: str, lock: FileLock | None, extent: Extent) -> None:
        self.name = name
        self.start = self.end = self.committed = extent.data
        self._folder, self._lock = folder, lock
        self._index_end = self._index_committed = extent.index
        self._new = extent.data == 0
        self._process = os.getpid()
        self._data = self._index = -1
        try:
            self._data = open_file(folder / f"{name}{DATA}", write=True)
            self._index = open_file(folder / f"{name}{INDEX}", write=True)
        except BaseException:
            self._let_go()
            raise

    def append(self, views: Sequence[memoryview]) -> int:
        """Write bytes behind the others; where they begin. Nobody reads them before ``commit``."""
        offset = self.end
        write_at(self._data, views, offset)
        self.end = offset + sum(view.nbytes for view in views)
        return offset

    def commit(self, rows: Mapping[Layout, NDArray[Any]]) -> None:
        """Flush what was written and append the entries of ``rows`` to the index."""
        reached = max(int(entries["offset"].max()) + record_bytes(layout) for layout, entries in rows.items())
        flush_file(self._data)
        self._append_to_index(b"".join(rows_blocks(layout, entries, machine()) for layout, entries in rows.items()))
        self.committed = max(self.committed, reached)

    def _append_to_index(self, content: bytes) -> None:
        write_at(self._index, [memoryview(content)], self._index_end)
        flush_file(self._index)
        self._index_end += len(content)
        self._index_committed = self._index_end

    def close(self) -> None:
        """Say in the index that all is in order, and let go."""
        if self._data < 0 or os.getpid() != self._process:
            return
        try:
            if self.committed > self.start:
                self._append_to_index(end_block(machine()))
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Let go of what is not committed and give its bytes back to the disk."""
        if self._data < 0 or os.getpid() != self._process:
            return
        try:
            # What fails here is cut off by the next writer.
            with contextlib.suppress(OSError):
                os.ftruncate(self._index, self._index_committed)
                os.ftruncate(self._data, self.committed)
            if self._new and self.committed == 0:
                self._close_files()
                _remove(self._folder, self.name)
        finally:
            self._let_go()

    def _close_files(self) -> None:
        for file in (self._data, self._index):
            if file >= 0:
                os.close(file)
        self._data = self._index = -1

    def _let_go(self) -> None:
        self._close_files()
        if self._lock is not None:
            self._lock.release()


def open_segment(folder: Path, facts: dict[str, Any], extents: Mapping[str, Extent]) -> OpenSegment:
    """Take over a segment of ``folder`` that nobody writes and that has room, or create one.

    Args:
        folder: where segments of one kind lie; it is made where it is not there.
        facts: what a segment holds and what writes it; segments of other facts are left alone.
        extents: what is known of segments already, so that they are read from there on.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_orphans(folder)
    wanted = facts_text(facts)
    for name in sorted(segment_names(folder)):
        with contextlib.suppress(FileNotFoundError):
            if (folder / f"{name}{DATA}").stat().st_size >= SEGMENT_BYTES:
                continue
            segment = _take_over(folder, name, wanted, extents.get(name, Extent()))
            if segment is not None:
                return segment
    return _create(folder, facts)


def segment_names(folder: Path, *, fresh: bool = False) -> list[str]:
    """Names of the published segments of ``folder``; none where it is not there. ``fresh`` as ``names_in``."""
    names = names_in(folder, fresh=fresh)
    return [name.removesuffix(INDEX) for name in names if name.endswith(INDEX) and not name.startswith(WRITING)]


def void_damage(folder: Path, name: str, damages: Sequence[Damage]) -> None:
    """Mark damaged parts of an index as such, unless its writer is at work or the folder cannot be written."""
    with contextlib.suppress(OSError), _locked(folder, name) as lock:
        if lock is None:
            return
        file = open_file(folder / f"{name}{INDEX}", write=True)
        try:
            for damage in damages:
                write_at(file, [memoryview(void_block(damage, machine()))], damage.start)
            flush_file(file)
        finally:
            os.close(file)


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[FileLock | None]:
    lock = FileLock.take(folder / f"{name}{LOCK}")
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def _take_over(folder: Path, name: str, wanted: str, extent: Extent) -> OpenSegment | None:
    try:
        lock = FileLock.take(folder / f"{name}{LOCK}")
    except OSError:
        # Without locks nobody knows whether its writer is at work.
        return None
    if lock is None:
        return None
    kept = False
    try:
        reader = IndexReader(folder / f"{name}{INDEX}", extent.index)
        for block in reader.read():
            extent = extent.after(block)
        if extent.facts != wanted:
            return None
        # The lock of another machine may not reach this one.
        if extent.machine != machine() and not extent.ended:
            return None
        data, index = folder / f"{name}{DATA}", folder / f"{name}{INDEX}"
        if data.stat().st_size < extent.data:
            return None
        _cut(index, extent.index)
        _cut(data, extent.data)
        segment = OpenSegment(folder, name, lock, extent)
        kept = True
        return segment
    finally:
        if not kept:
            lock.release()


def _cut(path: Path, size: int) -> None:
    """Cut off what was written and never committed."""
    if path.stat().st_size > size:
        os.truncate(path, size)


def _create(folder: Path, facts: dict[str, Any]) -> OpenSegment:
    """A new segment: the lock first, then the data, and the index by an atomic rename."""
    name, lock = _new_lock(folder)
    if lock is None:
        facts = facts | {"lock": None}
    temporary, index = folder / f"{WRITING}{name}{INDEX}", folder / f"{name}{INDEX}"
    try:
        os.close(open_file(folder / f"{name}{DATA}", new=True))
        content = facts_block(facts, machine())
        file = open_file(temporary, new=True)
        try:
            write_at(file, [memoryview(content)], 0)
            flush_file(file)
        finally:
            os.close(file)
        os.rename(temporary, index)
        flush_folder(folder)
        return OpenSegment(folder, name, lock, Extent(len(content)))
    except BaseException:
        _remove(folder, name)
        if lock is not None:
            lock.release()
        raise


def _new_lock(folder: Path) -> tuple[str, FileLock | None]:
    """A new name and its lock; None where the file system knows none, and then nobody takes the segment over."""
    while True:
        name = uuid.uuid4().hex
        path = folder / f"{name}{LOCK}"
        try:
            lock = FileLock.take(path, new=True)
        except OSError:
            if not path.exists():
                raise
            path.unlink()
            return name, None
        # Whoever tidies up may have been faster, and removes the file.
        if lock is not None:
            return name, lock


def _remove_orphans(folder: Path) -> None:
    """Remove what writers left that died before their segment was published."""
    published = set(segment_names(folder))
    for path in folder.glob(f"*{LOCK}"):
        name = path.name.removesuffix(LOCK)
        if name in published:
            continue
        with contextlib.suppress(OSError), _locked(folder, name) as lock:
            if lock is not None and not (folder / f"{name}{INDEX}").exists():
                _remove(folder, name)


def _remove(folder: Path, name: str) -> None:
    """Remove the files of a segment, its lock last."""
    for file in (f"{WRITING}{name}{INDEX}", f"{name}{INDEX}", f"{name}{DATA}", f"{name}{LOCK}"):
        with contextlib.suppress(OSError):
            os.unlink(folder / file)
