"""MedIMeta: nineteen sets in one layout, a folder each with images as TIFF, an array of labels per task and a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cards import read_text, read_yaml
from evalfm.data.columns import SPLITS, as_numbers, as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, LabelKind, SplitRule
from evalfm.data.locators import locator_faults
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import (
    PATIENT,
    Notes,
    choose_subset,
    column,
    described,
    expect_file,
    first_column,
    snake,
    with_files,
)
from evalfm.data.stored import decoding, reason
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"subset"})
INFO, TABLE = "info.yaml", "annotations.csv"
SPLIT_FOLDERS = ("splits", "original_splits")
BINARY, MULTICLASS = "BINARY_CLASSIFICATION", "MULTICLASS_CLASSIFICATION"
MULTILABEL, ORDINAL = "MULTILABEL_CLASSIFICATION", "ORDINAL_REGRESSION"
TARGETS = (BINARY, MULTICLASS, MULTILABEL, ORDINAL)
DESCRIBED = {
    "sex": ("patient_gender_f_m", "sex", "gender"),
    "age": ("patient_age", "age"),
    "view": ("view_position", "view"),
}
CITATION = (
    "Woerner et al., A comprehensive and easy-to-use multi-domain multi-task medical imaging meta-dataset, "
    "Scientific Data 2025"
)
_NUMBER = re.compile(r"[0-9]{1,12}")
DERIVED = {"cxr": ["nih-cxr14"], "cxr14": ["nih-cxr14"]}


@dataclass(frozen=True)
class _Task:
    """A task of ``info.yaml``: its name, its kind and the words for its classes or labels by number."""

    name: str
    target: str
    words: dict[int, str]


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``info.yaml``, ``annotations.csv``, ``images/000000.tiff``, ``task_labels/<task>.npy`` and ``splits/``.

    ``root`` is the folder of the set, or that of all sets, of which ``subset`` names one. Each task is a column: 0 and
    1 of a binary one (a note says what they mean), words of classes, numbers of ordered grades; the labels of a task
    with several are a column each, under their own names. Where ``splits/`` lacks, ``original_splits/`` is followed.

    Raises:
        EvalfmError: a file or column is missing, labels and table are not of the same images, or a kind is unknown.
    """
    folder = _folder(root, options.subset)
    prefix = "" if folder == root else f"{folder.name}/"
    content = read_yaml(folder / INFO, number_keys=True)
    stated = content.get("tasks")
    tasks = [_task(item, folder) for item in (stated if isinstance(stated, list) and stated else [None])]
    file = expect_file(folder, [TABLE])
    native = read_table(file)
    notes = Notes()
    paths = as_text(column(native, "filepath", file))
    numbers = _numbers(paths, file)
    columns: dict[str, Any] = {"id": paths.map(lambda path: PurePosixPath(path).stem), "image": prefix + paths}
    patient = first_column(native, PATIENT)
    if patient is not None:
        columns["patient"] = as_text(native[patient])
    kinds: dict[str, LabelKind] = {}
    labels: list[str] = []
    for task in tasks:
        for name, values, kind in _columns(task, folder, native, numbers, notes):
            name = f"{snake(task.name)}_{name}" if name in columns else name
            columns[name] = values
            labels.append(name)
            if kind != "binary":
                kinds[name] = kind
    # Notes count the images that are there.
    there = ~columns["image"].isin(list(locator_faults(columns["image"], root)))
    attributes = described(native[there], columns, DESCRIBED, notes)
    table = pd.DataFrame(columns)
    table["split"], rule = _split(folder, paths)
    hint = "unpack the images" + (", which images.hdf5 holds too" if (folder / "images.hdf5").is_file() else "")
    table = with_files(table, root, notes, hint)
    identifier = str(content.get("id") or folder.name)
    info = DatasetInfo(
        name=f"medimeta-{snake(identifier)}",
        title=f"MedIMeta: {content.get('name', identifier)}",
        licence=str(content.get("license") or "unknown"),
        citation=CITATION,
        label_source=dict.fromkeys(labels, "as published"),
        label_kinds=kinds,
        derived_from=DERIVED.get(identifier.lower(), []),
        attributes=attributes,
        public_ids=True,
        redistributable_images=str(content.get("license") or "").startswith("Creative Commons"),
        split=rule,
        notes=notes,
    )
    return Imported(table, info, val_from_train=not (table["split"] == "val").any())


def _folder(root: Path, subset: str | None) -> Path:
    if subset is None and (root / INFO).is_file():
        return root
    folders = sorted(path.parent for path in root.glob(f"*/{INFO}")) if root.is_dir() else []
    return choose_subset(root, folders, subset, INFO)


