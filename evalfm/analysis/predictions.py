"""Test predictions of one model: of a run, of a table that a run wrote, and the test rows of other tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import OF_CLASSES, OWN, declared
from evalfm.cautions import BESIDE_FIGURES, SYNTHETIC, sentences
from evalfm.errors import EvalfmError
from evalfm.metrics.rows import ROWS
from evalfm.run import MARK, Run
from evalfm.schema_one import cautions_of
from evalfm.tasks.kinds import ANSWERED, kind_of

UNKNOWN = ("NA", "N/A", "<NA>", "NaN", "nan", "null", "NULL", "None")
"""What other programs write into a cell that they mean to be empty."""
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "development", "tune", "tuning"),
    "test": ("test", "testing", "tst", "holdout", "hold-out", "held-out"),
}
"""How tables call their splits, in any capitals."""
_WORDS = {word: split for split, words in SPLITS.items() for word in words}
_FOLD = re.compile(r"^(cv|k)?[ _-]*folds?([ _-]*(id|no|nr|number|index|idx))?$", re.IGNORECASE)
_SEED = re.compile(r"^(random[ _-]*)?seeds?$", re.IGNORECASE)


@dataclass(frozen=True)
class Predictions:
    """What a model says of test images.

    Attributes:
        source: the folder or file, for errors.
        model: its name.
        kind: of the task, or ``base-to-novel``.
        class_names: as in the run.
        table: the test rows, one per image.
        unit: ``patients``, or ``images`` where nobody knows these.
        cautions: to print with every figure.
    """

    source: str
    model: str
    kind: str
    class_names: tuple[str, ...]
    table: pd.DataFrame
    unit: str
    cautions: tuple[str, ...]

    @classmethod
    def of_run(cls, run: Run, model: str | None = None) -> Predictions:
        """Those of a run, called ``model`` or by encoder, head and adaptation."""
        return cls(
            str(run.folder),
            model or run.record.model_name,
            run.kind,
            tuple(run.record.data.class_names),
            run.test_predictions(),
            run.record.data.unit,
            tuple(sentences(run.record.cautions, BESIDE_FIGURES)),
        )

    @classmethod
    def of_table(cls, path: Path, native: pd.DataFrame) -> Predictions | None:
        """Those of a table that a run wrote, as the run has them; None where another program made it.

        A Parquet file says itself what it holds, a copy as CSV is known by its columns.

        Raises:
            EvalfmError: rows were lost or put together so that the run's figures cannot be had.
        """
        columns = [str(name) for name in native.columns]
        native = flat(native)
        mark = native.attrs.get(MARK)
        facts = _marked(mark, columns) if isinstance(mark, Mapping) else None
        facts = facts or _by_columns(path, native)
        if facts is None:
            return None
        kind, names, unit, model, folds, cautions = facts
        if "split" not in columns or (folds and "fold" not in columns):
            lost = "split" if "split" not in columns else "fold"
            raise EvalfmError(
                f"{path.name} is a run's predictions without its column {lost!r}, so test rows are unknown or "
                "scores of different folds would be ranked together; give the table as the run wrote it."
            )
        table = native[as_words(native["split"]) == "test"].reset_index(drop=True)
        if not len(table):
            raise EvalfmError(f"No row of {path.name} is of test, and figures on val say nothing of new patients.")
        if table["id"].duplicated().any():
            twice = int(table["id"].duplicated().sum())
            raise EvalfmError(
                f"{twice} images stand in several test rows of {path.name}, as where the tables of several runs were "
                "put together; give one run's table at a time, or the folders of the runs."
            )
        table, said = _typed(table, names)
        _check(path.name, kind, names, table)
        return cls(str(path), model or path.name, kind, names, table, unit, (*cautions, *said))

    @property
    def patient(self) -> NDArray[np.object_]:
        """Patient id of each row, [N]."""
        return self.table["patient"].to_numpy(dtype=object)


_Facts = tuple[str, tuple[str, ...], str, str | None, bool, tuple[str, ...]]
"""Kind, classes, unit, model, whether there are folds, cautions."""


def _marked(mark: Mapping[str, Any], columns: Sequence[str]) -> _Facts | None:
    """What the mark of a Parquet file says; None where it is not one that evalfm writes, or of other columns."""
    kind, names, cautions = mark.get("kind"), mark.get("class_names"), mark.get("cautions")
    if mark.get("schema") == 1 and isinstance(mark.get("notes"), list):
        cautions = cautions_of(mark["notes"])
    # Anybody may have written it.
    if not isinstance(kind, str) or kind not in ROWS or not isinstance(names, list):
        return None
    if not isinstance(cautions, list) or not all(isinstance(each, dict) for each in cautions):
        return None
    texts = tuple(str(name) for name in names)
    if not {"id", "patient", *(each.name for each in kind_of(kind).columns(texts))} <= set(columns):
        return None
    unit = "patients" if mark.get("patients_known") else "images"
    return (
        kind,
        texts,
        unit,
        str(mark.get("model")),
        bool(mark.get("folds")),
        tuple(str(each.get("sentence")) for each in cautions),
    )


def _by_columns(path: Path, native: pd.DataFrame) -> _Facts | None:
    """What the columns tell: id, patient and a split of val and test, and those of a kind of task."""
    columns = [str(name) for name in native.columns]
    if not {"id", "patient", "split"} <= set(columns) or not set(as_words(native["split"])) <= {"val", "test"}:
        return None
    known = ((kind, kind.names_in(native)) for kind in ANSWERED.values())
    kind, names = next(((kind, names) for kind, names in known if names is not None), (None, ()))
    if kind is None:
        return None
    cautions = [f"{path.name} {kind.unsaid}"] if kind.unsaid else []
    if native["id"].astype(str).str.startswith("phantom-").all():
        cautions.append(SYNTHETIC.sentence)
    alone = (native["patient"].astype(str) == native["id"].astype(str)).all()
    return kind.name, names, "images" if alone else "patients", None, _in_folds(native), tuple(cautions)


def _in_folds(native: pd.DataFrame) -> bool:
    """Whether a run had folds, by what is on val: in folds images are so more than once, or are test images too."""
    in_val = as_words(native["split"]) == "val"
    ids = native["id"].astype(str)
    return bool(ids[in_val].duplicated().any() or ids[in_val].isin(ids[~in_val]).any())


def _typed(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Cells that came as text as numbers where they are some; beside it what was taken as empty."""
    table = table.copy()
    said = unknown_words(table)
    texts = {"id", "patient", "split"}
    for name in map(str, table.columns):
        if name in texts or pd.api.types.is_numeric_dtype(table[name].dtype):
            continue
        own = name in OWN or name.startswith(OF_CLASSES)
        if own and name not in declared(table, names) and not name.startswith(("distance_unit_", "prediction_rle_")):
            table[name] = _numbers(table[name], name)
        else:
            table[name] = numbers_or_words(table[name])
    return table, said


