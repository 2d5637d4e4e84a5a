"""Opening a DICOM file and decoding one of its frames, within bounds that the file cannot set."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import unpack_from
from typing import Any, BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import DecodeRunner, RLELosslessDecoder
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from evalfm.data.codestreams import check_stream

MOST_READS = 300_000
"""Reads of a header, two or three for an element or item; ten megabytes of empty items would take half a minute."""
MOST_ITEMS = 100_000
"""Items of a sequence, those within them included."""
MOST_INFLATED = 2**29
"""Bytes of a file that is deflated as a whole."""
DECODER_DEPENDENCIES = {RLELossless: ()}
"""What pydicom wants of a module with a decoder."""
_ITEM_MARKS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_RUNS = "evalfm"
_MOST_PADDING = 8

# Its warnings quote values of the header, which must not reach a log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")


class _Deflated(Exception):
    """All that follows the file's meta information, deflated."""


class _Bounded(io.BufferedIOBase):
    """A stream that can be read a bounded number of times, and never to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_READS

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("its header never ends")
        if size is None or size < 0:
            # pydicom does so to inflate a file, to whatever size it claims.
            raise _Deflated(self._stream.read())
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()


def read_dicom(path: Path, tags: list[str] | None = None) -> Dataset:
    """The data set of a file; with ``tags`` only these, and none behind the pixels.

    Raises:
        ValueError: the header never ends, or the file unpacks to more than ``MOST_INFLATED`` bytes. pydicom raises many
            other errors on damaged files.
    """
    with path.open("rb") as stream:
        try:
            return pydicom.dcmread(_Bounded(stream), stop_before_pixels=tags is not None, specific_tags=tags)
        except _Deflated as rest:
            inflating = zlib.decompressobj(-zlib.MAX_WBITS)
            inflated = inflating.decompress(rest.args[0], MOST_INFLATED)
    if not inflating.eof:
        raise ValueError("it is cut short, or unpacks to more than half a gigabyte")
    wanted: list[BaseTag | int] | None = None if tags is None else [Tag(tag) for tag in tags]
    dataset = read_dataset(
        cast(BinaryIO, _Bounded(io.BytesIO(inflated))),
        False,
        True,
        stop_when=None if tags is None else lambda tag, vr, length: int(tag) >= 0x7FE00008,
        specific_tags=wanted,
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset


def items_of(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, none where it is absent.

    Raises:
        ValueError: there are more than ``MOST_ITEMS``, which would take too long and too much memory.
    """
    raw = dataset.get_item(keyword) if keyword in dataset else None
    value = None if raw is None else raw.value
    if isinstance(value, bytes) and max(value.count(mark) for mark in _ITEM_MARKS) > MOST_ITEMS:
        raise ValueError(f"its {keyword} never ends")
    return list(dataset.get(keyword) or ())


def decoded_frame(dataset: Dataset, number: int, locator: str) -> NDArray[Any]:
    """Stored values [H, W] or [H, W, 3] (as RGB) of one frame, counted from 0.

    Raises:
        EvalfmError: the compressed picture claims another size than the header.
        NotImplementedError: nothing at hand reads the transfer syntax. Decoders raise whatever they like, also what is
            no Exception.
    """
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    if "PixelData" in dataset and syntax.is_transfer_syntax and syntax.is_encapsulated and syntax != RLELossless:
        tables = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
        frame = get_frame(
            dataset.PixelData,
            number,
            extended_offsets=tables if all(tables) else None,
            number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        )
        check_stream(frame, (int(dataset.Rows), int(dataset.Columns)), locator)
    return np.asarray(pixel_array(dataset, index=number, decoding_plugin=_RUNS if syntax == RLELossless else ""))


# Run lengths: the compiled decoder of pylibjpeg panics on damaged ones, past `except Exception` and onto the screen.


def is_available(uid: str) -> bool:
    """Whether this module decodes ``uid``; which pydicom calls."""
    return uid == RLELossless


def decode_runs(frame: bytes, runner: DecodeRunner) -> bytearray:
    """A frame of run lengths (PS3.5 annex G) as little-endian planes, for pydicom to shape.

    Raises:
        ValueError: the segments are not those that the header declares, or not as long as the image.
    """
    if runner.bits_allocated % 8:
        raise NotImplementedError(f"run lengths of {runner.bits_allocated} bits")
    width = runner.bits_allocated // 8
    wanted, length = runner.samples_per_pixel * width, runner.rows * runner.columns
    count, *starts = unpack_from("<16L", frame)
    if count != wanted or count > len(starts):
        raise ValueError(f"{count} segments of run lengths where {wanted} are due")
    ends = [*starts[1:count], len(frame)]
    planes = np.empty((runner.samples_per_pixel, length, width), dtype=np.uint8)
    for segment, (start, end) in enumerate(zip(starts, ends, strict=False)):
        if not 64 <= start < end <= len(frame):
            raise ValueError("a segment of run lengths lies outside of its frame")
        # The first byte of a value is its highest.
        plane, byte = divmod(segment, width)
        planes[plane, :, width - 1 - byte] = _unpacked(frame[start:end], length)
    runner.set_option("planar_configuration", 1)
    return bytearray(planes.tobytes())


def _unpacked(segment: bytes, length: int) -> NDArray[np.uint8]:
    """The ``length`` bytes of a segment, which may not hold one more but for zeros that pad it."""
    for padding in range(_MOST_PADDING):
        if padding and segment[-padding]:
            break
        kept = segment[: len(segment) - padding]
        if not _holds(kept, length + 1):
            return np.asarray(Pillow.frombytes("L", (length, 1), kept, "packbits", "L")).reshape(length)
    raise ValueError("a segment of run lengths is longer than the image")


def _holds(segment: bytes, length: int) -> bool:
    """Whether a segment unpacks to ``length`` bytes or more; Pillow refuses what it cannot fill."""
    try:
        Pillow.frombytes("L", (length, 1), segment, "packbits", "L")
    except ValueError:
        return False
    return True


if _RUNS not in RLELosslessDecoder.available_plugins:
    RLELosslessDecoder.add_plugin(_RUNS, (__name__, "decode_runs"))
