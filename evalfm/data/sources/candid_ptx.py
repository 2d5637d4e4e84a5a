"""CANDID-PTX: 19,237 images as DICOM with pneumothorax and chest tubes outlined; the only public set with both."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.rle import EMPTY
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import ATTRIBUTES, Notes, column, expect_file, header_columns, united, with_places

TABLE, TUBES = "Pneumothorax_reports.csv", "chest_tube.csv"
FOLDER = "dataset"
SIZE = (1024, 1024)
_PATIENT = re.compile(r"^P?0*(\d+)$", re.IGNORECASE)


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``Pneumothorax_reports.csv``, ``chest_tube.csv`` and ``dataset/<SOPInstanceUID>[.dcm]``; one row per image.

    The patient is the number that ``filename`` begins with. Images that belong to two patients are left out. An image
    that ``chest_tube.csv`` does not name has no tube; a row of it that holds ``-1`` marks nothing, and with a blank one
    alone it is unknown. Reports do not enter.

    Raises:
        EvalfmError: a file or column is missing, or an image is said to be empty and marked.
    """
    file, tube_file = expect_file(root, (TABLE,)), expect_file(root, (TUBES,))
    native, tubes = read_table(file), read_table(tube_file)
    notes = Notes()
    names = as_text(column(native, "SOPInstanceUID", file))
    patients = as_text(column(native, "filename", file)).map(_patient)
    # Notes count the images that are there.
    images = _images(root)
    here = names.isin(images) | names.isna()
    regions = united(names[here], column(native, "EncodedPixels", file)[here], SIZE, file, notes)
    tube_names = as_text(column(tubes, ("anon_SOPUID", "anon_SOPInstanceUID", "SOPInstanceUID"), tube_file))
    tube_cells = as_text(column(tubes, "mask_rle", tube_file))
    drawn = (tube_cells != EMPTY) & (tube_names.isin(images) | tube_names.isna())
    marks = united(tube_names[drawn], tube_cells[drawn], SIZE, tube_file, notes)
    undrawn = set(tube_names[tube_cells.isna()].dropna()) - set(marks.index)
    strange = set(tube_names.dropna()) - set(names)
    notes.tally(len(strange), f"images of {TUBES} have no row in {TABLE} and were left out.")
    unclear = (undrawn - strange) & set(images)
    notes.tally(len(unclear), f"images have a row in {TUBES} without runs; whether they show a tube is unknown.")

    owners = pd.DataFrame({"name": names, "patient": patients}).dropna(subset=["name"]).drop_duplicates()
    shared = set(owners["name"][owners["name"].duplicated()])
    several = len(shared & set(images))
    notes.tally(several, "images belong to two patients or to none in some row, and were left out.")
    owners = owners[~owners["name"].isin(shared)]
    nameless = owners["patient"].isna() & owners["name"].isin(images)
    notes.tally(nameless, "images have no patient in their filename and were left out.")
    owners = owners[owners["patient"].notna()]
    first = owners["name"].iloc[0] if len(owners) else "*"
    owners = owners.assign(image=owners["name"].map(images))
    owners = with_places(owners, root, notes, f"{FOLDER}/{first}.dcm", "images of the table have no file")
    pneumothorax = owners["name"].map(regions)
    tube = owners["name"].map(marks).astype(object)
    tube = tube.where(tube.notna() | owners["name"].isin(undrawn), EMPTY)
    table = pd.DataFrame(
        {
            "id": owners["name"],
            "image": owners["image"],
            "patient": owners["patient"],
            "pneumothorax": np.where(pneumothorax.isna(), np.nan, pneumothorax != EMPTY),
            "chest_tube": np.where(tube.isna(), np.nan, tube != EMPTY),
            "pneumothorax_mask": pneumothorax.astype(object).where(pneumothorax.notna(), None),
            "chest_tube_mask": tube.where(tube.notna(), None),
            **header_columns(owners["image"], root, options.progress, notes),
        }
    )
    info = DatasetInfo(
        name="candid-ptx",
        title="CANDID-PTX",
        licence="by agreement with the authors, for research",
        citation="Feng et al., Curation of the CANDID-PTX dataset with free-text reports, Radiology: AI 2021",
        mask_dialects={"pneumothorax": "relative", "chest_tube": "relative"},
        mask_sizes={"pneumothorax": SIZE, "chest_tube": SIZE},
        label_source={"pneumothorax": "radiologist", "chest_tube": "radiologist"},
        attributes=[*ATTRIBUTES, "chest_tube"],
        notes=[*notes, f"An image without a row in {TUBES} counts as one without a tube."],
    )
    return Imported(table, info)


def _patient(filename: str | None) -> str | None:
    """The number before the first ``_``, without ``P`` and leading zeros."""
    match = _PATIENT.match((filename or "").split("_")[0].strip())
    return match[1] if match else None


def _images(root: Path) -> dict[str, str]:
    """SOPInstanceUID → locator; a UID is full of dots, so only ``.dcm`` counts as a suffix."""
    folder = root / FOLDER
    if not folder.is_dir():
        return {}
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {name.removesuffix(".dcm"): f"{FOLDER}/{name}" for name in files}
