"""Files of embeddings that were computed elsewhere: tables, lists in tables, arrays; what is no feature is refused."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import safe_open

from evalfm.data.columns import LONGEST_REASON, as_text
from evalfm.data.table_bounds import check_csv, check_parquet
from evalfm.errors import EvalfmError
from evalfm.features.embedding_lists import lists_beside, read_lists
from evalfm.features.embedding_writers import IDS, POOLED, ids_from_bytes

ID = "id"
SHOWN = 5
MOST_COLUMNS = 100_000
ROW_NUMBERS = frozenset({"", "index", "level_0", "__index_level_0__", "rownames"})
"""Names, in lower case, under which programs write the numbers of rows."""
NO_FEATURES = frozenset(
    f"{word}{ending}"
    for word in (
        "label",
        "target",
        "class",
        "groundtruth",
        "ytrue",
        "patient",
        "patientid",
        "subjectid",
        "split",
        "fold",
    )
    for ending in ("", "s")
)
"""Names, without capitals and hyphens, that labels and patients have and features have not."""
UNNAMED = "unnamed:"
"""How pandas names a column without a name."""
FEWEST_IN_STEPS = 8
"""Rows from which whole numbers in equal steps are no chance; fewer must be the row numbers themselves."""
FEWEST_RISING = 20
"""Rows from which whole numbers that only rise or only fall, or two columns that are equal, are no chance."""
LARGE_BYTES, MOST_INFLATION = 2**30, 100
"""An array of more bytes must not be packed further than this; features hardly pack at all."""


@dataclass(frozen=True)
class Embeddings:
    """What a file holds: ids [N], float32 [N, D] and a name of each column."""

    ids: list[str]
    values: NDArray[np.float32]
    names: list[str]


def few(names: Sequence[str]) -> str:
    """The first of ``names``, for a message."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def read_embeddings(path: Path, taken: Collection[str]) -> Embeddings:
    """Read a table (.csv, .parquet) or arrays (.npz, .safetensors).

    ``taken`` are the columns of the data set, which are no features.

    Raises:
        EvalfmError: the file cannot be read, or has a column that is no feature, such as the numbers of its rows.
    """
    found = _read(path, taken)
    _refuse_row_numbers(found, path)
    return found


def _read(path: Path, taken: Collection[str]) -> Embeddings:
    if not path.is_file():
        raise EvalfmError(f"There is no file {path}; check the path.")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pq", ".npz", ".safetensors"):
        raise EvalfmError(f"{path} is no table of embeddings; give a .csv, .parquet, .npz or .safetensors file.")
    try:
        if suffix == ".safetensors":
            return _read_tensors(path)
        if suffix == ".npz":
            return _read_arrays(path)
        return _from_table(path, *((_read_csv(path), None) if suffix == ".csv" else _read_parquet(path)), taken)
    except EvalfmError:
        raise
    except MemoryError:
        raise EvalfmError(f"{path} does not fit into the memory that is free here; take a larger machine.") from None
    except Exception as error:  # pandas, pyarrow and zipfile raise whatever they like on damaged files
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise EvalfmError(f"{path} cannot be read ({reason}); check the file.") from None


def _read_csv(path: Path) -> pd.DataFrame:
    check_csv(path, ",", MOST_COLUMNS)
    # pandas gives a name to a column without one, and a new one to the second of two.
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    names = [str(name).strip() for name in first.iloc[0]]
    table = pd.read_csv(path, dtype={names.index(ID): str} if ID in names else None, encoding="utf-8-sig")
    if not isinstance(table.index, pd.RangeIndex):
        raise EvalfmError(f"{path} has rows with more cells than its first line has names; name every column.")
    return table.set_axis(pd.Index(names, dtype=object), axis=1)


