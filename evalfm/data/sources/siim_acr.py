"""SIIM-ACR Pneumothorax: 12,047 images of NIH ChestX-ray14 as DICOM, with the pneumothorax outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.rle import EMPTY
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import (
    ATTRIBUTES,
    Notes,
    column,
    expect_file,
    files_by_stem,
    header_columns,
    united,
    what_is_in,
)
from evalfm.errors import EvalfmError

TABLES = ("train-rle.csv", "stage_2_train.csv")
FOLDERS = ("dicom-images-train", "stage_2_images")
SIZE = (1024, 1024)


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``train-rle.csv`` and ``dicom-images-train/*/*/<ImageId>.dcm``; one row per image.

    The regions of an image in several rows are united; ``-1`` is an image without pneumothorax. Images without a row
    are left out. Patients are unknown: PatientID is another for every image, and the images are NIH's. The headers keep
    the pixel spacing of the images before they were made 1024 × 1024, so that of these is unknown.

    Raises:
        EvalfmError: a file or column is missing, or an image is said to be empty and marked.
    """
    file = expect_file(root, TABLES)
    native = read_table(file)
    places = files_by_stem(root, FOLDERS, (".dcm",))
    names = as_text(column(native, "ImageId", file))
    if not set(places) & set(names):
        first = names.iloc[0] if len(names) else "*"
        raise EvalfmError(
            f"There is no {FOLDERS[0]}/*/*/{first}.dcm in {root}, which {what_is_in(root)}; unpack the images there."
        )
    notes = Notes()
    there = names.isin(places) | names.isna()
    lost = names[~there].nunique()
    notes.tally(lost, f"of {names.nunique()} images of the table have no file and were left out.")
    # Notes count the images that enter.
    regions = united(names[there], column(native, "EncodedPixels", file)[there], SIZE, file, notes)
    unlabelled = len(set(places) - set(regions.index))
    notes.tally(unlabelled, f"images have no row in {file.name} and were left out.")
    image = pd.Series([places[name] for name in regions.index], dtype=object)
    table = pd.DataFrame(
        {
            "id": list(regions.index),
            "image": image,
            "pneumothorax": (regions != EMPTY).to_numpy(dtype=float),
            "pneumothorax_mask": regions.to_numpy(dtype=object),
            **header_columns(image, root, options.progress, notes),
            "spacing_row_mm": np.nan,
            "spacing_column_mm": np.nan,
        }
    )
    info = DatasetInfo(
        name="siim-acr",
        title="SIIM-ACR Pneumothorax Segmentation",
        licence="terms of the SIIM-ACR challenge; the images are NIH's",
        citation="Society for Imaging Informatics in Medicine and American College of Radiology, 2019",
        mask_dialects={"pneumothorax": "relative"},
        mask_sizes={"pneumothorax": SIZE},
        label_source={"pneumothorax": "radiologist"},
        derived_from=["nih-cxr14"],
        attributes=list(ATTRIBUTES),
        public_ids=True,
        spacing_note="unknown: the headers keep that of the images before they were made 1024 × 1024",
        notes=[*notes, "The images are NIH's: use `evalfm data overlap` before this set and NIH's stand in one study."],
    )
    return Imported(table, info)
