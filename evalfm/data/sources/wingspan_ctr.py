"""The cardiothoracic ratio set of Wingspan: radiographs with masks of heart and lungs, most with a ratio."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.data.columns import as_numbers, as_text, read_table
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.sources._contract import Imported, ImportOptions
from evalfm.data.sources._tables import column, expect_file, what_is_in
from evalfm.errors import EvalfmError

TABLE = "ctr_ground_truth.csv"
IMAGES = "png"
MASKS = ("heart", "left_lung", "right_lung")
ENLARGED = 0.5


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``png/``, ``mask/{heart,left_lung,right_lung}/`` and ``ctr_ground_truth.csv``.

    One row per image. ``ctr`` and ``cardiomegaly`` (ctr > 0.5) are unknown where the table has no ratio, a
    mask where its file is not there. The set names no patients.

    Raises:
        EvalfmError: a file or column is missing, or the table names an image that is not there.
    """
    file = expect_file(root, [TABLE])
    folder = root / IMAGES
    names = sorted(name for name in _names(folder) if name.lower().endswith(".png"))
    if not names:
        raise EvalfmError(f"There is no {IMAGES}/*.png in {root}, which {what_is_in(root)}; give the whole data set.")
    native = read_table(file)
    ratios = as_numbers(column(native, "ctr", file))
    identifiers = as_text(column(native, "id", file))
    if ratios is None or identifiers.isna().any() or identifiers.duplicated().any():
        raise EvalfmError(f"{file} must hold each image once with a number in `ctr`; take the original table.")
    ratio_of = dict(zip(identifiers, ratios, strict=True))
    stray = sorted(set(ratio_of) - set(names))
    if stray:
        raise EvalfmError(f"{file} names {len(stray)} images that are not in {IMAGES}/, such as {stray[0]}.")
    ctr = np.array([ratio_of.get(name, np.nan) for name in names], dtype=np.float64)
    columns: dict[str, object] = {
        # The ids are DICOM UIDs full of dots, so only the last suffix goes.
        "id": [name[: -len(".png")] for name in names],
        "image": [f"{IMAGES}/{name}" for name in names],
        "ctr": ctr,
        "cardiomegaly": np.where(np.isnan(ctr), np.nan, ctr > ENLARGED),
    }
    notes = [f"{int(np.isnan(ctr).sum())} of {len(names)} images have no cardiothoracic ratio."]
    for finding in MASKS:
        present = set(_names(root / "mask" / finding))
        if not present:
            raise EvalfmError(f"There is no mask/{finding}/*.png in {root}, which {what_is_in(root)}.")
        masks = [f"mask/{finding}/{name}" if name in present else None for name in names]
        if None in masks:
            notes.append(f"{masks.count(None)} images have no {finding} mask.")
        columns[f"{finding}_mask"] = pd.Series(masks, dtype=object)
    return Imported(pd.DataFrame(columns), _info(notes))


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _info(notes: list[str]) -> DatasetInfo:
    return DatasetInfo(
        name="wingspan-ctr",
        title="Cardiothoracic ratio estimation data set (Wingspan)",
        licence="MIT",
        citation="github.com/eveningdong/cardiothoracic_ratio_estimation_dataset",
        mask_dialects=dict.fromkeys(MASKS, "file"),
        label_source={"ctr": "ground truth of the set", "cardiomegaly": "ctr>0.5"}
        | dict.fromkeys(MASKS, "ground truth of the set"),
        label_kinds={"ctr": "number"},
        redistributable_images=True,
        notes=notes,
    )
