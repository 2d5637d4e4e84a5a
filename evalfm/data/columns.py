"""Columns of tables in one form: text as str or None, numbers as float64 with NaN for unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.dataset_info import DatasetInfo
from evalfm.errors import EvalfmError
from evalfm.paths import input_file

TEXT_COLUMNS = ("id", "image", "patient", "study", "group", "laterality", "split", "split_key", "sex", "view")
NUMBER_COLUMNS = ("age", "slice", "spacing_row_mm", "spacing_column_mm")
MASK_SUFFIX = "_mask"


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV as text (empty cells missing, nothing else is), or a Parquet file with its types.

    Text first, so that ``007`` stays ``007`` and ``NA`` stays a word; header and cells lose outer spaces.

    Raises:
        EvalfmError: the file is absent or not readable as such a table.
    """
    input_file(path)
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            table = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
            table = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
            )
            # pandas renames the second of two columns of one name; the first line says what was written.
            first = pd.read_csv(
                path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
            _refuse_twice(path, [str(name).strip() for name in first.iloc[0]])
    except (ValueError, OSError) as error:
        kind = "Parquet" if path.suffix.lower() in {".parquet", ".pq"} else "CSV"
        reason = " ".join(str(error).split())
        raise EvalfmError(f"{path} cannot be read as {kind} ({reason}); check the file.") from None
    table.columns = pd.Index([str(name).strip() for name in table.columns], dtype=object)
    _refuse_twice(path, table.columns.tolist())
    return table


def _refuse_twice(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise EvalfmError(f"{path} has the column {', '.join(twice)} twice; remove one.")


def as_text(column: pd.Series) -> pd.Series:
    """Cells as stripped str, None where missing or empty; 75 and 75.0 both become ``75``."""
    missing = column.isna().to_numpy(dtype=bool)
    values = column.astype(object).to_numpy()
    if pd.api.types.is_float_dtype(column.dtype):
        # A whole number that only a missing neighbour turned into a float.
        values = np.array([int(value) if not gone and value == int(value) else value
                           for value, gone in zip(values, missing, strict=True)], dtype=object)  # fmt: skip
    text = [None if gone else str(value).strip() or None for value, gone in zip(values, missing, strict=True)]
    return pd.Series(text, index=column.index, dtype=object)


def as_numbers(column: pd.Series) -> pd.Series | None:
    """Cells as float64, NaN where missing; None where some cell is no number."""
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        numbers = column.astype(object).where(column.notna(), np.nan).astype(np.float64)
        return pd.Series(numbers, index=column.index, dtype=np.float64)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return None
    values = column.astype(object)
    present = values[values.notna()]
    words = {"true": 1.0, "false": 0.0, "True": 1.0, "False": 0.0, "TRUE": 1.0, "FALSE": 0.0}
    present = present.map(lambda value: words.get(value.strip(), value.strip()) if isinstance(value, str) else value)
    present = present[present != ""]
    numbers = pd.to_numeric(present.astype(object), errors="coerce")
    if numbers.isna().any() or not np.isfinite(numbers.to_numpy(dtype=np.float64)).all():
        return None
    filled = pd.Series(np.nan, index=column.index, dtype=np.float64)
    filled.loc[numbers.index] = numbers.to_numpy(dtype=np.float64)
    return filled


def canonical(table: pd.DataFrame, info: DatasetInfo, *, from_text: bool = False) -> pd.DataFrame:
    """The table with every column in its one form and rows numbered from 0.

    What cannot be brought into its form (a word in a number column) stays as it is, for the checks to name.

    Args:
        table: as read or built.
        info: declares the labels and their kinds.
        from_text: every cell came as text, so columns that look like numbers become numbers.
    """
    table = table.reset_index(drop=True)
    columns = {str(name): _column(str(name), table[name], info, from_text) for name in table.columns}
    return pd.DataFrame(columns, index=table.index)


def _column(name: str, column: pd.Series, info: DatasetInfo, from_text: bool) -> pd.Series:
    if name in TEXT_COLUMNS or name.endswith(MASK_SUFFIX):
        return as_text(column)
    numeric = pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)
    declared = name in NUMBER_COLUMNS or (name in info.label_source and info.label_kind(name) != "class")
    if declared or numeric or _holds_booleans(column) or (from_text and not _has_leading_zeros(column)):
        numbers = as_numbers(column)
        if numbers is not None:
            return numbers
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    return as_text(column)


def with_numbers(column: pd.Series) -> pd.Series:
    """A text column as numbers where every cell is one and has no leading zero to lose, else as it was."""
    numbers = None if _has_leading_zeros(column) else as_numbers(column)
    return column if numbers is None else numbers


def _holds_booleans(column: pd.Series) -> bool:
    if column.dtype != object:
        return False
    present = column[column.notna()]
    return len(present) > 0 and all(isinstance(value, bool | np.bool_) for value in present)


def _has_leading_zeros(column: pd.Series) -> bool:
    return any(isinstance(value, str) and len(value) > 1 and value[0] == "0" and value[1].isdigit() for value in column)


def known(column: pd.Series) -> NDArray[np.bool_]:
    """Which cells hold something, bool [N]."""
    return column.notna().to_numpy(dtype=bool)
