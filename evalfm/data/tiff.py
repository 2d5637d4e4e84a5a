"""What a TIFF says of its pages, believed only as far as it was checked.

Libraries for TIFF follow page chains, tags of many makers and sizes that a damaged file states; a few bytes make them
run for ever or claim terabytes. Here the chain is walked within bounds, and one page is cut out as a TIFF of its own
with the tags that pixels need and nothing else.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import BinaryIO

from evalfm.data.stored import MOST_FRAMES, check_pixels, frame_number
from evalfm.errors import EvalfmError

MOST_TAGS = 2**18
"""Tags of all pages together; a page has some 20."""
MOST_SEGMENTS = 2**17
"""Strips or tiles of a page; a strip of one row each is 2¹⁶ at most."""
MOST_SAMPLES = 2**10
JPEG = (7, 33003, 33004, 33005, 34712)
"""JPEG and JPEG 2000, whose streams state a size of their own."""
_REDUCED_COPY, _OLD_REDUCED_COPY = 1, 2

_FORMATS = {1: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}
"""Types of whole numbers, and of bytes without meaning: BYTE, SHORT, LONG, UNDEFINED, LONG8."""
_SUBFILE, _OLD_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES, _DEPTH = 322, 323, 324, 325, 32997
_DEFLATE, _LZMA, _PREDICTOR = (8, 32946), 34925, 317
_MOST_NUMBERS = {
    _SUBFILE: 1,
    _OLD_SUBFILE: 1,
    _WIDTH: 1,
    _LENGTH: 1,
    _BITS: MOST_SAMPLES,
    _COMPRESSION: 1,
    _PHOTOMETRIC: 1,
    266: 1,  # fill order
    _STRIPS: MOST_SEGMENTS,
    _SAMPLES: 1,
    _ROWS_PER_STRIP: 1,
    _STRIP_BYTES: MOST_SEGMENTS,
    _PLANAR: 1,
    292: 1,  # options of fax compression
    293: 1,
    _PREDICTOR: 1,
    320: 3 * 2**16,  # palette
    _TILE_WIDTH: 1,
    _TILE_LENGTH: 1,
    _TILES: MOST_SEGMENTS,
    _TILE_BYTES: MOST_SEGMENTS,
    338: MOST_SAMPLES,  # what further samples mean
    339: MOST_SAMPLES,  # sample format
    347: 2**16,  # JPEG tables
    530: 2,  # subsampling of YCbCr
    531: 1,
    _DEPTH: 1,
}
"""The tags that pixels need, and how many numbers each may hold."""
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, *JPEG, *_DEFLATE, 32773, _LZMA, 50000})
"""None, fax, LZW, JPEG (2000), deflate, PackBits, LZMA, Zstandard: those whose output can be bounded by the page."""

Tags = dict[int, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Page:
    """One page, not a smaller copy of another.

    Attributes:
        tags: type and numbers of each tag that pixels need.
        layout: how the file writes its numbers.
    """

    tags: Tags
    layout: _Layout

    def number(self, tag: int, default: int) -> int:
        """The first number of ``tag``."""
        return self.tags[tag][1][0] if tag in self.tags and self.tags[tag][1] else default

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.number(_LENGTH, 0), self.number(_WIDTH, 0)


def page_of(path: Path, member: str | None, locator: str) -> Page:
    """The page that ``member`` names, or the only one; smaller copies that a file carries along do not count.

    Raises:
        EvalfmError: the chain of pages is damaged or longer than ``MOST_FRAMES``, or ``member`` names none of it.
    """
    with path.open("rb") as stream:
        head = stream.read(16)
        layout = _Layout("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))
        tables = list(_chain(stream, layout, layout.first(head), path.stat().st_size, locator))
        if not tables:
            raise _damaged(locator, "it has no page")
        number = frame_number(member, len(tables), locator, "pages")
        return Page(_tags(stream, tables[number], layout, locator), layout)


def page_alone(path: Path, page: Page, locator: str) -> io.BytesIO:
    """A TIFF of this page alone, whose sizes were checked, for a library to decode.

    Raises:
        EvalfmError: the page claims more pixels than any radiograph has, a compression whose output nobody bounds, or
            strips and tiles that are not in the file or do not fit the page.
    """
    height, width = page.size
    samples = page.number(_SAMPLES, 1)
    if page.number(_DEPTH, 1) > 1:
        raise EvalfmError(f"{locator} is a TIFF with depth, which is no image; save it as grey TIFF.")
    depth = max(page.tags.get(_BITS, (0, (1,)))[1])
    check_pixels(height, width, locator, samples, -(-depth // 8))
    compression = page.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise EvalfmError(
            f"{locator} is a TIFF of compression {compression}, which cannot be read; save it with deflate or without."
        )
    tiled = _TILES in page.tags
    offsets_tag, lengths_tag = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    if offsets_tag not in page.tags:
        raise EvalfmError(f"{locator} is a TIFF without pixels; take it out of the table.")
    rows = page.number(_TILE_LENGTH, 0) if tiled else min(page.number(_ROWS_PER_STRIP, height), height)
    columns = page.number(_TILE_WIDTH, 0) if tiled else width
    if rows < 1 or columns < 1:
        raise _damaged(locator, "its strips or tiles have no size")
    down, across = ceil(height / rows), ceil(width / columns)
    check_pixels(down * rows, across * columns, locator, samples, -(-depth // 8))
    wanted = down * across * (samples if page.number(_PLANAR, 1) == 2 else 1)
    offsets = page.tags[offsets_tag][1]
    whole = path.stat().st_size
    if lengths_tag in page.tags:
        lengths = page.tags[lengths_tag][1]
    elif wanted == 1 and len(offsets) == 1:
        lengths = (max(whole - offsets[0], 0),)
    else:
        raise _damaged(locator, "it does not say how long its strips are")
    if len(offsets) < wanted or len(lengths) < wanted or wanted > MOST_SEGMENTS:
        raise _damaged(locator, f"{min(len(offsets), len(lengths))} of {wanted} strips or tiles are there")
    places = list(zip(offsets[:wanted], lengths[:wanted], strict=True))
    # Each byte belongs to one strip; shared ones would let a small file unpack without end.
    if any(start < 1 or length < 1 or start + length > whole for start, length in places):
        raise _damaged(locator, "it is cut short")
    if sum(length for _, length in places) > whole:
        raise _damaged(locator, "its strips or tiles overlap")
    # Zstandard and LZW are bounded where they are decoded, deflate and LZMA not by every library.
    planes = 1 if page.number(_PLANAR, 1) == 2 else samples
    row = -(-columns * planes * depth // 8)
    unpacks = compression in (*_DEFLATE, _LZMA)
    # A predictor is undone by libraries where pages are packed, and only there.
    plain = page.number(_PREDICTOR, 1) == 1
    segments = []
    with path.open("rb") as stream:
        for index, (start, length) in enumerate(places):
            last = height - index % down * rows if not tiled else rows
            stream.seek(start)
            segment = stream.read(length)
            if unpacks:
                unpacking = lzma.LZMADecompressor() if compression == _LZMA else zlib.decompressobj()
                segment = unpacking.decompress(segment, row * min(rows, last))
                segment = segment if plain else zlib.compress(segment, 0)
            segments.append(segment)
    tags = page.tags | ({_COMPRESSION: (3, (1,) if plain else _DEFLATE[:1])} if unpacks else {})
    return _written(tags, page, (offsets_tag, lengths_tag), segments)


def _damaged(locator: str, why: str) -> EvalfmError:
    return EvalfmError(
        f"{locator} cannot be read as an image (damaged TIFF: {why}); export it again or take it out of the table."
    )


@dataclass(frozen=True)
class _Layout:
    """How a file writes its numbers; BigTIFF has offsets and counts of 64 bits."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    def first(self, head: bytes) -> int:
        return int(struct.unpack(self.offset, head[8:16] if self.big else head[4:8])[0])


