"""Images that are members of NPZ and NPY files; nothing in them is ever unpickled."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from evalfm.data.stored import Stored, check_pixels, decoding, kind_of, native, reason
from evalfm.errors import EvalfmError

CACHE_BYTES = 2**30
"""Unpacked members kept in memory by a process; a larger one is unpacked into a temporary file instead."""
MOST_UNPACKED = 100
"""Times its packed size that an array larger than memory allows may have; images reach 3."""
MOST_ARRAYS = 64
"""Arrays kept open at once: each mapped one holds a file descriptor, of which a process has few."""
_LOCAL_HEADER_BYTES = 30

Axes = Literal["HW", "HWC", "CHW"]


@dataclass(frozen=True)
class _Header:
    """What an array's own header says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Member:
    """One array of a file, in a version of that file; equal ones share what is unpacked."""

    path: Path
    modified: int
    size: int
    name: str | None


class _Unpacked:
    """Unpacked members, the least used given up first; for threads, and whole in a forked worker."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[_Member, NDArray[Any]] = OrderedDict()
        self.renew_lock()

    def renew_lock(self) -> None:
        """A fork may copy a lock that a thread of the parent holds, which nobody would ever release."""
        self._lock = threading.Lock()

    def get(self, member: _Member) -> NDArray[Any]:
        """The array of ``member``, unpacked once however many threads read it."""
        with self._lock:
            if member not in self._arrays:
                self._arrays[member] = _load(member)
            self._arrays.move_to_end(member)
            while len(self._arrays) > MOST_ARRAYS or (len(self._arrays) > 1 and self._bytes() > CACHE_BYTES):
                self._arrays.popitem(last=False)
            return self._arrays[member]

    def _bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values() if not isinstance(array, np.memmap))


_unpacked = _Unpacked()
if hasattr(os, "register_at_fork"):  # Windows has no fork.
    os.register_at_fork(after_in_child=_unpacked.renew_lock)


def read_array(path: Path, member: str | None) -> Stored:
    """One image of an array file, as numbers.

    ``name/index`` of an NPZ (``train_images/17``) or ``index`` of an NPY is one item of a stack; without an
    index the array is one image. An image is [H, W], [H, W, C] or [C, H, W] with C = 1, 3 or, last, 4, whose
    fourth is opacity and dropped.

    Raises:
        EvalfmError: no such member or index, an array of objects, or a shape that is no image.
    """
    values = item(path, member)
    axes = _axes(values.shape, values.dtype, path, member)
    shown = values[None] if axes == "HW" else values if axes == "CHW" else np.moveaxis(values, 2, 0)
    opacity = shown[3:]
    varies = bool(opacity.size and (opacity != opacity.flat[0]).any())
    bits = 1 if values.dtype == bool else values.dtype.itemsize * 8
    return Stored(native(np.array(shown[:3])), bits, "array", opacity_varies=varies)


def array_size(path: Path, member: str | None) -> tuple[int, int]:
    """(height, width) of one image of an array file, from the array's header alone.

    Raises:
        EvalfmError: as for ``read_array``.
    """
    address, index = _address(path, member)
    header = _header(address)
    _check_index(index, header.shape, path, member)
    shape = header.shape if index is None else header.shape[1:]
    axes = _axes(shape, header.dtype, path, member)
    return (shape[1], shape[2]) if axes == "CHW" else (shape[0], shape[1])


def item(path: Path, member: str | None) -> NDArray[Any]:
    """The array that ``member`` names, as it is stored: one item of a stack, or a whole array."""
    address, index = _address(path, member)
    header = _header(address)
    _check_index(index, header.shape, path, member)
    _axes(header.shape if index is None else header.shape[1:], header.dtype, path, member)
    whole = _unpacked.get(address)
    return np.asarray(whole if index is None else whole[index])


def _check_index(index: int | None, shape: tuple[int, ...], path: Path, member: str | None) -> None:
    if index is not None and (not shape or index >= shape[0]):
        raise EvalfmError(f"{path.name}#{member} names image {index} of {shape[0] if shape else 0}; count them from 0.")


def _address(path: Path, member: str | None) -> tuple[_Member, int | None]:
    """The array and the index in it."""
    status = path.stat()
    modified, size = status.st_mtime_ns, status.st_size
    if kind_of(path) == "npy":
        return _Member(path, modified, size, None), None if member is None else _index(member, path, member)
    names = _directory(path, modified, size)
    if not member:
        raise EvalfmError(f"{path.name} holds the arrays {_listed(names)}; name one image as {path.name}#array/17.")
    if member in names:
        return _Member(path, modified, size, member), None
    name, slash, last = member.rpartition("/")
    if not slash or name not in names:
        raise EvalfmError(f"{path.name} has no array {name or member!r}; it has {_listed(names)}.")
    return _Member(path, modified, size, name), _index(last, path, member)


def _index(text: str, path: Path, member: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise EvalfmError(f"{path.name}#{member} ends in no index; write a number from 0 instead of {text!r}.")
    return int(text)


def _listed(names: dict[str, zipfile.ZipInfo]) -> str:
    shown = ["".join(sign if sign.isprintable() else "?" for sign in name[:80]) for name in sorted(names)]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "none"


def _axes(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path, member: str | None) -> Axes:
    """How an image of ``shape`` is laid out; colour last goes before colour first."""
    name = path.name if member is None else f"{path.name}#{member}"
    if dtype.kind not in "buif":
        raise EvalfmError(f"{name} is of type {dtype}, which is no image; store plain numbers.")
    axes: Axes | None = None
    if len(shape) == 2:
        axes = "HW"
    elif len(shape) == 3 and shape[2] in (1, 3, 4):
        axes = "HWC"
    elif len(shape) == 3 and shape[0] in (1, 3):
        axes = "CHW"
    if axes is None:
        raise EvalfmError(
            f"{name} has shape {list(shape)}, which is no image [H, W], [H, W, 3] or [3, H, W]; "
            "name one image of a stack by its number, as in array/17."
        )
    height, width = shape[1:] if axes == "CHW" else shape[:2]
    check_pixels(height, width, name, math.prod(shape) // max(height * width, 1), dtype.itemsize)
    return axes


# Files


@lru_cache(maxsize=8)
def _directory(path: Path, modified: int, size: int) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an NPZ; ``modified`` and ``size`` make an edited file another one."""
    with decoding(lambda error: _damaged(path, error)), zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


