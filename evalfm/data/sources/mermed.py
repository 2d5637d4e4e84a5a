"""Evaluation tables of MerMED-FM: a CSV with ``image_path`` and ``label``, as its fine-tuning code reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, LabelKind, SplitRule
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import (
    Notes,
    choose_subset,
    column,
    described,
    first_column,
    only_words,
    with_files,
    written_list,
)
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"subset", "label_table"})
IMAGE = "image_path"
LABEL, MULTIHOT = "label", "label_multihot"
SPLIT_WORDS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
DESCRIBED = {"age": ("age",), "sex": ("sex", "gender")}


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read the CSV in ``root`` (``subset`` names one of several), or ``label_table``; paths are under root.

    ``label`` is one class per image, a word or a number; ``[0, 1, …]`` in it or in ``label_multihot`` are labels
    ``label_0``, ``label_1``, … in the list's order, whose names the table does not hold. ``split`` is followed where
    it stands; otherwise patients (``patient_id``, else images) are split by hash, not as the authors do, whose split
    is drawn at random by image. ``age`` and ``gender`` or ``sex`` become attributes.

    Raises:
        EvalfmError: a file or column is missing, or a list is none of 0 and 1 or has another length than the first.
    """
    tables = sorted(root.glob("*.csv")) if options.label_table is None else [options.label_table]
    file = choose_subset(root, tables, options.subset, "*.csv with image_path and label")
    native = read_table(file)
    notes = Notes()
    native["image"] = _relative(column(native, IMAGE, file), root, file)
    native = with_files(native, root, notes, f"give the folder that the {IMAGE} of {file.name} start in")
    labels, kinds = _labels(native, file)
    columns: dict[str, Any] = {"id": native["image"], "image": native["image"]}
    patient = first_column(native, ("patient_id", "patient"))
    if patient is not None:
        columns["patient"] = as_text(native[patient])
    if "split" in native:
        columns["split"] = only_words(
            native["split"], lambda word: SPLIT_WORDS.get(word.lower()), "train, val or test", file
        )
    columns |= labels
    attributes = described(native, columns, DESCRIBED, notes)
    info = DatasetInfo(
        name=file.stem,
        title=f"{file.stem}, in the tables of MerMED-FM",
        licence="that of the original set",
        label_source=dict.fromkeys(labels, "as published"),
        label_kinds=kinds,
        attributes=attributes,
        split=SplitRule(rule="source", note=f"the column split of {file.name}") if "split" in columns else None,
        notes=notes,
    )
    return Imported(pd.DataFrame(columns), info)


def _relative(cells: pd.Series, root: Path, file: Path) -> pd.Series:
    text = as_text(cells)
    if text.isna().any():
        raise EvalfmError(f"{file} has {int(text.isna().sum())} rows without {IMAGE}; take them out.")
    prefix = f"{root.as_posix().rstrip('/')}/"
    return text.map(lambda path: path.replace("\\", "/").removeprefix(prefix).removeprefix("./"))


def _labels(native: pd.DataFrame, file: Path) -> tuple[dict[str, Any], dict[str, LabelKind]]:
    """Label columns, and the kinds of those that are not binary."""
    if MULTIHOT in native:
        return _multihot(native[MULTIHOT], file), {}
    cells = as_text(column(native, LABEL, file))
    first = cells.dropna()
    if len(first) and "[" in str(first.iloc[0]):
        return _multihot(cells, file), {}
    numbers = pd.to_numeric(cells, errors="coerce")
    if (numbers.notna() == cells.notna()).all():
        binary = bool(numbers.dropna().isin([0, 1]).all())
        return {LABEL: numbers.astype(np.float64)}, {} if binary else {LABEL: "class"}
    return {LABEL: cells}, {LABEL: "class"}


def _multihot(cells: pd.Series, file: Path) -> dict[str, NDArray[np.float64]]:
    codes, lists = pd.factorize(as_text(cells))
    parsed = [_zeros_and_ones(str(text), file) for text in lists]
    lengths = sorted({len(values) for values in parsed})
    if len(lengths) > 1:
        raise EvalfmError(f"{file} holds lists of {lengths[0]} and of {lengths[-1]} labels; each must have as many.")
    width = lengths[0] if lengths else 0
    # The last row answers for the code −1 of an empty cell.
    values = np.array([*parsed, [np.nan] * width], dtype=np.float64).reshape(-1, width)[codes]
    return {f"{LABEL}_{number}": values[:, number] for number in range(width)}


def _zeros_and_ones(text: str, file: Path) -> list[float]:
    values = written_list(text)
    if not values or any(value not in (0, 1) for value in values):
        raise EvalfmError(f"{file} holds {text[:60]!r} where a list of 0 and 1 is expected; correct it.")
    return [float(value) for value in values]