def _chain(stream: BinaryIO, layout: _Layout, offset: int, whole: int, locator: str) -> Iterator[bytes]:
    """The table of tags of each page that is no smaller copy."""
    count_format = layout.order + ("Q" if layout.big else "H")
    entry_size = struct.calcsize(layout.entry)
    seen: set[int] = set()
    left = MOST_TAGS
    # An offset behind the end of the file ends the chain, as for other readers.
    while 0 < offset < whole:
        if offset in seen:
            raise _damaged(locator, "its pages turn in a circle")
        if len(seen) == MOST_FRAMES:
            raise EvalfmError(f"{locator} has more than {MOST_FRAMES} pages; cut it into smaller files.")
        seen.add(offset)
        stream.seek(offset)
        (count,) = struct.unpack(count_format, stream.read(struct.calcsize(count_format)))
        left -= count
        if count < 1 or left < 0:
            raise _damaged(locator, f"a page has {count} tags")
        table = stream.read(count * entry_size)
        (offset,) = struct.unpack(layout.offset, stream.read(struct.calcsize(layout.offset)))
        tags = _tags(stream, table, layout, locator, (_SUBFILE, _OLD_SUBFILE))
        kind, old_kind = (tags.get(tag, (0, (0,)))[1][0] for tag in (_SUBFILE, _OLD_SUBFILE))
        if not kind & _REDUCED_COPY and old_kind != _OLD_REDUCED_COPY:
            yield table