def _task(item: Any, folder: Path) -> _Task:
    match item:
        case {"task_name": str(name), "task_target": str(target), "labels": dict(words)} if (
            target in TARGETS and words and all(map(_NUMBER.fullmatch, map(str, words))) and "/" not in name
        ):
            return _Task(name, target, {int(number): str(word) for number, word in words.items()})
        case {"task_name": str(name), "task_target": target} if target not in TARGETS:
            raise EvalfmError(
                f"{folder / INFO} has the task {name!r} of kind {target!r}; known are {', '.join(TARGETS)}."
            )
    raise EvalfmError(f"{folder / INFO} names no tasks with task_name, task_target and labels; fetch it again.")


def _numbers(paths: pd.Series, file: Path) -> NDArray[np.intp]:
    """Which row of the arrays each row of the table is: the number in the name of its image."""
    stems = [PurePosixPath(str(path)).stem for path in paths]
    if not stems or not all(map(_NUMBER.fullmatch, stems)):
        raise EvalfmError(f"{file} has a filepath that is no images/000000.tiff; fetch it again.")
    return np.array([int(stem) for stem in stems], dtype=np.intp)


def _columns(
    task: _Task, folder: Path, native: pd.DataFrame, numbers: NDArray[np.intp], notes: Notes
) -> list[tuple[str, Any, LabelKind]]:
    """Name, values and kind of each label column of a task."""
    values = _array(task, folder, native, numbers)
    name = snake(task.name)
    if task.target == MULTILABEL:
        # Numbers of the words may start at 1, the columns of the array do not.
        words = [task.words[number] for number in sorted(task.words)]
        if values.shape[1] != len(words):
            raise EvalfmError(
                f"task_labels/{task.name}.npy of {folder} has {values.shape[1]} labels, not {len(words)}."
            )
        return [(snake(word), values[:, position], "binary") for position, word in enumerate(words)]
    if values.shape[1] != 1:
        raise EvalfmError(f"task_labels/{task.name}.npy of {folder} has {values.shape[1]} labels, not one.")
    flat = values[:, 0]
    stray = sorted(set(flat[~np.isnan(flat)].astype(int).tolist()) - set(task.words))
    if stray:
        raise EvalfmError(f"task_labels/{task.name}.npy of {folder} holds {stray[0]}, which {INFO} does not name.")
    meaning = ", ".join(f"{number} {word}" for number, word in sorted(task.words.items()))
    if task.target != MULTICLASS:
        notes.append(f"{name} is {meaning}.")
        return [(name, flat, "binary" if task.target == BINARY else "class")]
    words_of = [None if np.isnan(value) else task.words[int(value)] for value in flat]
    return [(name, pd.Series(words_of, dtype=object), "class")]


def _array(task: _Task, folder: Path, native: pd.DataFrame, numbers: NDArray[np.intp]) -> NDArray[np.float64]:
    """Labels [N, K] in the table's order, NaN where −1 or NaN is stored; compared with the table's own column."""
    file = expect_file(folder, [f"task_labels/{task.name}.npy"])
    with decoding(lambda error: EvalfmError(f"{file} cannot be read ({reason(error)}); fetch it again.")):
        stored = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
    if stored.ndim not in (1, 2) or len(stored) != len(native) or numbers.max(initial=-1) >= len(stored):
        count = len(stored) if stored.ndim else 0
        raise EvalfmError(f"{file} holds labels of {count} images where {TABLE} has {len(native)}; fetch both again.")
    values = stored.reshape(len(stored), -1)[numbers]
    values = np.where(values < 0, np.nan, values)
    own = native.get(f"tasks/{task.name}")
    own_labels = None if own is None or values.shape[1] != 1 else as_numbers(own)
    if own_labels is not None:
        own_labels = own_labels.where(own_labels >= 0)
        if not np.array_equal(own_labels.to_numpy(), values[:, 0], equal_nan=True):
            raise EvalfmError(f"{file} and the column tasks/{task.name} of {TABLE} differ; fetch both again.")
    return values


def _split(folder: Path, paths: pd.Series) -> tuple[pd.Series, SplitRule]:
    """Split of each row by the lists of paths in ``splits/``, else ``original_splits/``."""
    place = next((name for name in SPLIT_FOLDERS if any((folder / name).glob("*.txt"))), None)
    if place is None:
        expect_file(folder, ["splits/train.txt"])
    split_of: dict[str, str] = {}
    for split in SPLITS:
        file = folder / str(place) / f"{split}.txt"
        for line in read_text(file).split() if file.is_file() else []:
            stem = PurePosixPath(line).stem
            if split_of.setdefault(stem, split) != split:
                raise EvalfmError(
                    f"{line} is in {split}.txt and {split_of[stem]}.txt of {folder / str(place)}; keep it in one."
                )
    assigned = paths.map(lambda path: split_of.get(PurePosixPath(path).stem))
    if assigned.isna().any():
        raise EvalfmError(
            f"{int(assigned.isna().sum())} images are in no list of {folder / str(place)}; fetch the lists again."
        )
    return assigned.astype(object), SplitRule(rule="official", note=f"lists of {place}/")
