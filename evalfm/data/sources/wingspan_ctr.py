"""The cardiothoracic ratio set of Wingspan: radiographs with masks of heart and lungs, most with a ratio."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_numbers, as_text, first_word, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, column, what_is_in
from evalfm.errors import EvalfmError

TABLE = "ctr_ground_truth.csv"
IMAGES = "png"
MASKS = ("heart", "left_lung", "right_lung")
ENLARGED = 0.5


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``png/``, ``mask/{heart,left_lung,right_lung}/`` and, where it is there, ``ctr_ground_truth.csv``.

    One row per image. ``ctr`` and ``cardiomegaly`` (ctr > 0.5) are unknown where the table has no ratio, a
    mask where its file is not there. Without the table there are neither; a task measures ``ctr`` on the masks then.
    The set names no patients.

    Raises:
        EvalfmError: a file or column is missing, or the table names an image that is not there.
    """
    folder = root / IMAGES
    names = sorted(name for name in _names(folder) if name.lower().endswith(".png"))
    if not names:
        raise EvalfmError(f"There is no {IMAGES}/*.png in {root}, which {what_is_in(root)}; give the whole data set.")
    columns: dict[str, object] = {
        # The ids are DICOM UIDs full of dots, so only the last suffix goes.
        "id": [name[: -len(".png")] for name in names],
        "image": [f"{IMAGES}/{name}" for name in names],
    }
    notes, has_ratios = Notes(), (root / TABLE).is_file()
    if has_ratios:
        ctr = _ratios(root / TABLE, names)
        columns |= {"ctr": ctr, "cardiomegaly": np.where(np.isnan(ctr), np.nan, ctr > ENLARGED)}
        notes.append(f"{int(np.isnan(ctr).sum())} of {len(names)} images have no cardiothoracic ratio.")
    else:
        notes.append(f"There is no {TABLE}, so no cardiothoracic ratio but that of the masks.")
    for finding in MASKS:
        present = set(_names(root / "mask" / finding))
        if not present:
            raise EvalfmError(f"There is no mask/{finding}/*.png in {root}, which {what_is_in(root)}.")
        masks = [f"mask/{finding}/{name}" if name in present else None for name in names]
        notes.tally(masks.count(None), f"images have no {finding} mask.")
        columns[f"{finding}_mask"] = pd.Series(masks, dtype=object)
    return Imported(pd.DataFrame(columns), _info(notes, has_ratios=has_ratios))


def _ratios(file: Path, names: list[str]) -> NDArray[np.float64]:
    """The table's ratio of each image, NaN where it has none."""
    native = read_table(file)
    cells = column(native, "ctr", file)
    ratios = as_numbers(cells)
    if ratios is None:
        raise EvalfmError(f"{file} must hold a number in `ctr` or nothing ({first_word(cells)}); correct it.")
    identifiers = as_text(column(native, "id", file))
    if identifiers.isna().any() or identifiers.duplicated().any():
        raise EvalfmError(f"{file} must hold each image once; take the original table.")
    ratio_of = dict(zip(identifiers, ratios, strict=True))
    stray = sorted(set(ratio_of) - set(names))
    if stray:
        raise EvalfmError(f"{file} names {len(stray)} images that are not in {IMAGES}/, such as {stray[0]}.")
    return np.array([ratio_of.get(name, np.nan) for name in names], dtype=np.float64)


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _info(notes: Notes, *, has_ratios: bool) -> DatasetInfo:
    return DatasetInfo(
        name="wingspan-ctr",
        title="Cardiothoracic ratio estimation data set (Wingspan)",
        licence="MIT",
        citation="github.com/eveningdong/cardiothoracic_ratio_estimation_dataset",
        mask_dialects=dict.fromkeys(MASKS, "file"),
        label_source=({"ctr": "ground truth of the set", "cardiomegaly": "ctr>0.5"} if has_ratios else {})
        | dict.fromkeys(MASKS, "ground truth of the set"),
        label_kinds={"ctr": "number"} if has_ratios else {},
        redistributable_images=True,
        notes=notes,
    )