def _tags(
    stream: BinaryIO, table: bytes, layout: _Layout, locator: str, wanted: Container[int] = _MOST_NUMBERS
) -> Tags:
    tags: Tags = {}
    for tag, kind, count, value in struct.iter_unpack(layout.entry, table):
        if tag not in wanted or tag in tags:
            continue
        if kind not in _FORMATS or not 1 <= count <= _MOST_NUMBERS[tag]:
            raise _damaged(locator, f"tag {tag} of a page holds {count} values of type {kind}")
        numbers = f"{layout.order}{count}{_FORMATS[kind]}"
        length = struct.calcsize(numbers)
        if length > len(value):
            stream.seek(struct.unpack(layout.offset, value)[0])
            value = stream.read(length)
        tags[tag] = (kind, struct.unpack(numbers, value[:length]))
    return tags


def _written(tags: Tags, page: Page, places: tuple[int, int], segments: list[bytes]) -> io.BytesIO:
    """Tags and segments as a little file in the page's own byte order; ``places``: the tags of offset and length."""
    layout, big = page.layout, page.layout.big
    kind, inline = (16, 8) if big else (4, 4)
    lengths = tuple(len(segment) for segment in segments)
    tags = tags | {places[0]: (kind, (0,) * len(segments)), places[1]: (kind, lengths)}
    directory = 24 if big else 10
    end = directory + len(tags) * struct.calcsize(layout.entry) + inline
    outside: dict[int, int] = {}
    for tag, (form, numbers) in tags.items():
        length = struct.calcsize(f"={len(numbers)}{_FORMATS[form]}")
        if length > inline:
            outside[tag], end = end, end + length + length % 2
    if not big and end + sum(lengths) + len(lengths) >= 2**32:
        raise EvalfmError("A page of more than 4 GiB needs BigTIFF; save it as such.")
    offsets = []
    for length in lengths:
        offsets.append(end)
        end += length + length % 2
    tags[places[0]] = (kind, tuple(offsets))
    made = io.BytesIO()
    made.write(b"II" if layout.order == "<" else b"MM")
    head = ("HHHQQ", 43, 8, 0, 16) if big else ("HIH", 42, 8)
    made.write(struct.pack(layout.order + str(head[0]), *head[1:], len(tags)))
    values = {tag: struct.pack(f"{layout.order}{len(n)}{_FORMATS[form]}", *n) for tag, (form, n) in tags.items()}
    for tag in sorted(tags):
        form, numbers = tags[tag]
        value = struct.pack(layout.offset, outside[tag]) if tag in outside else values[tag].ljust(inline, b"\0")
        made.write(struct.pack(layout.entry, tag, form, len(numbers), value))
    made.write(bytes(inline))
    for tag, place in outside.items():
        made.seek(place)
        made.write(values[tag])
    for offset, segment in zip(offsets, segments, strict=True):
        made.seek(offset)
        made.write(segment)
    made.seek(0)
    return made
