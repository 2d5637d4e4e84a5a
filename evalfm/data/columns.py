"""Columns of tables in one form: text as str or None, numbers as float64 with NaN for unknown."""

from __future__ import annotations

import codecs
import math
from collections import Counter
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.table_bounds import check_csv, check_parquet
from evalfm.errors import EvalfmError
from evalfm.paths import input_file

TEXT_COLUMNS = ("id", "image", "patient", "study", "group", "laterality", "split", "split_key", "sex", "view")
SPACING_COLUMNS = ("spacing_row_mm", "spacing_column_mm")
NUMBER_COLUMNS = ("age", "slice", *SPACING_COLUMNS)
SPLITS = ("train", "val", "test")
MASK_SUFFIX = "_mask"
EMPTY_MASK = "-1"
"""What a mask cell says where the finding is known to be absent, in every dialect."""
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
COMPRESSED = frozenset({".gz", ".bz2", ".zip", ".xz", ".zst", ".tar"})
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
LONGEST_SHOWN = 60
LONGEST_REASON = 300
TRUTH_WORDS = {"true": 1.0, "false": 0.0}
MISSING_WORDS = frozenset({"na", "n/a", "#n/a", "<na>", "nan", "null", "#null!", "#value!", "#div/0!"})
"""What R, pandas, SQL and spreadsheets write for a missing cell, in lower case; none is taken for one unasked."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV as text (empty cells missing, nothing else is), or a Parquet file with its types.

    Text first, so that ``007`` stays ``007`` and ``NA`` stays a word; header and cells lose outer spaces. A named index
    of a Parquet file is a column like any other.

    Raises:
        EvalfmError: the file is absent or not readable as such a table.

    >>> _ = Path("t.csv").write_text("id,age\\n007,64\\n")
    >>> read_table(Path("t.csv"))["id"].tolist()
    ['007']
    """
    input_file(path)
    is_parquet = path.suffix.lower() in PARQUET_SUFFIXES
    try:
        table = _read_parquet(path) if is_parquet else _read_text(path)
    except EvalfmError:
        raise
    except Exception as error:  # pyarrow and pandas raise whatever they like on damaged files
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        kind = "Parquet" if is_parquet else "CSV"
        raise EvalfmError(f"{path} cannot be read as {kind} ({reason}); check the file.") from None
    table.columns = pd.Index([str(name).strip() for name in table.columns], dtype=object)
    _refuse_twice(path, table.columns.tolist())
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    check_parquet(path)
    _refuse_twice(path, pyarrow.parquet.read_schema(path).names)
    table = pd.read_parquet(path)
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        if any(isinstance(cell, bytes) for cell in column[:1000]):
            table.isetitem(position, [_decoded(cell) for cell in column])
    return table


def _decoded(cell: object) -> object:
    """Text that another program stored as bytes; pixels and the like stay bytes, which no column of names takes."""
    try:
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError:
        return cell


def _read_text(path: Path) -> pd.DataFrame:
    _refuse_foreign_text(path)
    separator = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
    check_csv(path, separator)
    # pandas renames the second of two columns of one name; the first line says what was written.
    first = pd.read_csv(
        path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )
    header = [str(name).strip() for name in first.iloc[0]]
    _refuse_twice(path, header)
    others = [word for mark, word in OTHER_SEPARATORS.items() if len(header) == 1 and mark in header[0]]
    if others:
        raise EvalfmError(
            f"{path} separates its columns by {others[0]}; save it with commas and decimal points (.csv), "
            "or with tabs (.tsv)."
        )
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    # pandas takes a first column without a name for row names, which shifts every name by one column.
    if not isinstance(table.index, pd.RangeIndex):
        raise EvalfmError(
            f"{path} cannot be read as CSV (its rows have more cells than its first line has names); give every "
            "column a name (R: write.csv, not write.table) and end no row with a comma."
        )
    return table


def _refuse_foreign_text(path: Path) -> None:
    """Say in which line a file is no UTF-8 text; compressed ones are left to pandas."""
    if path.suffix.lower() in COMPRESSED:
        return
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            if line == 1 and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in chunk[:4]:
                raise EvalfmError(f"{path} cannot be read as CSV (it is UTF-16 text); save it as CSV UTF-8.")
            if (zero := chunk.find(b"\0")) >= 0:
                line += chunk.count(b"\n", 0, zero)
                raise EvalfmError(f"{path} cannot be read as CSV (zero bytes in line {line}); save it as CSV UTF-8.")
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise EvalfmError(
                    f"{path} cannot be read as CSV (line {line} is no UTF-8 text); save it as CSV UTF-8."
                ) from None
            line += chunk.count(b"\n")