@lru_cache(maxsize=1024)
def _header(member: _Member) -> _Header:
    with decoding(lambda error: _damaged(member.path, error)), _opened(member) as stream:
        return _read_header(stream)


def _load(member: _Member) -> NDArray[Any]:
    with decoding(lambda error: _damaged(member.path, error)):
        return _mapped(member) if _lies_open(member) else _inflated(member)


def _damaged(path: Path, error: BaseException) -> EvalfmError:
    return EvalfmError(f"{path.name} is damaged or no array file ({reason(error)}); export it again.")


@contextmanager
def _opened(member: _Member) -> Iterator[IO[bytes]]:
    """The bytes of a member's array, from its header on."""
    if member.name is None:
        with member.path.open("rb") as file:
            yield file
        return
    info = _info(member)
    # The other methods unpack without bound, however little is needed.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EvalfmError(
            f"Array {member.name} of {member.path.name} is packed in a way that NumPy does not "
            "use; save it with numpy.savez_compressed."
        )
    with zipfile.ZipFile(member.path) as archive, archive.open(info) as packed:
        yield packed


def _info(member: _Member) -> zipfile.ZipInfo:
    assert member.name is not None
    return _directory(member.path, member.modified, member.size)[member.name]


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an array as NPY, from its start on.

    Raises:
        EvalfmError: its header is of another version than plain numbers have.
    """
    reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in reads:
        raise EvalfmError(f"An array has a header of version {version}, which is no image; store plain numbers.")
    return reads[version](stream)


def _read_header(stream: IO[bytes]) -> _Header:
    shape, fortran, dtype = read_npy_header(stream)
    if dtype.hasobject:
        raise EvalfmError("An array holds Python objects, which are never unpickled; store it as plain numbers.")
    return _Header(shape, dtype, fortran)


def _lies_open(member: _Member) -> bool:
    if member.name is None:
        return True
    info = _info(member)
    return info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1


def _mapped(member: _Member) -> NDArray[Any]:
    """An array that is not compressed, mapped into memory where it lies."""
    with member.path.open("rb") as stream:
        if member.name is not None:
            start = _info(member).header_offset
            stream.seek(start)
            local = stream.read(_LOCAL_HEADER_BYTES)
            # The lengths of name and extra field differ from those in the directory at the end of the file.
            names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            stream.seek(start + _LOCAL_HEADER_BYTES + names)
        header = _read_header(stream)
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        return np.memmap(member.path, header.dtype, "r", stream.tell(), header.shape, order)


def _inflated(member: _Member) -> NDArray[Any]:
    """A compressed array, unpacked into memory or, where large, into a file that vanishes at the end."""
    with _opened(member) as stream:
        header = _read_header(stream)
        _check_claim(header, member)
        if header.bytes <= CACHE_BYTES:
            flat = np.empty(header.bytes, dtype=np.uint8)
        else:
            flat = _room_on_disk(header.bytes, member)
        view, filled = memoryview(flat), 0  # type: ignore[arg-type]
        while filled < header.bytes and (count := stream.readinto(view[filled : filled + 2**24])):  # type: ignore[attr-defined]
            filled += count
        # Reading to the very end has the checksum compared.
        if filled < header.bytes or stream.read(1):
            raise _another_length(member)
    array = flat.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    array.flags.writeable = False
    return array


def _check_claim(header: _Header, member: _Member) -> None:
    """Refuse an array that claims more than its archive holds, before memory for it is allocated."""
    info = _info(member)
    if header.bytes > info.file_size:
        raise _another_length(member)
    packed = min(info.compress_size, member.size)
    if header.bytes > CACHE_BYTES and header.bytes > MOST_UNPACKED * packed:
        raise EvalfmError(
            f"Array {member.name} of {member.path.name} unpacks to {header.bytes / 2**30:.1f} GiB from "
            f"{packed / 2**20:.1f} MiB; store it uncompressed (numpy.savez) or as NPY."
        )


def _another_length(member: _Member) -> EvalfmError:
    return EvalfmError(f"Array {member.name} of {member.path.name} has another length than it says; export it again.")


def _room_on_disk(size: int, member: _Member) -> NDArray[np.uint8]:
    folder = tempfile.gettempdir()
    if size > 0.9 * shutil.disk_usage(folder).free:
        raise EvalfmError(
            f"Array {member.name} of {member.path.name} unpacks to {size / 2**30:.1f} GiB, for which "
            f"{folder} has no room; store the array uncompressed (numpy.savez) or as NPY."
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        return np.memmap(file, np.uint8, "r+", 0, (size,))
