"""How much a file of a table may hold, checked before it is read: a small one can stand for any number of cells."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalfm.errors import EvalfmError

LARGE_BYTES, MOST_INFLATION = 2**28, 40
"""What is more than this in memory must not be packed further than so many times; tables of images reach 10."""
CELL_BYTES = 8
MOST_COLUMNS = 10_000
PACKED = frozenset({".gz", ".bz2", ".xz", ".zip", ".zst"})
_CHUNK = 2**20
_BATCH_ROWS = 65_536


def check_parquet(path: Path, most_columns: int = MOST_COLUMNS) -> None:
    """Read what the file declares of its cells, and how long its words are where one stands for many.

    Raises:
        EvalfmError: it has more columns than are read, or holds much more than a file of its size can.
        Exception: whatever pyarrow raises on a damaged file.
    """
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        _check_columns(path, len(schema), most_columns)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        _check_bytes(path, metadata.num_rows * len(schema) * CELL_BYTES)
        _check_bytes(path, sum(group.total_byte_size for group in groups))
    words = [field.name for field in schema if _is_text(field.type)]
    if not words:
        return
    total = 0
    with pq.ParquetFile(path, read_dictionary=words) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=words):
            total += sum(map(_text_bytes, batch.columns))
            _check_bytes(path, total)


def check_csv(path: Path, separator: str, most_columns: int = MOST_COLUMNS) -> None:
    """Read the first two lines, and where the file is packed (.gz, .zip and the like) how long it is unpacked.

    Raises:
        EvalfmError: it has more columns than are read, or much more text than a file of its size can.
        Exception: whatever a damaged archive raises.
    """
    mark, lines, total, cells = separator.encode(), 0, 0, 1
    packed = path.suffix.lower() in PACKED
    with _unpacked(path) as stream:
        while (lines < 2 or packed) and (chunk := stream.read(_CHUNK)):
            total += len(chunk)
            _check_bytes(path, total)
            # The first row may name more cells than the header, which pandas then takes for names of rows.
            lines_here = chunk.split(b"\n", 2 - lines) if lines < 2 else ()
            for number, line in enumerate(lines_here):
                lines, cells = (lines + 1, 1) if number else (lines, cells)
                cells += line.count(mark) if lines < 2 else 0
                _check_columns(path, cells, most_columns)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of ``path``, or of what pandas unpacks of it by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        raise EvalfmError(f"{path} is packed in a way that is not read; unpack it or pack it as .gz.")
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as stream:
            yield stream
        return
    # Typeshed gives each its own kind of stream.
    opens: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with opens.get(suffix, open)(path, "rb") as stream:
        yield stream


def _check_columns(path: Path, number: int, most: int) -> None:
    if number > most:
        raise EvalfmError(f"{path} has more than the {most:,} columns that are read; leave out what is not needed.")


def _check_bytes(path: Path, number: int) -> None:
    if number > max(LARGE_BYTES, MOST_INFLATION * path.stat().st_size):
        raise EvalfmError(f"{path} stands for far more than a file of its size can hold; unpack it or write it anew.")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(each(kind) for each in types)


def _text_bytes(column: pa.Array) -> int:
    """Bytes of all words of ``column``, those that are kept once counted as often as they stand."""
    if not isinstance(column, pa.DictionaryArray):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)
