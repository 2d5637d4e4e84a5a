"""Files at the system's own level: bytes written and read at a position, flushed, and locks between processes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_VIEWS, MOST_BYTES = 512, 256 << 20
"""Buffers and bytes of one system call; systems allow 1,024 and 2 GB."""
BINARY = getattr(os, "O_BINARY", 0)
"""Windows translates the ends of lines otherwise."""
_PRIVATE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)

LOOK = ".look-"
"""Of files that are there for a moment."""

_held: set[str] = set()
_held_guard = threading.Lock()


def open_file(path: Path, *, write: bool = False, new: bool = False) -> int:
    """A descriptor of ``path``: for reading, for both, or of a new file.

    Raises:
        OSError: it cannot be opened.
    """
    mode = os.O_RDWR if write or new else os.O_RDONLY
    return os.open(path, mode | (os.O_CREAT | os.O_EXCL if new else 0) | BINARY | _PRIVATE, 0o666)


def names_in(folder: Path, *, fresh: bool = False) -> dict[str, int]:
    """Names in ``folder`` with the number (inode) of each file; none where it is not there.

    A network file system may show for a minute what was there before; ``fresh`` makes and removes a file, after which
    it must ask anew. Where that cannot be, names may be late.
    """
    if fresh:
        mark = folder / f"{LOOK}{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            os.close(open_file(mark, new=True))
            os.unlink(mark)
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.inode() for entry in entries}
    except FileNotFoundError:
        return {}


def status_of(path: Path, *, fresh: bool = False) -> os.stat_result:
    """Status of a file; ``fresh`` opens it, upon which a network file system asks anew.

    Raises:
        OSError: the file is not there.
    """
    if not fresh:
        return path.stat()
    file = open_file(path)
    try:
        return os.fstat(file)
    finally:
        os.close(file)


def raw(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, in place."""
    return array.reshape(-1).view(np.uint8).data


def write_at(file: int, views: Sequence[memoryview], position: int) -> None:
    """Write all bytes of ``views``, one after the other, from ``position`` on.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    for part in _parts(views):
        while part:
            done = _write(file, part, position)
            position += done
            part = _rest(part, done)


def read_at(file: int, views: Sequence[memoryview], position: int) -> bool:
    """Fill ``views``, one after the other, from ``position`` on; False where the file ends before.

    Raises:
        OSError: the disk cannot be read.
    """
    for part in _parts(views):
        while part:
            done = _read(file, part, position)
            if done == 0:
                return False
            position += done
            part = _rest(part, done)
    return True


def flush_file(file: int) -> None:
    """Wait until the bytes of ``file`` are on the disk."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(file)
    else:
        os.fsync(file)


class FileLock:
    """A lock on a file that one process holds until it lets go or dies."""

    def __init__(self, path: Path, file: int) -> None:
        self._path, self._file, self._process = path, file, os.getpid()

    @classmethod
    def take(cls, path: Path, *, new: bool = False) -> FileLock | None:
        """The lock, or None where somebody has it or ``path`` is gone.

        Raises:
            OSError: the file system knows no locks, or the folder cannot be written.
        """
        name = os.path.abspath(path)
        with _held_guard:
            # Where locks belong to processes (NFS), a second writer of this process would get it too.
            if name in _held:
                return None
            _held.add(name)
        lock = None
        try:
            lock = cls._taken(path, new)
        finally:
            if lock is None:
                _forget(name)
        return lock

    @classmethod
    def _taken(cls, path: Path, new: bool) -> FileLock | None:
        try:
            file = open_file(path, write=True, new=new)
        except FileNotFoundError:
            return None
        taken = False
        try:
            # Whoever had the lock before may have removed the file.
            taken = _lock(file) and _same_file(path, file)
        finally:
            if not taken:
                os.close(file)
        return cls(path, file) if taken else None

    def release(self) -> None:
        """Let go; in a process that was forked off nothing happens, the lock is its parent's."""
        if self._file < 0 or os.getpid() != self._process:
            return
        # A forked process shares the open file: closing it here alone would leave it locked.
        with contextlib.suppress(OSError):
            _unlock(self._file)
        os.close(self._file)
        self._file = -1
        _forget(os.path.abspath(self._path))


def _forget(name: str) -> None:
    with _held_guard:
        _held.discard(name)


def _same_file(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _parts(views: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """``views`` in as many calls as systems want: macOS refuses 2 GB at once."""
    part: list[memoryview] = []
    size = 0
    for view in views:
        for first in range(0, view.nbytes, MOST_BYTES):
            piece = view[first : first + MOST_BYTES]
            if part and (len(part) == MOST_VIEWS or size + piece.nbytes > MOST_BYTES):
                yield part
                part, size = [], 0
            part.append(piece)
            size += piece.nbytes
    if part:
        yield part


def _rest(views: list[memoryview], done: int) -> list[memoryview]:
    for number, view in enumerate(views):
        if done < view.nbytes:
            return [view[done:], *views[number + 1 :]]
        done -= view.nbytes
    return []


if sys.platform == "win32":
    import msvcrt

    def _write(file: int, views: list[memoryview], position: int) -> int:
        os.lseek(file, position, os.SEEK_SET)
        return os.write(file, views[0])

    _position_guard = threading.Lock()

    def _read(file: int, views: list[memoryview], position: int) -> int:
        with _position_guard, open(file, "rb", buffering=0, closefd=False) as raw:
            raw.seek(position)
            return raw.readinto(views[0]) or 0

    def _lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:

    def _write(file: int, views: list[memoryview], position: int) -> int:
        return os.pwritev(file, views, position)

    def _read(file: int, views: list[memoryview], position: int) -> int:
        return os.preadv(file, views, position)

    def _lock(file: int) -> bool:
        import fcntl  # Not on Windows.

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
