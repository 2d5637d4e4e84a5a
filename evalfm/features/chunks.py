"""One chunk of rows on disk: a folder with arrays and checksums that is there as a whole or not at all.

A chunk is written into a temporary folder beside its place, flushed to the disk and renamed. Its name is a
hash of the addresses of its rows, so two processes that write the same rows meet at one name: the first wins
and the other drops its copy. Nothing reads a temporary folder; the next writer removes those of the dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evalfm.data.work_folders import WRITING, flush_folder, work_name
from evalfm.errors import EvalfmError

INDEX = "index.json"
BLOCK = 4 << 20


class DamagedChunkError(Exception):
    """A chunk whose bytes are not those that were written; its rows count as absent."""


@dataclass(frozen=True)
class ArrayFile:
    """One array of a chunk: the name of its file, its length in bytes and the CRC-32 of all of them."""

    name: str
    length: int
    crc32: int


@dataclass(frozen=True)
class Chunk:
    """The index of a published chunk.

    Attributes:
        folder: where it lies.
        addresses: [N] the rows, in order.
        sizes: [N] height and width of each stored film.
        files: one per array, each with N rows.
    """

    folder: Path
    addresses: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    files: tuple[ArrayFile, ...]

    @classmethod
    def read(cls, folder: Path) -> Chunk:
        """Read the index alone; the arrays are checked when they are opened.

        Raises:
            DamagedChunkError: the index is not what was written.
        """
        try:
            body, _, checksum = (folder / INDEX).read_bytes().rpartition(b"\n")
        except OSError as error:
            raise DamagedChunkError(f"{INDEX} of chunk {folder.name} ({error.strerror})") from None
        if checksum != b"%08x" % zlib.crc32(body):
            raise DamagedChunkError(f"{INDEX} of chunk {folder.name}")
        content = json.loads(body)
        return cls(
            folder=folder,
            addresses=tuple(content["addresses"]),
            sizes=tuple((height, width) for height, width in content["sizes"]),
            files=tuple(ArrayFile(**file) for file in content["files"]),
        )

    def open(self) -> tuple[NDArray[Any], ...]:
        """Memory-map the arrays after reading them once against their checksums.

        Raises:
            DamagedChunkError: a byte is not what was written, or a file is gone.
        """
        return tuple(self._open(file) for file in self.files)

    def _open(self, file: ArrayFile) -> NDArray[Any]:
        path = self.folder / file.name
        try:
            if _measure(path) != (file.length, file.crc32):
                raise DamagedChunkError(f"{file.name} of chunk {self.folder.name}")
            array: NDArray[Any] = np.load(path, mmap_mode="r")
        except OSError as error:
            raise DamagedChunkError(f"{file.name} of chunk {self.folder.name} ({error.strerror})") from None
        return array


def discard(folder: Path, inode: int) -> None:
    """Remove a damaged chunk, unless another process has put a new one in its place."""
    grave = folder.parent / work_name()
    # In a folder that cannot be written the chunk stays, and whoever wants its rows is told on writing them.
    with contextlib.suppress(OSError):
        if folder.stat().st_ino == inode:
            os.rename(folder, grave)
            shutil.rmtree(grave, ignore_errors=True)


def chunk_name(addresses: Sequence[str]) -> str:
    """Name of the chunk that holds ``addresses`` in this order."""
    return hashlib.sha256("\n".join(addresses).encode()).hexdigest()[:32]


def chunk_folders(parent: Path) -> list[Path]:
    """The published chunks of ``parent``, by name."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if not entry.name.startswith(WRITING))


