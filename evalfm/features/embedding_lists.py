"""Lists of numbers in Parquet, one for each image, read straight into one array and not held beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

BATCH_ROWS = 8192
BUFFER_BYTES = 1 << 20
"""Of a file read at once, so that a row group of any size takes no more."""


def lists_beside(schema: pa.Schema, name: str) -> str | None:
    """The column of number lists of a file that holds nothing but it and the column ``name``; else None.

    >>> schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    >>> lists_beside(schema, "id"), lists_beside(schema.append(pa.field("age", pa.int8())), "id")
    ('embedding', None)
    """
    others = [field for field in schema if field.name.strip() != name]
    if len(schema) != 2 or len(others) != 1:
        return None
    kind = others[0].type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    numbers = is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    return str(others[0].name) if numbers else None


def read_lists(path: Path, column: str) -> NDArray[np.float32] | None:
    """The lists of ``column`` as [N, D], NaN where a number is missing; None unless all are there and of one length.

    What float32 cannot hold becomes infinite.

    Raises:
        Exception: whatever pyarrow raises on a damaged file.
    """
    with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        rows = file.metadata.num_rows
        values: NDArray[np.float32] | None = None
        done = 0
        for batch in file.iter_batches(BATCH_ROWS):
            lists = batch.column(column)
            lengths = pc.list_value_length(lists)
            least, most = pc.min_max(lengths).as_py().values()
            if lists.null_count or least != most or not most:
                return None
            if values is None:
                values = np.empty((rows, most), dtype=np.float32)
            if most != values.shape[1]:
                return None
            # What float32 cannot hold is named by whoever looks for it.
            with np.errstate(over="ignore"):
                values[done : done + len(lists)] = _flat(lists).reshape(len(lists), most)
            done += len(lists)
    return values


def _flat(lists: pa.Array) -> NDArray[np.generic]:
    """The numbers of all lists, one after the other."""
    numbers = lists.flatten()
    # Beside a missing number whole ones are read as floating point, which is how NaN stands among them.
    filled = pc.fill_null(pc.cast(numbers, pa.float64()), float("nan")) if numbers.null_count else numbers
    return np.asarray(filled.to_numpy(zero_copy_only=False))
