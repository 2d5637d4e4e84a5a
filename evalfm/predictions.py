"""The predictions of a run as a table: one door, which lets in only what the run's record speaks of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evalfm.data.table_bounds import check_parquet
from evalfm.errors import EvalfmError
from evalfm.record import DataSection, printable
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.kinds.kind import LARGEST, Column

PREDICTIONS = "predictions.parquet"
EPISODES = "episodes.parquet"
"""In place of predictions, of a run of few-shot episodes."""
SPLITS = ("val", "test")


class Unfit(Exception):
    """A table that is not what its record says, in words."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """``path``, a file of a run, whose faults are said with the remedy.

    Raises:
        EvalfmError: it is not there, or was found unfit.
    """
    again = "copy the whole run again, or make it again with --force"
    if not path.is_file():
        raise EvalfmError(f"{path.parent} has no {path.name}; {again}.")
    try:
        yield path
    except Unfit as fault:
        raise EvalfmError(f"{path} is not what its run.json says ({printable(str(fault))[:500]}); {again}.") from None


def read_predictions(folder: Path, kind: str, data: DataSection) -> pd.DataFrame:
    """The checked table of the run in ``folder``: one row per val and test example.

    Args:
        folder: of the run.
        kind: of its task, or ``base-to-novel``.
        data: what its record says of the data: classes, folds, and sizes of the splits.

    Raises:
        EvalfmError: it is not there, is no Parquet, or has other rows, columns or values than the record says.
    """
    with whole_file(folder / PREDICTIONS) as path:
        table = read_flat(path, most=data.splits.test.images + data.splits.val.images * (data.folds or 1))
        _check_rows(table, data)
        _check_columns(table, kind, data)
    for name in table.columns:
        # Of attributes: what is no number that one can reckon with is unknown.
        wild = np.abs(numbers(table[name])) > LARGEST
        if wild.any():
            table[name] = table[name].mask(wild)
    return table


def read_episodes(folder: Path) -> pd.DataFrame:
    """The table of the run of few-shot episodes in ``folder``: one row an episode.

    Raises:
        EvalfmError: it is not there, or it is no Parquet or damaged.
    """
    path = folder / EPISODES
    try:
        check_parquet(path)
        return pd.read_parquet(path)
    except Exception as error:
        # Whatever a damaged file makes the library raise is a fault of the file.
        raise EvalfmError(
            f"{path} cannot be read ({printable(_first_line(error))}); copy the whole run again, or make it again with "
            "--force."
        ) from None


def read_flat(path: Path, most: int) -> pd.DataFrame:
    """The table of words and numbers, once it is known to have no more than ``most`` rows.

    Raises:
        Unfit: it has more, is no Parquet, or holds anything else.
    """
    try:
        check_parquet(path)
        file = pq.ParquetFile(path)
        rows, schema = file.metadata.num_rows, file.schema_arrow
        file.close()
    except EvalfmError:
        raise
    except Exception as error:
        # Whatever a damaged file makes the library raise is a fault of the file.
        raise Unfit(f"no Parquet: {_first_line(error)}") from None
    # Before anything is read: a small file may declare any number of rows.
    if rows > most:
        raise Unfit(f"it has {rows:,} rows, more than the record counts")
    if len(set(schema.names)) < len(schema.names):
        raise Unfit("a column stands twice")
    for field in schema:
        if pa.types.is_nested(field.type) or isinstance(field.type, pa.BaseExtensionType):
            raise Unfit(f"the column {field.name!r} holds {str(field.type)[:40]}, no words or numbers")
    try:
        table = pd.read_parquet(path)
    except Exception as error:
        raise Unfit(f"damaged: {_first_line(error)}") from None
    table = table.reset_index(drop=True)
    table.columns = [printable(str(name)) for name in table.columns]
    if len(set(table.columns)) < len(table.columns):
        raise Unfit("a column stands twice")
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        if not pd.api.types.is_numeric_dtype(column.dtype) and not name.startswith("prediction_rle_"):
            column = _printable_words(column)
        table[name] = column
    return table


def _printable_words(column: pd.Series) -> pd.Series:
    odd = {each: printable(each) for each in column.unique() if isinstance(each, str) and printable(each) != each}
    return column.map(lambda each: odd.get(each, each)) if odd else column


def _check_rows(table: pd.DataFrame, data: DataSection) -> None:
    """Who is in the table: names, splits and folds, as many as the record counts."""
    need(table, ["id", "patient", "split", *(["fold"] if data.folds else [])])
    for name in ("id", "patient", "split"):
        if not all(isinstance(each, str) for each in table[name]):
            raise Unfit(f"the column {name!r} must hold a word in every row")
    if not table["split"].isin(SPLITS).all():
        raise Unfit("the column 'split' must say val or test")
    if "fold" in table:
        if not data.folds:
            raise Unfit("it has folds and the record none")
        if Column("fold", classes=data.folds).wrong(numbers(table["fold"])).any():
            raise Unfit(f"the column 'fold' must hold numbers from 0 to {data.folds - 1}")
    test = table[table["split"] == "test"]
    size = data.splits.test
    if len(test) != size.images:
        raise Unfit(f"it has {len(test)} test rows of {size.images} test images")
    if test["id"].duplicated().any():
        raise Unfit("an image is tested twice")
    if data.patients_known and test["patient"].nunique() != size.patients:
        raise Unfit(f"it tests {test['patient'].nunique()} patients of {size.patients}")


def _check_columns(table: pd.DataFrame, name: str, data: DataSection) -> None:
    """What the kind of task, called ``name``, writes, what its operating points add, and the count of its findings."""
    kind, classes = kind_of(name), data.class_names
    columns = [*kind.columns(classes), *([Column("threshold")] if kind.one_label else [])]
    check_columns(table, columns, chosen_columns(classes))
    if kind.finding:
        tested = table[table["split"] == "test"]
        count = int(kind.positive(tested, classes).sum())
        if count != data.splits.test.positive_images:
            raise Unfit(f"{count} test images have the finding, and {data.splits.test.positive_images} by the record")


def chosen_columns(classes: Sequence[str]) -> list[Column]:
    """What the operating points of ``classes`` add, where there are some."""
    beside = [Column(f"threshold_{each}", partly=True) for each in classes]
    return [*beside, *(Column(f"calibrated_{each}", low=0, high=1, partly=True) for each in classes)]


def check_columns(table: pd.DataFrame, columns: Sequence[Column], beside: Sequence[Column]) -> None:
    """Refuse cells that no run writes in ``columns``, which must be there, and ``beside``, which may.

    Raises:
        Unfit: says what is wrong.
    """
    need(table, [each.name for each in columns])
    for column in (*columns, *(each for each in beside if each.name in table)):
        values = table[column.name]
        if values.notna().any() and not pd.api.types.is_numeric_dtype(values.dtype):
            raise Unfit(f"the column {column.name!r} must hold numbers")
        if (np.abs(numbers(values)) > LARGEST).any():
            raise Unfit(f"the column {column.name!r} holds a number without bounds")
        if column.wrong(numbers(values)).any():
            raise Unfit(f"the column {column.name!r} must {column.must}")


def need(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a table that lacks a column of ``names``.

    Raises:
        Unfit: names them.
    """
    absent = [name for name in names if name not in table]
    if absent:
        raise Unfit(f"it has no column {', '.join(map(repr, absent[:5]))}")


def numbers(column: pd.Series) -> NDArray[np.float64]:
    """As float64, NaN where there is none or it is a word."""
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return np.full(len(column), np.nan)
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
