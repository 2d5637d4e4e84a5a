"""CheXlocalize: radiologists' outlines of ten findings on the validation and test images of CheXpert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalfm.cards import read_json
from evalfm.data.columns import MASK_SUFFIX, as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.masks import decode
from evalfm.data.rle import EMPTY
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, column, expect_file, numbers, snake, with_files
from evalfm.errors import EvalfmError

FILES = {"val": "gt_segmentations_val.json", "test": "gt_segmentations_test.json"}
FOLDERS = ("CheXlocalize/", "")
RENAMED = {"Airspace Opacity": "Lung Opacity"}
FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``CheXlocalize/gt_segmentations_{val,test}.json`` and the frontal images in ``CheXpert/{val,test}/``.

    An image that the labels (``CheXpert/{val,test}_labels.csv``, if they are there) call negative has an empty mask; a
    positive one without an outline has an unknown one. Without the labels a finding is there where it is outlined.
    There is no training split: the set is for tests of what was learnt elsewhere.

    Raises:
        EvalfmError: a file is missing or damaged, or a finding is unknown.
    """
    notes = Notes()
    tables = [
        _split(root, split, expect_file(root, [folder + name for folder in FOLDERS]), notes)
        for split, name in FILES.items()
        if split == "test" or any((root / f"{folder}{name}").is_file() for folder in FOLDERS)
    ]
    table = with_files(
        pd.concat(tables, ignore_index=True), root, notes, "put CheXpert's val/ and test/ into CheXpert/"
    )
    names = [snake(finding) for finding in FINDINGS]
    info = DatasetInfo(
        name="chexlocalize",
        title="CheXlocalize",
        licence="Stanford University Dataset Research Use Agreement",
        citation="Saporta et al., Benchmarking saliency methods for chest X-ray interpretation, Nat Mach Intell 2022",
        mask_dialects=dict.fromkeys(names, "coco"),
        label_source=dict.fromkeys(names, "radiologist"),
        derived_from=["chexpert"],
        attributes=["view"] if "view" in table else [],
        public_ids=True,
        split=SplitRule(rule="official", note="validation and test splits of CheXpert; there is no training split"),
        notes=notes,
    )
    return Imported(table, info)


def _split(root: Path, split: str, file: Path, notes: Notes) -> pd.DataFrame:
    content: Any = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(masks, dict) for masks in content.values()):
        raise EvalfmError(f"{file} is no mapping of images to findings; fetch it again.")
    known = {**{finding: finding for finding in FINDINGS}, **RENAMED}
    unknown = sorted({name for masks in content.values() for name in masks} - set(known))
    if unknown:
        raise EvalfmError(f"{file} holds the finding {unknown[0]!r}, which CheXlocalize does not have; fetch it again.")
    outlines = {
        key: {known[name]: _text(mask, key, file) for name, mask in masks.items()} for key, masks in content.items()
    }
    labels = _labels(root, split)
    keys = sorted({*outlines, *(labels.index if labels is not None else ())})
    frontal = [key for key in keys if key.endswith("frontal")]
    notes.tally(len(keys) - len(frontal), f"{split} images are not frontal and were left out.")
    columns: dict[str, Any] = {
        "id": [f"{split}/{key}" for key in frontal],
        "image": [f"CheXpert/{split}/{'/'.join(key.split('_', 2))}.jpg" for key in frontal],
        "patient": [key.split("_")[0] for key in frontal],
        "split": split,
    }
    for finding in FINDINGS:
        marks = [outlines.get(key, {}).get(finding) for key in frontal]
        values = [np.nan] * len(frontal) if labels is None else labels[finding].reindex(frontal).tolist()
        marked = [mark is not None and mark != EMPTY for mark in marks]
        if labels is None:
            values = [float(mark) for mark in marked]
        clash = [key for key, value, mark in zip(frontal, values, marked, strict=True) if mark and value == 0]
        notes.tally(len(clash), f"{split} images have {finding} outlined though labelled negative; the outline counts.")
        columns[snake(finding)] = [1.0 if mark else value for value, mark in zip(values, marked, strict=True)]
        columns[snake(finding) + MASK_SUFFIX] = pd.Series(
            [
                mark if is_marked else EMPTY if value == 0 else None
                for mark, is_marked, value in zip(marks, marked, values, strict=True)
            ],
            dtype=object,
        )
    return pd.DataFrame(columns)


def _text(mask: Any, key: str, file: Path) -> str:
    """A mask as its cell: compressed counts with their size, ``-1`` where nothing is marked."""
    match mask:
        case {"size": [int(height), int(width)], "counts": str(counts)}:
            text = json.dumps({"size": [height, width], "counts": counts})
            return text if decode("coco", text, (height, width)).any() else EMPTY
    raise EvalfmError(f"{file}, {key}: a mask is not of size and counts; fetch it again.")


def _labels(root: Path, split: str) -> pd.DataFrame | None:
    """Findings by the name of the image, as outlines have it, or None where the table is not there."""
    file = root / "CheXpert" / f"{split}_labels.csv"
    if not file.is_file():
        return None
    native = read_table(file)
    path = as_text(column(native, "Path", file)).str.removesuffix(".jpg")
    keys = path.map(lambda text: "_".join(str(text).split("/")[-3:]))
    columns = {finding: numbers(native, finding, file, "take the original table") for finding in FINDINGS}
    return pd.DataFrame(columns, index=keys)