def _check(source: str, kind: str, names: Sequence[str], table: pd.DataFrame) -> None:
    """Refuse cells that no run writes, before anything is computed from them."""
    if table["patient"].isna().any():
        raise EvalfmError(
            f"The column 'patient' of {source} is empty in test rows; give the table as the run wrote it."
        )
    found = {each.name: each.wrong(table[each.name].to_numpy(np.float64)) for each in kind_of(kind).columns(names)}
    if "fold" in table:
        folds = table["fold"].to_numpy(np.float64)
        found["fold"] = ~np.isfinite(folds) | (folds != np.floor(folds))
    for name, wrong in sorted(found.items()):
        if wrong.any():
            raise EvalfmError(
                f"The column {name!r} of {source} holds {int(wrong.sum())} test cells that no run writes; give the "
                "run's table as it was."
            )


def _numbers(column: pd.Series, name: str) -> pd.Series:
    try:
        # float reads a number to its last digit, which pandas' own parsers need not.
        return column.map(float, na_action="ignore").astype(np.float64)
    except (TypeError, ValueError):
        raise EvalfmError(f"The column {name!r} holds cells that are no number; give the table as it was.") from None


def numbers_or_words(column: pd.Series) -> pd.Series:
    """A column of text as numbers where every known cell is one, else as it is."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if column.notna().any() and (numbers.notna() == column.notna()).all() else column


def unknown_words(table: pd.DataFrame) -> list[str]:
    """Empty, in place, the cells that say in words that they are empty; the caution that says where."""
    found = []
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name].dtype):
            says = np.array([isinstance(cell, str) and cell in UNKNOWN for cell in table[name]], dtype=bool)
            if says.any():
                table[name] = table[name].mask(says)
                found.append(f"{int(says.sum())} in {name}")
    return [f"Cells that say NA or the like count as unknown: {', '.join(found)}."] if found else []


def as_words(column: pd.Series) -> NDArray[np.object_]:
    """Cells as lower-case words without outer spaces, [N]; an empty cell is an empty word."""
    return np.array(["" if _is_empty(cell) else str(cell).strip().casefold() for cell in column], dtype=object)


def _is_empty(cell: object) -> bool:
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))  # type: ignore[call-overload]


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with lists and the like in its cells written out as text, which can be no number, split or level."""
    odd = {
        str(name): column.map(str)
        for name, column in table.items()
        if column.dtype == object and not all(pd.api.types.is_scalar(cell) for cell in column)
    }
    return table.assign(**odd) if odd else table


