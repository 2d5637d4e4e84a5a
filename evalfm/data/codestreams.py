"""What a JPEG or JPEG 2000 stream says of itself, read before a decoder believes it.

A decoder allocates the memory that the stream claims, not for what the file around it says; and a JPEG of many scans
over an empty picture takes a decoder a fraction of a second for every few bytes.
"""

from __future__ import annotations

import struct

from evalfm.data.stored import check_pixels
from evalfm.errors import EvalfmError

MOST_SCANS = 32
"""Scans of a JPEG that are decoded whatever its size; the usual progressive script has 10."""
MOST_SCANNED = 2**28
"""Pixels times scans beyond that."""
MOST_LAYERS = 256
MOST_TILES = 2**14

_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Marks of a frame header, that of JPEG-LS included; the three others are tables."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_J2K = b"\xff\x4f\xff\x51"
_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"


def check_stream(stream: bytes, size: tuple[int, int], name: str, *, exact: bool = True) -> None:
    """Refuse a compressed stream whose own size is another than ``size`` (height, width), or larger if not ``exact``.

    What is neither JPEG, JPEG-LS nor JPEG 2000 is left to its decoder.

    Raises:
        EvalfmError: another size, more than ``MOST_SCANS`` scans of a large picture, or tiles and layers without end.
    """
    j2k = stream.find(_J2K, 0, 2**16) if stream.startswith((_J2K, _BOXES)) else -1
    if j2k >= 0:
        own, channels = _size_of_j2k(stream, j2k, name)
    elif stream.startswith(b"\xff\xd8"):
        jpeg = _size_of_jpeg(stream)
        if jpeg is None:
            return
        own, channels = jpeg
        check_scans(stream, own, name)
    else:
        return
    check_pixels(*own, name, channels)
    if own != size if exact else (own[0] > size[0] or own[1] > size[1]):
        raise EvalfmError(
            f"{name} holds a compressed picture of {own[0]} × {own[1]} where its header says "
            f"{size[0]} × {size[1]}; export it again."
        )


def check_scans(stream: bytes, size: tuple[int, int], name: str) -> None:
    """Refuse a JPEG whose scans take too long.

    Raises:
        EvalfmError: more than ``MOST_SCANS`` scans of a picture so large that they count.
    """
    scans = stream.count(b"\xff\xda")
    if scans > MOST_SCANS and scans * size[0] * size[1] > MOST_SCANNED:
        raise EvalfmError(f"{name} is a JPEG of {scans} scans, which would take too long; save it again.")


def _size_of_jpeg(stream: bytes) -> tuple[tuple[int, int], int] | None:
    """(height, width) and channels of the first frame header; None where there is none before the pixels."""
    place = 2
    while place + 9 < len(stream):
        if stream[place] != 0xFF:
            place += 1
            continue
        mark = stream[place + 1]
        if mark in _FRAMES:
            height, width, channels = struct.unpack_from(">HHB", stream, place + 5)
            return (height, width), channels
        if mark == 0xDA:
            return None
        place += 1 if mark == 0xFF else 2 if mark in _ALONE else 2 + struct.unpack_from(">H", stream, place + 2)[0]
    return None


def _size_of_j2k(stream: bytes, start: int, name: str) -> tuple[tuple[int, int], int]:
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", stream, start + 8)
    (channels,) = struct.unpack_from(">H", stream, start + 40)
    height, width = bottom - top, right - left
    if height < 1 or width < 1 or tile_width < 1 or tile_height < 1:
        raise EvalfmError(f"{name} holds a JPEG 2000 picture without size; export it again.")
    tiles = -(-width // tile_width) * -(-height // tile_height)
    style = stream.find(b"\xff\x52", start + 40, start + 2**16)
    layers = struct.unpack_from(">H", stream, style + 6)[0] if style >= 0 else 1
    if tiles > MOST_TILES or layers > MOST_LAYERS or channels > 4:
        raise EvalfmError(
            f"{name} holds a JPEG 2000 picture of {tiles} tiles, {layers} layers and {channels} channels, which no "
            "image has; export it again."
        )
    return (height, width), channels
