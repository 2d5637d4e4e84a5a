"""The index of a segment: blocks that each hold rows of one layout and a checksum, read up to the last whole one.

A segment is two files. ``<id>.data`` holds one record a row: its arrays, one after the other. ``<id>.index`` holds
blocks of lines of 64 bytes: a head, a text (JSON, filled up with spaces) and an entry a row. A block is appended once
the records it names are flushed, so whoever reads whole blocks alone never meets half a row.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.features.disk import open_file, read_at

LINE = 64
MAGIC = b"evalfmS2"
MOST_ROWS = 65_536
"""Rows of a block, so that it is read in one piece."""
PIECE_BYTES = 16 << 20
LONGEST_TEXT = 1 << 20
_HEAD = struct.Struct("<8sHHIQI12s20x")
"""Magic, kind, nothing, bytes of text, rows (or bytes of a void), CRC-32 of what follows, machine; then its own CRC."""

ENTRY = np.dtype(
    [
        ("address", "<u8", 4),
        ("height", "<u4"),
        ("width", "<u4"),
        ("offset", "<u8"),
        ("crc32", "<u4"),
        ("generation", "<u2"),
        ("layout", "<u2"),
        ("segment", "<u4"),
        ("state", "<u4"),
    ]
)
"""A row: its address (SHA-256), size of the stored image, place and checksum of its record, and how many copies before
this one were damaged. Layout, segment and state are 0 on disk and used in memory."""


class BlockKind(IntEnum):
    """What a block says."""

    FACTS = 1
    ROWS = 2
    END = 3
    VOID = 4


@dataclass(frozen=True)
class ArrayLayout:
    """Shape and dtype (as numpy spells it) of one array of a row."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


Layout = tuple[ArrayLayout, ...]
"""The arrays of a row, in the order of their bytes."""


def record_bytes(layout: Layout) -> int:
    """Bytes of a row of ``layout``.

    >>> record_bytes((ArrayLayout((2, 3), "<f2"), ArrayLayout((4,), "<f4")))
    28
    """
    return sum(array.nbytes for array in layout)


@dataclass(frozen=True)
class Block:
    """A whole block.

    Attributes:
        kind: what it says.
        start, stop: where it lies in the index.
        machine: of the process that wrote it.
        text: its JSON; of rows, their layout.
        entries: [N] of dtype ``ENTRY``.
    """

    kind: BlockKind
    start: int
    stop: int
    machine: str
    text: str
    entries: NDArray[Any]

    @property
    def layout(self) -> Layout:
        """Layout of the rows."""
        return tuple(ArrayLayout(tuple(array["shape"]), array["dtype"]) for array in json.loads(self.text))


@dataclass(frozen=True)
class Damage:
    """Bytes of an index, ``start`` to ``stop``, that are no block although one follows."""

    start: int
    stop: int


def keys_of(addresses: Sequence[str]) -> NDArray[np.uint64]:
    """Addresses as 32 bytes each, [N, 4]: a SHA-256 in hexadecimal digits itself, anything else hashed.

    >>> keys_of(["00" * 31 + "01", "a name"]).shape
    (2, 4)
    """
    digits = "".join(addresses)
    # All at once: a million addresses are asked for at a time.
    if set(map(len, addresses)) == {64} and digits == digits.lower():
        with contextlib.suppress(ValueError):
            content = bytes.fromhex(digits)
            # Spaces are passed over by ``fromhex``.
            if len(content) == 32 * len(addresses):
                return np.frombuffer(content, "<u8").reshape(-1, 4)
    content = b"".join(
        bytes.fromhex(address) if re.fullmatch(r"[0-9a-f]{64}", address) else sha256(address.encode()).digest()
        for address in addresses
    )
    return np.frombuffer(content, "<u8").reshape(-1, 4)


def facts_block(facts: dict[str, Any], machine: str) -> bytes:
    """The first block of an index: what the segment holds and what wrote it."""
    return _block(BlockKind.FACTS, facts_text(facts), machine)


def facts_text(facts: dict[str, Any]) -> str:
    """Facts as the first block spells them."""
    return json.dumps(facts, sort_keys=True)