class ChunkWriter:
    """Writes one chunk batch by batch; used as a context manager that leaves nothing behind on an error.

    Arrays may come as float16 or float32: the first float32 batch turns what was written before into float32.
    """

    def __init__(self, parent: Path, addresses: Sequence[str]) -> None:
        """Begin the chunk of ``addresses`` in the folder ``parent``.

        Raises:
            EvalfmError: the folder cannot be written.
        """
        self._place = parent / chunk_name(addresses)
        self._addresses = list(addresses)
        self._sizes: list[tuple[int, int]] = []
        self._arrays: list[_ArrayWriter] = []
        self._folder = parent / work_name()
        with _told(parent):
            parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir()

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays:
            array.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, sizes: Sequence[tuple[int, int]], arrays: Sequence[NDArray[Any]]) -> None:
        """Append rows: film sizes [B] and one array [B, ...] per file, the same files each time.

        Raises:
            EvalfmError: the disk is full or cannot be written.
        """
        with _told(self._place.parent):
            if not self._arrays:
                rows = len(self._addresses)
                for number, array in enumerate(arrays):
                    self._arrays.append(_ArrayWriter(self._folder / f"{number}.npy", rows, array))
            for writer, array in zip(self._arrays, arrays, strict=True):
                writer.append(array)
        self._sizes.extend(sizes)

    def publish(self) -> None:
        """Flush all to the disk and rename; where the same chunk is there already, ours is dropped.

        Raises:
            EvalfmError: the disk is full or cannot be written.
        """
        if len(self._sizes) != len(self._addresses):
            raise ValueError(f"{len(self._sizes)} of {len(self._addresses)} rows were written")
        with _told(self._place.parent):
            content = {
                "addresses": self._addresses,
                "sizes": self._sizes,
                "files": [vars(array.finish()) for array in self._arrays],
            }
            body = json.dumps(content).encode()
            with (self._folder / INDEX).open("wb") as file:
                file.write(body + b"\n%08x" % zlib.crc32(body))
                _flush(file)
            flush_folder(self._folder)
            try:
                os.rename(self._folder, self._place)
            except OSError:
                if not self._place.is_dir():
                    raise
            flush_folder(self._place.parent)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say what to do where ``folder`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise EvalfmError(
            f"The feature store {folder} cannot be written ({error.strerror}); free space there, "
            "put the store on another disk, or compute maps on the fly with --maps stream."
        ) from error


class _ArrayWriter:
    """One .npy file of a known number of rows, written row by row with its checksum."""

    def __init__(self, path: Path, rows: int, first: NDArray[Any]) -> None:
        self._path = path
        self._shape = (rows, *first.shape[1:])
        self._file, self._dtype = self._begin(path, first.dtype)

    def _begin(self, path: Path, dtype: np.dtype[Any]) -> tuple[IO[bytes], np.dtype[Any]]:
        header = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": self._shape,
        }
        np.lib.format.write_array_header_1_0(header, description)
        file = path.open("wb")
        self._crc32, self._length, self._header = 0, 0, len(header.getvalue())
        self._write(file, header.getvalue())
        return file, dtype

    def _write(self, file: IO[bytes], content: bytes | memoryview) -> None:
        file.write(content)
        self._crc32 = zlib.crc32(content, self._crc32)
        self._length += len(content)

    def append(self, rows: NDArray[Any]) -> None:
        if rows.dtype.itemsize > self._dtype.itemsize:
            self._widen(rows.dtype)
        for row in rows:
            flat = np.ascontiguousarray(row, dtype=self._dtype).reshape(-1)
            self._write(self._file, flat.view(np.uint8).data)

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Write the rows so far anew as ``dtype``, one row at a time."""
        narrow = self._path.with_suffix(".narrow")
        self._file.close()
        os.rename(self._path, narrow)
        row_values = int(np.prod(self._shape[1:]))
        old_dtype, done = self._dtype, (self._length - self._header) // (row_values * self._dtype.itemsize)
        header = self._header
        self._file, self._dtype = self._begin(self._path, dtype)
        with narrow.open("rb") as old:
            old.seek(header)
            for _ in range(done):
                row = np.fromfile(old, dtype=old_dtype, count=row_values)
                self.append(row.reshape(1, *self._shape[1:]))
        narrow.unlink()

    def finish(self) -> ArrayFile:
        _flush(self._file)
        self._file.close()
        return ArrayFile(self._path.name, self._length, self._crc32)

    def abandon(self) -> None:
        # A full disk fails once more when the buffer is flushed; the file is about to be removed anyway.
        with contextlib.suppress(OSError):
            self._file.close()


def _measure(path: Path) -> tuple[int, int]:
    """Length in bytes and CRC-32 of a file, read in blocks so that memory does not grow."""
    length, crc32 = 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc32 = zlib.crc32(block, crc32)
            length += len(block)
    return length, crc32


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