def _read_parquet(path: Path) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
    """The table, and what its one column of lists holds where that could be read without a list for each image."""
    check_parquet(path, MOST_COLUMNS)
    schema = pyarrow.parquet.read_schema(path)
    if len(set(schema.names)) < len(schema.names):
        raise EvalfmError(f"{path} has a column twice; remove one.")
    lists = lists_beside(schema, ID)
    values = None if lists is None else read_lists(path, lists)
    table = pd.read_parquet(path, columns=None if values is None else [name for name in schema.names if name != lists])
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    if values is not None:
        table[lists] = pd.Series([()] * len(table), dtype=object)
    return table, values


def _from_table(
    path: Path, table: pd.DataFrame, lists_read: NDArray[np.float32] | None, taken: Collection[str]
) -> Embeddings:
    table = table.set_axis(pd.Index([str(name).strip() for name in table.columns], dtype=object), axis=1)
    names = [str(name) for name in table.columns if name != ID]
    if ID not in table:
        raise EvalfmError(f"{path} has no column 'id'; name the column of image ids so.")
    if not names:
        raise EvalfmError(f"{path} has no column beside 'id'; give one column per feature.")
    _refuse_columns(path, names, taken)
    ids = as_text(table[ID])
    if ids.isna().any():
        raise EvalfmError(
            f"{path} has no id in row {int(np.argmax(ids.isna())) + 1}; give every row the id of its image."
        )
    lists = [name for name in names if _holds_lists(table[name])]
    words = [name for name in names if name not in lists and not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        raise EvalfmError(f"{path} has columns that are no numbers ({few(words)}); {_about_words(table[words[0]])}.")
    if len(lists) > 1 or (lists and len(names) > 1):
        raise EvalfmError(
            f"{path} has a column of lists and others beside it ({few(names)}); keep the one that is meant."
        )
    if lists:
        values = lists_read if lists_read is not None else _stacked(table[lists[0]], lists[0], path)
        return Embeddings(ids.tolist(), values, [f"{lists[0]}[{n}]" for n in range(values.shape[1])])
    return Embeddings(ids.tolist(), _numbers(table[names]), names)


def _refuse_columns(path: Path, names: Sequence[str], taken: Collection[str]) -> None:
    """Row numbers, columns named twice and columns of the data set are no features."""
    numbers = [name for name in names if name.lower() in ROW_NUMBERS or name.lower().startswith(UNNAMED)]
    if numbers:
        named = [f"a column {name!r}" if name else "a column without a name" for name in numbers]
        raise EvalfmError(
            f"{path} has {' and '.join(named[:SHOWN])}, which is the number of the row and no feature; leave it out "
            "(pandas: index=False)."
        )
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise EvalfmError(f"{path} has the column {few(twice)} twice; remove one.")
    known = {_plain(name) for name in taken}
    if shared := [name for name in names if _plain(name) in known]:
        raise EvalfmError(
            f"{path} has columns that the data set has too ({few(shared)}), such as its labels or "
            "patients; leave them out, and give a feature of that name another one."
        )
    if reserved := [name for name in names if _plain(name) in NO_FEATURES]:
        raise EvalfmError(
            f"{path} has columns that are called as labels or patients are ({few(reserved)}); leave them out, and give "
            "a feature of that name another one."
        )


def _plain(name: str) -> str:
    """A name without capitals and hyphens, and without the number that pandas gives to the second of two."""
    stem, dot, number = name.rpartition(".")
    return re.sub(r"[\W_]+", "", (stem if dot and number.isdecimal() and not stem.isdecimal() else name).lower())


def refuse_known_columns(values: NDArray[np.float32], names: Sequence[str], table: pd.DataFrame, path: Path) -> None:
    """A feature that equals a column of the data set, such as a label, tells it whatever it is called.

    ``values`` [N, D] are in the order of ``table``.

    Raises:
        EvalfmError: there is one.
    """
    for name in table.columns:
        known = table[name].notna().to_numpy()
        rows, codes = np.flatnonzero(known), _codes(table[name][known])
        if len(codes) < FEWEST_RISING or (codes == codes[0]).all():
            continue
        # Of the two classes of a label either may be 1.
        two = set(codes.tolist()) <= {0, 1}
        for label in (codes, 1 - codes) if two else (codes,):
            same = np.arange(values.shape[1])
            # Few columns pass the first rows; only those are looked at to their end.
            for part in (slice(0, 64), slice(64, None)):
                same = same[(values[np.ix_(rows[part], same)] == label[part, None]).all(axis=0)]
            if len(same):
                raise EvalfmError(
                    f"{path} has a feature ({names[same[0]]!r}) that equals the column {str(name)!r} of the data set; "
                    "leave it out."
                )


def _codes(column: pd.Series) -> NDArray[np.float32]:
    """The numbers of a column; of words their place in the alphabet."""
    if pd.api.types.is_numeric_dtype(column):
        return np.asarray(column.to_numpy(dtype=np.float32))
    return pd.factorize(column.astype(str), sort=True)[0].astype(np.float32)


def _refuse_row_numbers(found: Embeddings, path: Path) -> None:
    """A feature that counts the rows of a sorted table tells its labels, whatever it is called."""
    rows = len(found.values)
    if rows < 3:
        return
    values = found.values
    # Few columns begin in equal steps or in whole numbers that differ; only those are looked at to their end.
    head = values[: min(rows, FEWEST_IN_STEPS)].astype(np.float64)
    with np.errstate(invalid="ignore"):
        whole = ((head == np.rint(head)) & np.isfinite(head)).all(axis=0)
        candidates = np.flatnonzero((whole | _equal_steps(head)) & (head[0] != head[1]))
    for column in candidates:
        numbers = values[:, column].astype(np.float64)
        if not np.isfinite(numbers).all():
            continue
        steps = np.diff(numbers)
        from_start = steps[0] == 1 and numbers[0] in (0, 1)
        in_steps = bool(_equal_steps(numbers[:, None])[0]) and (rows >= FEWEST_IN_STEPS or from_start)
        rising = bool((numbers == np.rint(numbers)).all() and ((steps > 0).all() or (steps < 0).all()))
        if in_steps or (rows >= FEWEST_RISING and rising):
            raise EvalfmError(
                f"{path} has a feature that counts its rows ({found.names[column]!r}: {numbers[0]:g}, {numbers[1]:g}, "
                f"{numbers[2]:g}, …), which tells the labels of a sorted table; leave it out."
            )


def _equal_steps(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which columns of [N, D] rise or fall by one step that is not 0, up to the rounding of float32."""
    steps = np.diff(values, axis=0)
    rounding = np.abs(values).max(axis=0) * 2.0**-22
    step = np.abs(steps[0])
    return np.asarray((step > 4 * rounding) & (np.abs(steps - steps[:1]) <= rounding).all(axis=0))


def _holds_lists(column: pd.Series) -> bool:
    return column.dtype == object and any(isinstance(cell, list | tuple | np.ndarray) for cell in column)


def _about_words(column: pd.Series) -> str:
    """What to do about a column of no numbers."""
    first = next((cell for cell in column if isinstance(cell, str)), "")
    if first.lstrip().startswith(("[", "(")):
        return (
            "lists written as text are not read: save them as lists in Parquet, as one column per dimension, or as .npz"
        )
    return "leave them out"


def _stacked(column: pd.Series, name: str, path: Path) -> NDArray[np.float32]:
    """Lists of one length as float32 [N, D].

    Raises:
        EvalfmError: a cell is empty or no flat list of numbers, or lists differ in length; names the row.
    """
    rows: list[NDArray[Any]] = []
    for row, cell in enumerate(column, start=1):
        values = _flat(cell)
        if values is None:
            what = "no list" if not isinstance(cell, list | tuple | np.ndarray) else "no flat list of numbers"
            raise EvalfmError(f"{path} has {what} in row {row} of {name!r}; give each image one list of numbers.")
        if rows and len(values) != len(rows[0]):
            raise EvalfmError(
                f"{path} has {len(values)} numbers in row {row} of {name!r} and {len(rows[0])} in row 1; give all one "
                "length."
            )
        rows.append(values)
    if not rows or not len(rows[0]):
        raise EvalfmError(f"{path} has empty lists in {name!r}; give at least one number an image.")
    return _as_float32(np.stack(rows))


def _flat(cell: object) -> NDArray[Any] | None:
    """A list of numbers as [D], with NaN for None; None where it is anything else."""
    if not isinstance(cell, list | tuple | np.ndarray):
        return None
    try:
        values = np.asarray(cell)
        if values.dtype == object and all(each is None or isinstance(each, int | float | np.number) for each in values):
            values = np.array([np.nan if each is None else float(each) for each in values])
    except (ValueError, TypeError, OverflowError):
        return None
    return values if values.ndim == 1 and (values.dtype.kind in "biuf" or not values.size) else None


def _numbers(table: pd.DataFrame) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return table.to_numpy(dtype=np.float32, na_value=np.nan)


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    # What float32 cannot hold becomes infinite, and is named as that.
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _read_arrays(path: Path) -> Embeddings:
    _refuse_false_sizes(path)
    with np.load(path, allow_pickle=False) as arrays:
        absent = [name for name in ("ids", "features") if name not in arrays]
        if absent:
            raise EvalfmError(f"{path} has no array {' and none '.join(map(repr, absent))}; save both.")
        ids, features = arrays["ids"], arrays["features"]
    if features.ndim != 2 or ids.shape != features.shape[:1] or features.shape[1] == 0:
        rows = len(ids) if ids.ndim else 0
        raise EvalfmError(f"{path} has features of shape {features.shape} for {rows} ids; give [N, D].")
    if not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features):
        raise EvalfmError(f"{path} has features that are no numbers ({features.dtype}); give floats.")
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8")
    if ids.dtype.kind not in "Uiuf":
        raise EvalfmError(f"{path} has ids of type {ids.dtype}; give texts or numbers.")
    names = as_text(pd.Series(ids))
    if names.isna().any():
        raise EvalfmError(
            f"{path} has no id in row {int(np.argmax(names.isna())) + 1}; give every row the id of its image."
        )
    return Embeddings(names.tolist(), _as_float32(features), [str(n) for n in range(features.shape[1])])


def _read_tensors(path: Path) -> Embeddings:
    """What ``evalfm embed`` writes: ``pooled`` [N, D] and ``ids``, uint8 [N, L]; maps are not read."""
    with safe_open(path, framework="np") as file:
        names = set(file.keys())
        if absent := [name for name in (IDS, POOLED) if name not in names]:
            raise EvalfmError(
                f"{path} has no array {' and none '.join(map(repr, absent))}; write it with `evalfm embed`."
            )
        ids, pooled = file.get_tensor(IDS), file.get_tensor(POOLED)
    if ids.dtype != np.uint8 or pooled.dtype.kind != "f" or pooled.ndim != 2 or ids.shape[:1] != pooled.shape[:1]:
        raise EvalfmError(
            f"{path} has pooled {pooled.dtype} {pooled.shape} and ids {ids.dtype} {ids.shape}; give floats [N, D] and "
            "uint8 [N, L]."
        )
    return Embeddings(
        ids_from_bytes(ids), _as_float32(pooled), [f"{POOLED}[{number}]" for number in range(pooled.shape[1])]
    )


def _refuse_false_sizes(path: Path) -> None:
    """An array that declares more than its member holds would ask for memory that nothing fills."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(LARGE_BYTES, MOST_INFLATION * member.compress_size):
                raise EvalfmError(f"{path} cannot be read ({member.filename} declares a false size); save it again.")
            with archive.open(member) as stream:
                version = npy.read_magic(stream)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(stream)
            if (
                not dtype.hasobject
                and int(np.prod([*map(int, shape), 1], dtype=object)) * dtype.itemsize > member.file_size
            ):
                raise EvalfmError(f"{path} cannot be read ({member.filename} is cut short); save it again.")
