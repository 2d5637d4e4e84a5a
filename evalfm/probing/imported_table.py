"""Predictions of another program as a table or a folder of masks, and which row is of which image of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.predictions import SPLITS, as_words
from evalfm.data.columns import as_text, read_table
from evalfm.data.joining import IMAGE_KEYS, keys_of
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError, UnknownNameError, shown
from evalfm.paths import user_path
from evalfm.probing.import_config import ImportPredictionsConfig
from evalfm.probing.splits import Split
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.kinds import Kind

MASK_SUFFIXES = (".png", ".npy", ".npz", ".tif", ".tiff", ".bmp", ".gif")
Role = Literal["val", "test"]
Positions = NDArray[np.intp]
_WORDS = {word: split for split, words in SPLITS.items() for word in words}


@dataclass(frozen=True)
class ImportedPredictions:
    """What a table says, a row each.

    Attributes:
        source: name of the file or folder, for messages.
        sha256: of its bytes; of a folder over names and bytes of its files.
        root: folder of mask files; None where masks, if any, are run lengths.
        key: what names the image, [N].
        split: ``train``, ``val`` or ``test`` of each row, [N]; None without such a column.
        fold: label of the fold of each row, [N]; None likewise.
        cells: per class a column, [N].
        sizes: (height, width) of each row's mask as the table says it, [N, 2]; None where it does not.
        image_scores: of masks the columns ``score_CLASS`` [N] that rank images, where the table has them.
    """

    source: str
    sha256: str
    root: Path | None
    key: NDArray[np.object_]
    split: NDArray[np.object_] | None
    fold: NDArray[np.object_] | None
    cells: dict[str, pd.Series]
    sizes: NDArray[np.float64] | None = None
    image_scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def numbers(self, rows: Positions, *, partly: bool = False) -> NDArray[np.float64]:
        """The cells of ``rows`` [n] as numbers [n, K]; where ``partly`` a class may have none at all.

        Raises:
            EvalfmError: a cell is empty, no number or infinite.
        """
        columns = []
        for cells in self.cells.values():
            values = np.array([_number(cell) for cell in cells.iloc[rows]], dtype=np.float64)
            wrong = ~np.isfinite(values)
            if wrong.any() and not (partly and cells.iloc[rows].isna().all()):
                place = int(np.flatnonzero(wrong)[0])
                cell = cells.iloc[rows[place]]
                what = "nothing" if pd.isna(cell) else repr(str(cell)[:40])
                raise EvalfmError(
                    f"The column {cells.name!r} of {self.source} has no finite number for {int(wrong.sum())} of "
                    f"{len(rows)} images, such as {what} for {shown(str(self.key[rows[place]]))}; fill them in."
                )
            columns.append(values)
        return np.stack(columns, axis=1)


def read_imported(
    path: str | Path, config: ImportPredictionsConfig, kind: Kind, names: Sequence[str]
) -> ImportedPredictions:
    """The table at ``path``, CSV or Parquet, or a folder of masks, one file per image and class.

    Args:
        path: of masks a folder may hold ``ID.png`` or a folder for each class of ``names`` that does.
        config: which columns are meant.
        kind: of the task, with the classes ``names``.

    Raises:
        EvalfmError: it cannot be read, or lacks a column.

    >>> from evalfm.tasks.kinds import BINARY
    >>> _ = Path("scores.csv").write_text("id,split,score\\na,test,0.9\\nb,train,0.2\\n")
    >>> config = ImportPredictionsConfig(task="edema", name="ours")
    >>> table = read_imported("scores.csv", config, BINARY, ["edema"])
    >>> table.numbers(np.array([0])).tolist(), table.split.tolist()
    ([[0.9]], ['test', 'train'])
    """
    place = user_path(path, "The table")
    if place.is_dir():
        if not kind.pixelwise:
            raise EvalfmError(f"{path} is a folder, and {kind} predictions are a table; give a CSV or Parquet file.")
        return _of_folder(place, config, names)
    table = read_table(place)
    present = [str(name) for name in table.columns]
    key = (config.join_on or "id").partition("=")
    column = key[2] or key[0]
    if column not in present:
        raise UnknownNameError(f"column of {place.name} that names images (--join-on id=COLUMN)", column, present)
    split = next((name for name in present if name.casefold() == "split"), None)
    fold = next((name for name in present if name.casefold() == "fold"), None)
    cells = {name: table[_column(place.name, present, config, kind, names, name)] for name in names or ("",)}
    sized = {"height", "width"} <= set(present) and kind.pixelwise
    return ImportedPredictions(
        place.name,
        hashlib.sha256(place.read_bytes()).hexdigest(),
        None,
        _keys(table[column], place.name, column),
        None if split is None else _splits(table[split], place.name),
        None if fold is None else _labels(table[fold]),
        cells,
        table[["height", "width"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64) if sized else None,
        _image_scores(table, place.name, names) if kind.pixelwise else {},
    )


def _image_scores(table: pd.DataFrame, source: str, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    found = {}
    for column in (f"score_{name}" for name in names if f"score_{name}" in table):
        found[column] = np.array([_number(cell) for cell in table[column]], dtype=np.float64)
        if not np.isfinite(found[column]).all():
            raise EvalfmError(
                f"The column {column!r} of {source} holds cells that are no number; leave it out or fix it."
            )
    return found


def _column(
    source: str,
    present: Sequence[str],
    config: ImportPredictionsConfig,
    kind: Kind,
    names: Sequence[str],
    name: str,
) -> str:
    """The column of the class ``name``: as it was said, else the usual one."""
    said, alone = config.score, len(names) < 2
    strange = [each for each in said if each not in names and not (alone and len(said) == 1)]
    if strange:
        raise UnknownNameError("class of the task (--score CLASS=COLUMN)", strange[0], names)
    if name in said or (alone and said):
        wanted = said[name] if name in said else next(iter(said.values()))
        if wanted not in present:
            raise UnknownNameError(f"column of {source}", wanted, present)
        return wanted
    usual = ["prediction"] if kind.measured else [f"prediction_rle_{name}" if kind.pixelwise else f"score_{name}"]
    if alone and kind.one_label:
        usual.append("score")
    found = next((each for each in usual if each in present), None)
    if found is None:
        of = f" of {name!r}" if names else ""
        remedy = "COLUMN" if alone else f"{name}=COLUMN"
        raise EvalfmError(
            f"{source} has no column {usual[0]!r} with the {'masks' if kind.pixelwise else 'scores'}{of}; it has "
            f"{', '.join(present[:8])}: name one with --score {remedy}."
        )
    return found


def _of_folder(folder: Path, config: ImportPredictionsConfig, names: Sequence[str]) -> ImportedPredictions:
    cells: dict[str, dict[str, str]] = {}
    digest = hashlib.sha256()
    for name in names:
        own = folder / name
        inside = own if own.is_dir() else folder
        if inside is folder and len(names) > 1:
            raise EvalfmError(f"{folder.name} has no folder {name!r}; of several masks an image, give a folder each.")
        found: dict[str, str] = {}
        for file in sorted(each for each in inside.iterdir() if each.suffix.lower() in MASK_SUFFIXES):
            if file.stem in found:
                raise EvalfmError(f"{inside.name} holds two masks of {shown(file.stem)}; leave one of them.")
            found[file.stem] = file.relative_to(folder).as_posix()
            digest.update(f"{found[file.stem]}\x1f{hashlib.sha256(file.read_bytes()).hexdigest()}\x1e".encode())
        if not found:
            raise EvalfmError(f"{inside} holds no mask file ({', '.join(MASK_SUFFIXES)}); name each by the image's id.")
        cells[name] = found
    keys = sorted({key for each in cells.values() for key in each})
    columns = {name: pd.Series([each.get(key) for key in keys], dtype=object) for name, each in cells.items()}
    return ImportedPredictions(
        folder.name, digest.hexdigest(), folder, np.array(keys, dtype=object), None, None, columns
    )


def _keys(column: pd.Series, source: str, name: str) -> NDArray[np.object_]:
    keys = as_text(column).map(lambda key: key.strip() if key else None)
    if keys.isna().any():
        raise EvalfmError(f"The column {name!r} of {source} is empty in {int(keys.isna().sum())} rows; fill it in.")
    return keys.to_numpy(dtype=object)


def _splits(column: pd.Series, source: str) -> NDArray[np.object_]:
    words = as_words(column)
    strange = sorted({str(word) for word in words if word not in _WORDS})
    if strange:
        what = ", ".join(repr(word) if word else "empty cells" for word in strange[:3])
        raise EvalfmError(
            f"The column {column.name!r} of {source} holds {what} where train, val or test should stand; fix the cells."
        )
    return np.array([_WORDS[word] for word in words], dtype=object)


def _labels(column: pd.Series) -> NDArray[np.object_]:
    """Folds as words; 1, 1.0 and "1" are one."""
    numbers = pd.to_numeric(column, errors="coerce")
    words = [
        f"{number:g}" if pd.notna(number) else ("" if pd.isna(cell) else str(cell).strip())
        for number, cell in zip(numbers, column, strict=True)
    ]
    return np.array(words, dtype=object)


def _number(cell: object) -> float:
    try:
        # float reads a number to its last digit, which pandas' own parsers need not.
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


@dataclass(frozen=True)
class Placed:
    """One split with the row of the table for each of its val and test images.

    Attributes:
        split: whose val is empty where the table says nothing of it.
        val, test: rows of the table, in the order of the split's positions (of separate test data, of its cohort's).
    """

    split: Split
    val: Positions
    test: Positions


@dataclass(frozen=True)
class Placement:
    """Every split with its rows, and how many rows of the table are used by none: ``seen`` are of train by its word."""

    placed: tuple[Placed, ...]
    seen: int
    unused: int


class Matching:
    """Rows of a table brought to the images of a cohort, and of separate test data if there are some.

    Raises:
        EvalfmError: a row names an image that there is not, or one that is in both data sets.
    """

    def __init__(self, table: ImportedPredictions, cohort: Cohort, test: Cohort | None, join_on: str | None) -> None:
        self.table, self.cohort, self.test = table, cohort, test
        mine = (join_on or "id").partition("=")[0]
        manifests = [each.manifest for each in (cohort, test) if each is not None]
        found = [_rows_of(table.key, each, mine) for each in manifests]
        known = [row >= 0 for row in found]
        unknown = ~np.logical_or.reduce(known)
        if unknown.any():
            sets = " or ".join(each.info.name for each in manifests)
            raise EvalfmError(
                f"{int(unknown.sum())} of {len(unknown)} rows of {table.source} are of no image of {sets}, such as "
                f"{shown(str(table.key[unknown][0]))}; leave them out, or say what names the images with --join-on."
            )
        if test is not None and (known[0] & known[1]).any():
            raise EvalfmError(
                f"{int((known[0] & known[1]).sum())} names in {table.source} are of images of both data sets, such as "
                f"{shown(str(table.key[known[0] & known[1]][0]))}; give the sets different ids."
            )
        self._of = {id(each): _by_row(rows) for each, rows in zip((cohort, test), found, strict=False)}

    def rows(
        self, cohort: Cohort, positions: Positions, role: Role, fold: str | None = None, *, folds: bool = False
    ) -> Positions:
        """The table's row for each of ``positions`` of ``cohort`` in ``role``; −1 where there is none.

        Args:
            fold: label of the fold whose rows are meant; None takes those of any.
            folds: whether there are several, in which an image is on val of one and on test of another.

        Raises:
            EvalfmError: there are several rows.
        """
        words = self.table.split
        allowed = {role} if folds or role == "test" else {"val", "test"}
        by_row, found = self._of[id(cohort)], np.full(len(positions), -1, dtype=np.intp)
        for place, row in enumerate(cohort.rows[positions].tolist()):
            mine = [
                each
                for each in by_row.get(row, ())
                if (words is None or words[each] in allowed)
                and (fold is None or self.table.fold is None or self.table.fold[each] == fold)
            ]
            if len(mine) > 1:
                raise EvalfmError(
                    f"{self.table.source} has {len(mine)} rows for the image {shown(str(self.table.key[mine[0]]))}; "
                    "leave one for each image."
                )
            found[place] = mine[0] if mine else -1
        return found

    def tested(self, cohort: Cohort, positions: Positions, *, folds: bool = False) -> Positions:
        """The table's row for each image that is tested.

        Raises:
            EvalfmError: one has none, or by the table's word the model has seen it.
        """
        rows = self.rows(cohort, positions, "test", folds=folds)
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return rows
        table, by_row = self.table, self._of[id(cohort)]
        names = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows[positions[missing]]]
        seen = [row in by_row for row in cohort.rows[positions[missing]].tolist()]
        if any(seen):
            raise EvalfmError(
                f"{sum(seen)} of {len(positions)} test images are of train or val by the column split of "
                f"{table.source}, such as {shown(str(names[int(np.argmax(seen))]))}: the model has seen them; test it "
                "on others with --where, --test-where or --test-data."
            )
        raise EvalfmError(
            f"{table.source} has no row for {len(missing)} of {len(positions)} test images, such as "
            f"{shown(str(names[0]))}; predict on them too, or leave them out with --where."
        )

    def of_val(self, split: Split, label: str | None, *, folds: bool = False) -> Positions:
        """The table's row for each val image of ``split``; none where the table has none of them.

        Raises:
            EvalfmError: it has some of them.
        """
        rows = self.rows(self.cohort, split.val, "val", label, folds=folds)
        missing = int((rows < 0).sum())
        if missing == len(rows):
            return rows[:0]
        if missing:
            raise EvalfmError(
                f"{self.table.source} has no row for {missing} of {len(rows)} val images{split.where}; give all of "
                "them, or none, and then no threshold is chosen on val."
            )
        return rows


def place(
    table: ImportedPredictions, cohort: Cohort, test: Cohort | None, splits: Sequence[Split], join_on: str | None
) -> Placement:
    """The rows of ``table`` for every split; where it has folds and ``splits`` are none, its own are the splits.

    Raises:
        EvalfmError: rows are missing, double, of unknown images, or of images that the model has seen; folds disagree.
    """
    matching = Matching(table, cohort, test, join_on)
    if splits[0].fold is not None:
        placed = _in_folds(matching, cohort, splits)
    else:
        tested, positions = (cohort, splits[0].test) if test is None else (test, np.arange(len(test)))
        val = matching.of_val(splits[0], None)
        placed = [_placed(splits[0], val, matching.tested(tested, positions))]
    used = np.unique(np.concatenate([each for one in placed for each in (one.val, one.test)]))
    seen = np.zeros(len(table.key), dtype=bool) if table.split is None else table.split == "train"
    rest = np.setdiff1d(np.flatnonzero(~seen), used)
    return Placement(tuple(placed), int(seen.sum()), len(rest))


def own_folds(table: ImportedPredictions, cohort: Cohort, join_on: str | None) -> list[Split] | None:
    """The folds of the table as splits of ``cohort``; None where it has no column of them, or one fold.

    Val of a fold are the images that the table says so of, train all others.

    Raises:
        EvalfmError: an image has no fold or no row, or a patient stands in two.
    """
    if table.fold is None or len({*table.fold.tolist()}) < 2:
        return None
    matching, every = Matching(table, cohort, None, join_on), np.arange(len(cohort))
    label = table.fold[matching.tested(cohort, every, folds=True)]
    names = sorted({*label.tolist()}, key=lambda name: (len(name), name))
    if "" in names:
        raise EvalfmError(f"The column fold of {table.source} is empty for {int((label == '').sum())} images.")
    patients = pd.Series(label).groupby(cohort.manifest.patients[cohort.rows]).nunique()
    if (patients > 1).any():
        raise EvalfmError(
            f"{int((patients > 1).sum())} patients stand in several folds of {table.source}, so that a model was "
            "tested on patients it has seen; give folds by patient, or test on others with --test-where or --test-data."
        )
    splits = []
    for number, name in enumerate(names):
        test = np.flatnonzero(label == name)
        others = np.setdiff1d(every, test)
        on_val = matching.rows(cohort, others, "val", name, folds=True) >= 0
        on_val &= table.split is not None
        splits.append(Split(others[~on_val], others[on_val], test, number))
    return splits


def _placed(split: Split, val: Positions, test: Positions) -> Placed:
    return Placed(split if len(val) else replace(split, val=split.val[:0]), val, test)


def _in_folds(matching: Matching, cohort: Cohort, splits: Sequence[Split]) -> list[Placed]:
    table, labels = matching.table, []
    tested = [matching.tested(cohort, split.test, folds=True) for split in splits]
    for split, rows in zip(splits, tested, strict=True):
        label = None if table.fold is None else sorted({*table.fold[rows].tolist()})
        if label is not None and (len(label) > 1 or label[0] in labels):
            raise EvalfmError(
                f"The folds of {table.source} are others than those of --folds {len(splits)} (test images of fold "
                f"{(split.fold or 0) + 1} are of its {', '.join(label)}); leave --folds out, and the table's are taken."
            )
        labels.append("" if label is None else label[0])
    has_val = table.split is not None and table.fold is not None
    val = [
        matching.of_val(split, label, folds=True) if has_val else np.empty(0, dtype=np.intp)
        for split, label in zip(splits, labels, strict=True)
    ]
    if any(map(len, val)) and not all(map(len, val)):
        raise EvalfmError(f"{table.source} has val rows of some folds only; give those of every fold, or of none.")
    return [_placed(*each) for each in zip(splits, val, tested, strict=True)]


def _rows_of(keys: NDArray[np.object_], manifest: Manifest, mine: str) -> Positions:
    """The manifest's row that each of ``keys`` names, −1 where there is none; ids as they leave the data set too."""
    own = keys_of(manifest, mine)
    if not own.dropna().is_unique:
        unique = "image_stem" if mine not in IMAGE_KEYS else "id"
        raise EvalfmError(f"Several images of {manifest.info.name} have one {mine}; join on another, such as {unique}.")
    found = _places(keys, own)
    if mine == "id" and (found < 0).all() and (manifest.info.names_are_public or manifest.info.salt):
        found = _places(keys, pd.Series(public_names(manifest.table["id"], manifest.info), dtype=object))
    return found


def _places(keys: NDArray[np.object_], own: pd.Series) -> Positions:
    places = {name: row for row, name in enumerate(own.tolist())}
    return np.array([places.get(key, -1) for key in keys], dtype=np.intp)


def _by_row(rows: Positions) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for line, row in enumerate(rows.tolist()):
        if row >= 0:
            found.setdefault(row, []).append(line)
    return found