def rows_blocks(layout: Layout, entries: NDArray[Any], machine: str) -> bytes:
    """Blocks of rows of ``layout``."""
    text = json.dumps([{"shape": array.shape, "dtype": array.dtype} for array in layout])
    parts = (entries[first : first + MOST_ROWS] for first in range(0, len(entries), MOST_ROWS))
    return b"".join(_block(BlockKind.ROWS, text, machine, part) for part in parts)


def end_block(machine: str) -> bytes:
    """Says that its writer has left in good order."""
    return _block(BlockKind.END, "", machine)


def void_block(damage: Damage, machine: str) -> bytes:
    """Written over the beginning of ``damage``, so that it is passed over from now on."""
    return _head(BlockKind.VOID, 0, damage.stop - damage.start - LINE, 0, machine)


def _block(kind: BlockKind, text: str, machine: str, entries: NDArray[Any] | None = None) -> bytes:
    lines = text.encode()
    lines += b" " * (-len(lines) % LINE)
    rows = b"" if entries is None else entries.tobytes()
    return _head(kind, len(lines), len(rows) // LINE, zlib.crc32(rows, zlib.crc32(lines)), machine) + lines + rows


def _head(kind: BlockKind, text: int, count: int, crc32: int, machine: str) -> bytes:
    head = _HEAD.pack(MAGIC, kind, 0, text, count, crc32, machine.encode())
    return head + struct.pack("<I", zlib.crc32(head))


class IndexReader:
    """Reads an index from a position on, whole blocks only, and remembers how far it is.

    Attributes:
        position: behind the last whole block.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        self.position = position

    def read(self) -> Iterator[Block | Damage]:
        """The blocks since the last look, and what is damaged between them; a torn end is left for later.

        Raises:
            OSError: the file is gone or cannot be read.
        """
        with open(open_file(self._path), "rb", buffering=0) as file:
            size, piece = file.seek(0, 2), PIECE_BYTES
            while self.position < size:
                content = bytearray(min(piece, size - self.position))
                if not read_at(file.fileno(), [memoryview(content)], self.position):
                    return
                before = self.position
                yield from self._blocks(content)
                if self.position == before:
                    if before + len(content) >= size:
                        return
                    piece = size  # More is damaged than a block is long.

    def _blocks(self, content: bytearray) -> Iterator[Block | Damage]:
        base, at = self.position, 0
        while at < len(content):
            block = _parse(content, at, base)
            if block is None:
                following = _next_block(content, at, base)
                if following is None:
                    return
                yield Damage(base + at, base + following)
                at = following
            else:
                yield block
                at = block.stop - base
            self.position = base + at


def _parse(content: bytearray, at: int, base: int) -> Block | None:
    """The block that begins at ``at``, or None where there is no whole one."""
    head = bytes(content[at : at + LINE])
    if len(head) < LINE or head[:8] != MAGIC or struct.unpack("<I", head[-4:])[0] != zlib.crc32(head[:-4]):
        return None
    _, kind, _, text, count, crc32, machine = _HEAD.unpack(head[:-4])
    if kind not in list(BlockKind):
        return None
    start, name = base + at, machine.rstrip(b"\0").decode(errors="replace")
    nothing = np.zeros(0, ENTRY)
    if kind == BlockKind.VOID:
        return Block(BlockKind.VOID, start, start + LINE + count, name, "", nothing)
    body, rows = at + LINE, at + LINE + text
    stop = rows + LINE * count
    if count > MOST_ROWS or text > LONGEST_TEXT or stop > len(content):
        return None
    view = memoryview(content)
    if zlib.crc32(view[body:stop]) != crc32:
        return None
    entries = np.frombuffer(view[rows:stop], ENTRY).copy() if count else nothing
    return Block(BlockKind(kind), start, base + stop, name, bytes(view[body:rows]).decode().rstrip(" "), entries)


def _next_block(content: bytearray, at: int, base: int) -> int | None:
    """Where the next whole block after a damaged one begins."""
    while (at := content.find(MAGIC, at + 1)) >= 0:
        if (base + at) % LINE == 0 and _parse(content, at, base) is not None:
            return at
    return None