def _refuse_twice(path: Path, names: list[str]) -> None:
    twice = sorted(name for name, times in Counter(names).items() if name and times > 1)
    if twice:
        raise EvalfmError(f"{path} has the column {', '.join(twice)} twice; remove one.")


def without_words(table: pd.DataFrame, words: Collection[str]) -> pd.DataFrame:
    """``table`` with every cell empty that is one of ``words``, such as ``NA``."""
    if not words:
        return table
    return pd.DataFrame({name: table[name].mask(as_text(table[name]).isin(set(words))) for name in table.columns})


def as_text(column: pd.Series) -> pd.Series:
    """Cells as stripped str, None where missing or empty; 75 and 75.0 both become ``75``.

    Raises:
        EvalfmError: a cell holds several values, or an infinite number, which are no text.

    >>> as_text(pd.Series([75.0, None])).tolist()
    ['75', None]
    """
    missing = column.isna().to_numpy(dtype=bool)
    values = column.astype(object).to_numpy()
    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        # As nearly every column of names is: a fifth of the time of what comes below.
        words = np.full(len(values), None, dtype=object)
        words[~missing] = [word.strip() or None for word in values[~missing]]
        return pd.Series(words, index=column.index, dtype=object)
    if pd.api.types.is_float_dtype(column.dtype):
        _refuse_infinite(column)
        # A whole number that only a missing neighbour turned into a float.
        values = np.array([int(value) if not gone and value == int(value) else value
                           for value, gone in zip(values, missing, strict=True)], dtype=object)  # fmt: skip
    elif column.dtype == object:
        for row, value in enumerate(values, start=1):
            if isinstance(value, list | tuple | dict | set | np.ndarray | bytes):
                what = "bytes that are no text" if isinstance(value, bytes) else "lists"
                raise EvalfmError(
                    f"The column {column.name!r} holds {what} (row {row}); write one word or number a cell."
                )
    text = [None if gone else str(value).strip() or None for value, gone in zip(values, missing, strict=True)]
    return pd.Series(text, index=column.index, dtype=object)


def _refuse_infinite(column: pd.Series) -> None:
    infinite = np.flatnonzero(np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)))
    if infinite.size:
        raise EvalfmError(
            f"The column {column.name!r} holds an infinite number in row {infinite[0] + 1}, where names or words "
            "belong; write one or leave the cell empty."
        )


def as_numbers(column: pd.Series) -> pd.Series | None:
    """Cells as float64, NaN where missing; None where some cell is no number.

    >>> as_numbers(pd.Series(["75", None])).tolist()
    [75.0, nan]
    """
    numbers, wrong = _parsed(column)
    return None if wrong.any() else numbers


def numbers_or_cells(column: pd.Series) -> pd.Series:
    """Numbers as float64 where every cell is one; else each cell that is one as a float, the others as text."""
    numbers, wrong = _parsed(column)
    return (
        numbers if not wrong.any() else numbers.astype(object).mask(wrong, column.astype(object).map(str).str.strip())
    )


def first_word(column: pd.Series) -> str:
    """Where the first cell that is no number stands, as ``row 51: 'NA'``, rows counted from 1."""
    _, wrong = _parsed(column)
    row = int(np.argmax(wrong))
    return f"row {row + 1}: {str(column.iloc[row])[:LONGEST_SHOWN]!r}"


def _parsed(column: pd.Series) -> tuple[pd.Series, NDArray[np.bool_]]:
    """Cells as float64, NaN where missing, and which of them are no numbers."""
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        numbers = column.astype(object).where(column.notna(), np.nan).astype(np.float64)
        return pd.Series(numbers, index=column.index, dtype=np.float64), np.zeros(len(column), dtype=bool)
    parsed = [_number(cell) for cell in column.astype(object)]
    wrong = np.array([value is None for value in parsed], dtype=bool)
    values = [np.nan if value is None else value for value in parsed]
    return pd.Series(values, index=column.index, dtype=np.float64), wrong


def _number(cell: object) -> float | None:
    """A cell as a finite number, NaN where it is empty, None where it is anything else."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return math.nan
    if isinstance(cell, str):
        text = cell.strip()
        if not text:
            return math.nan
        if text.lower() in TRUTH_WORDS:
            return TRUTH_WORDS[text.lower()]
        # float() also takes 1_000, nan and digits of other scripts.
        if not text.isascii() or "_" in text or text.lower().lstrip("+-") == "nan":
            return None
        cell = text
    elif not isinstance(cell, int | float | np.number | np.bool_ | Decimal):
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError, TypeError):
        return None
    return None if math.isinf(number) else number


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
    if declared:
        # One word among numbers leaves the others numbers, so that the checks name it alone.
        return numbers_or_cells(column)
    if numeric or _holds_booleans(column) or (from_text and not _has_leading_zeros(column)):
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