@dataclass(frozen=True)
class RowsOfTest:
    """Which rows of a table from elsewhere are of test.

    Attributes:
        test: bool [N].
        folds: [N] fold of each row, or None.
        columns: that said so, and are no attributes.
        cautions: what was done, in sentences.
    """

    test: NDArray[np.bool_]
    folds: NDArray[np.intp] | None
    columns: tuple[str, ...]
    cautions: tuple[str, ...]


def rows_of_test(table: pd.DataFrame, source: str, named: Iterable[str]) -> RowsOfTest:
    """The test rows of a table with a column of splits, and the folds of one with folds; else every row.

    A column of splits is called so, or holds nothing but words for splits. ``named`` columns are something else.

    Raises:
        EvalfmError: it is unknown who is test, or what was trained together: the remedy is said.
    """
    columns = [str(name) for name in table.columns if str(name) not in set(named)]
    said: list[str] = []
    by_split = {name: as_words(table[name]) for name in columns if _is_split(name, table[name])}
    test = np.ones(len(table), dtype=bool)
    for name, words in by_split.items():
        strange = sorted({str(word) for word in words if word not in _WORDS})
        if strange:
            what = ", ".join(repr(word) if word else "empty cells" for word in strange[:3])
            raise EvalfmError(
                f"The column {name!r} of {source} holds {what} where train, val or test should stand, so test rows "
                "are unknown; fix the cells, or name the column fold or otherwise if it means something else."
            )
    votes = {name: np.array([_WORDS[word] == "test" for word in words]) for name, words in by_split.items()}
    if votes:
        first, *others = votes
        test = votes[first]
        apart = [name for name in others if (votes[name] != test).any()]
        if apart:
            raise EvalfmError(
                f"The columns {first!r} and {apart[0]!r} of {source} say of different rows that they are of test; "
                "leave one of them out."
            )
        if not test.any():
            raise EvalfmError(
                f"No row of {source} is of test by its column {first!r}, and figures on train or val say nothing "
                "of new patients; give test rows, or leave that column out if these are some."
            )
        if not test.all():
            said.append(
                f"{int((~test).sum())} rows of train or val were left out by the column {first!r}; {int(test.sum())} "
                "of test are used."
            )
    seeds = [name for name in columns if _SEED.match(name) and table.loc[test, name].nunique(dropna=False) > 1]
    if seeds:
        raise EvalfmError(
            f"{source} holds scores of several seeds (column {seeds[0]!r}), which are several models; give one seed's "
            "rows at a time."
        )
    by_fold = [name for name in columns if _FOLD.match(name)]
    several = [name for name in by_fold if table.loc[test, name].nunique(dropna=False) > 1]
    codes = {name: pd.factorize(table[name].where(test))[0].astype(np.intp) for name in several}
    for name in several:
        if table.loc[test, name].isna().any():
            raise EvalfmError(f"The column {name!r} of {source} is empty in some test rows; say which fold each is of.")
        if (codes[name][test] != codes[several[0]][test]).any():
            raise EvalfmError(
                f"The columns {several[0]!r} and {name!r} of {source} are different folds; leave one of them out."
            )
    folds = codes[several[0]] if several else None
    if folds is not None:
        said.append(
            f"Scores are ranked within each of the {len(set(folds[test].tolist()))} folds of the column "
            f"{several[0]!r}, which may be of different models."
        )
    gone = [name for name in columns if _SEED.match(name)]
    return RowsOfTest(test, folds, (*by_split, *by_fold, *gone), tuple(said))


def _is_split(name: str, column: pd.Series) -> bool:
    words = set(as_words(column)) - {""}
    return name.strip().casefold() == "split" or bool(words and words <= set(_WORDS))
