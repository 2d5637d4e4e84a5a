"""Files of embeddings for use outside evalfm, Parquet and safetensors, written piece by piece in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.features.segment_format import ArrayLayout, Layout

MARK = "evalfm"
"""Under which a file says in its metadata, as JSON, what it holds."""
KIND = "embeddings"
"""What it says that it is."""
ID, EMBEDDING = "id", "embedding"
IDS, POOLED, MAP = "ids", "pooled", "map_{}"
PIECE_BYTES = 32_000_000
"""What of the features is held in memory at once, and how large a row group of Parquet is."""
SAFETENSORS_DTYPES = {"|u1": "U8", "<f2": "F16", "<f4": "F32"}

Piece = tuple[NDArray[np.float32], tuple[NDArray[Any], ...]]
"""Some rows: pooled [n, D], and the maps [n, C, h, w]."""


@dataclass(frozen=True)
class EmbeddingTable:
    """What a file is to hold, without the features themselves.

    Attributes:
        ids: of the images, in the order of the rows.
        dim: D of the pooled features.
        maps: shape [C, h, w] and dtype of each map, shallow to deep; none where pooled features alone are written.
        facts: what the file says of itself, as plain values.
    """

    ids: Sequence[str]
    dim: int
    maps: Layout
    facts: dict[str, Any]

    @property
    def piece_rows(self) -> int:
        """Rows that ``PIECE_BYTES`` hold, one at least.

        >>> EmbeddingTable([], 1000, (), {}).piece_rows
        8000
        """
        row = 4 * self.dim + sum(np.dtype(each.dtype).itemsize * int(np.prod(each.shape)) for each in self.maps)
        return max(1, PIECE_BYTES // row)


def write_parquet(path: Path, table: EmbeddingTable, pieces: Iterable[Piece]) -> None:
    """Write the columns ``id`` and ``embedding``, a list of D float32; each piece becomes a row group.

    Raises:
        ValueError: there are maps, or the pieces are not of as many rows as there are ids.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.maps:
        raise ValueError("Parquet holds no maps")
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False), table.dim)
    fields = [pa.field(ID, pa.string(), nullable=False), pa.field(EMBEDDING, kind, nullable=False)]
    schema = pa.schema(fields, metadata={MARK: _as_json(table.facts)})
    rows = 0
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for pooled, _ in pieces:
            values = pa.FixedSizeListArray.from_arrays(pa.array(pooled.ravel(), pa.float32()), type=kind)
            ids = pa.array(table.ids[rows : rows + len(pooled)], pa.string())
            writer.write_table(pa.table([ids, values], schema=schema), row_group_size=max(1, len(pooled)))
            rows += len(pooled)
    _check_rows(rows, table)


def write_safetensors(path: Path, table: EmbeddingTable, pieces: Iterable[Piece]) -> None:
    """Write ``pooled`` [N, D] in float32, ``map_0`` … [N, C, h, w], and ``ids`` (see ``ids_as_bytes``).

    Raises:
        ValueError: a piece does not fit the dtype of a map, or the pieces are not of as many rows as there are ids.
        EvalfmError: an id cannot be kept.
    """
    names = ids_as_bytes(table.ids)
    rows, count = 0, len(table.ids)
    layouts = [(POOLED, ArrayLayout((table.dim,), "<f4"))]
    layouts += [(MAP.format(number), each) for number, each in enumerate(table.maps)]
    # What is wider comes first, so that every array begins at a multiple of its item.
    layouts = sorted(layouts, key=lambda each: -np.dtype(each[1].dtype).itemsize)
    layouts += [(IDS, ArrayLayout(names.shape[1:], "|u1"))]
    starts, header = _header(layouts, count, table.facts)
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + starts["end"])
        for pooled, maps in pieces:
            parts = {POOLED: pooled} | {MAP.format(number): each for number, each in enumerate(maps)}
            for name, layout in layouts[:-1]:
                _put(stream, len(header) + starts[name], rows, parts[name], layout)
            rows += len(pooled)
        _put(stream, len(header) + starts[IDS], 0, names, layouts[-1][1])
    _check_rows(rows, table)


WRITERS: dict[str, Callable[[Path, EmbeddingTable, Iterable[Piece]], None]] = {
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
}
"""What writes a file, by its suffix."""


def ids_as_bytes(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Ids as uint8 [N, L]: each in UTF-8, filled up with zero bytes to the length of the longest.

    Raises:
        EvalfmError: an id ends in a zero byte, which would be lost.

    >>> ids_as_bytes(["a", "é"]).tolist()
    [[97, 0], [195, 169]]
    """
    encoded = [each.encode() for each in ids]
    lost = next((each for each in encoded if each.endswith(b"\0")), None)
    if lost is not None:
        raise EvalfmError(f"The id {lost!r} ends in a zero byte, which .safetensors would lose; write .parquet.")
    longest = max(map(len, encoded), default=1) or 1
    return np.array(encoded, dtype=f"S{longest}").view(np.uint8).reshape(len(encoded), longest)


def ids_from_bytes(ids: NDArray[np.uint8]) -> list[str]:
    """The ids that ``ids_as_bytes`` has made uint8 [N, L] of.

    >>> ids_from_bytes(ids_as_bytes(["a", "bcd"]))
    ['a', 'bcd']
    """
    return [row.tobytes().rstrip(b"\0").decode() for row in ids]


def read_facts(path: Path) -> dict[str, Any] | None:
    """What a file of embeddings says of itself; None where it is none that evalfm has written."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_schema

            text = (read_schema(path).metadata or {}).get(MARK.encode())
        else:
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                text = (file.metadata() or {}).get(MARK)
        facts = None if text is None else json.loads(text)
    except Exception:
        # Whatever a file of others makes the libraries raise says that it is none of evalfm's.
        return None
    return facts if isinstance(facts, dict) else None


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, allow_nan=False)


def _header(
    layouts: Sequence[tuple[str, ArrayLayout]], count: int, facts: dict[str, Any]
) -> tuple[dict[str, int], bytes]:
    """Where each array begins behind the header (and, as ``end``, where the last one ends), and the header itself."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt", MARK: _as_json(facts)}}
    starts, end = {}, 0
    for name, layout in layouts:
        shape = [count, *layout.shape]
        nbytes = int(np.prod(shape, dtype=object)) * np.dtype(layout.dtype).itemsize
        content[name] = {
            "dtype": SAFETENSORS_DTYPES[layout.dtype],
            "shape": shape,
            "data_offsets": [end, end + nbytes],
        }
        starts[name], end = end, end + nbytes
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return {**starts, "end": end}, len(text).to_bytes(8, "little") + text


def _put(stream: BinaryIO, start: int, row: int, values: NDArray[Any], layout: ArrayLayout) -> None:
    if values.shape[1:] != tuple(layout.shape) or not np.can_cast(values.dtype, layout.dtype):
        raise ValueError(f"{values.dtype} {values.shape[1:]} does not fit {layout}")
    rows = np.ascontiguousarray(values, layout.dtype)
    stream.seek(start + row * int(np.prod(layout.shape)) * rows.itemsize, os.SEEK_SET)
    stream.write(rows.data)


def _check_rows(rows: int, table: EmbeddingTable) -> None:
    if rows != len(table.ids):
        raise ValueError(f"{rows} rows were written for {len(table.ids)} ids")
