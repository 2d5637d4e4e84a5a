"""Predictions of another program as a table, or as a folder of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.predictions import SPLITS, as_words
from evalfm.data.columns import as_text, read_table
from evalfm.errors import EvalfmError, UnknownNameError, shown
from evalfm.paths import user_path
from evalfm.probing.import_config import ImportPredictionsConfig
from evalfm.tasks.kinds import Kind

MASK_SUFFIXES = (".png", ".npy", ".npz", ".tif", ".tiff", ".bmp", ".gif")
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
