"""PadChest: 160,868 radiographs of 67,625 patients with labels of physicians and of a network that learnt from them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import OLDEST, Notes, column, expect_file, sexes, with_files, written_list
from evalfm.errors import EvalfmError

TABLES = tuple(f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{suffix}" for suffix in ("", ".gz"))
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP"}
EXCLUDED = "exclude"
FINDINGS = {
    "no_finding": ("normal",),
    "pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "cardiomegaly": ("cardiomegaly",),
    "pleural_effusion": ("pleural effusion",),
    "consolidation": ("consolidation",),
    "atelectasis": (
        "atelectasis",
        "laminar atelectasis",
        "lobar atelectasis",
        "total atelectasis",
        "round atelectasis",
    ),
    "edema": ("pulmonary edema",),
    "pneumonia": ("pneumonia", "atypical pneumonia"),
    "tuberculosis": ("tuberculosis",),
    "emphysema": ("emphysema",),
    "nodule": ("nodule", "multiple nodules"),
    "mass": ("mass", "pulmonary mass"),
    "chest_tube": ("chest drain tube",),
    "endotracheal_tube": ("endotracheal tube",),
    "nasogastric_tube": ("nsg tube",),
    "tracheostomy_tube": ("tracheostomy tube",),
    "pacemaker": ("pacemaker", "dual chamber device", "single chamber device"),
}
"""Label → words of the set, any of which makes it positive."""
DEVICES = ("chest_tube", "endotracheal_tube", "nasogastric_tube", "tracheostomy_tube", "pacemaker")


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` and ``<ImageDir>/<ImageID>`` (or in ``root``).

    PA, AP and AP-horizontal images enter. ``label_method`` says who labelled, ``Physician`` or ``RNN_model``, so that
    a cohort can select physicians. Age is the year of the study less that of birth. Images marked ``exclude`` are left
    out.

    Raises:
        EvalfmError: a file or column is missing, or a cell of labels is no list.
    """
    file = expect_file(root, TABLES)
    native = read_table(file)
    notes = Notes()
    image_id, folder = (as_text(column(native, name, file)) for name in ("ImageID", "ImageDir"))
    view = as_text(column(native, "Projection", file)).map(VIEWS)
    words = _words(column(native, "Labels", file), file)
    sex = column(native, "PatientSex_DICOM", file).replace({"O": None, "None": None})
    table = pd.DataFrame(
        {
            "id": image_id.str.removesuffix(".png"),
            "image": _places(image_id, folder, root),
            "patient": as_text(column(native, "PatientID", file)),
            "study": as_text(column(native, "StudyID", file)),
            **_labels(words),
            "sex": sex,
            "age": _age(native, file),
            "view": view,
            "label_method": as_text(column(native, "MethodLabel", file)),
        }
    )
    table = _without(table, view.isna(), "are not PA or AP", notes)
    excluded = words.map(lambda words_of_row: words_of_row is not None and EXCLUDED in words_of_row).reindex(
        table.index
    )
    table = _without(table, excluded, "are marked to be excluded", notes)
    nobody = table["patient"].isna() | table["id"].isna()
    table = _without(table, nobody, "name no patient", notes).reset_index(drop=True)
    table = with_files(table, root, notes, "give the folder that holds the numbered folders of images")
    # Notes count the images that enter.
    table = table.assign(sex=sexes(table["sex"], notes), age=_plausible(table["age"], notes))
    info = DatasetInfo(
        name="padchest",
        title="PadChest",
        licence="PadChest Dataset Research Use Agreement",
        citation="Bustos et al., PadChest: A large chest x-ray image dataset with multi-label reports, MedIA 2020",
        label_source=dict.fromkeys(FINDINGS, "radiologist or text-mined, by label_method"),
        attributes=["sex", "age", "view", "label_method", *DEVICES],
        public_ids=True,
        notes=notes,
    )
    return Imported(table, info)


def _without(table: pd.DataFrame, gone: pd.Series, why: str, notes: Notes) -> pd.DataFrame:
    notes.tally(gone, f"images {why} and were left out.")
    return table[~gone]


def _places(image_id: pd.Series, folder: pd.Series, root: Path) -> pd.Series:
    """Locators: numbered folders where there are any, else everything lies in ``root``."""
    inside = [os.path.isdir(root / str(name)) for name in folder.dropna().unique()]
    return folder + "/" + image_id if any(inside) else image_id


def _words(cells: pd.Series, file: Path) -> pd.Series:
    """The set of words of each row, None where there is no list; spaces and case are not minded."""
    codes, lists = pd.factorize(as_text(cells))
    parsed = []
    for text in lists:
        values = written_list(str(text))
        if values is None:
            raise EvalfmError(f"{file} holds {str(text)[:60]!r} in the column 'Labels', where a list is expected.")
        parsed.append(frozenset(str(value).strip().lower() for value in values) - {""})
    return pd.Series([None if code < 0 else parsed[code] for code in codes], index=cells.index, dtype=object)


def _labels(words: pd.Series) -> dict[str, NDArray[np.float64]]:
    return {
        label: np.array([np.nan if said is None else not said.isdisjoint(names) for said in words], dtype=np.float64)
        for label, names in FINDINGS.items()
    }


def _age(native: pd.DataFrame, file: Path) -> NDArray[np.float64]:
    born = pd.to_numeric(as_text(column(native, "PatientBirth", file)), errors="coerce")
    taken = pd.to_numeric(as_text(column(native, "StudyDate_DICOM", file)).str[:4], errors="coerce")
    return (taken - born).to_numpy(dtype=np.float64)


def _plausible(years: pd.Series, notes: Notes) -> pd.Series:
    wrong = (years < 0) | (years > OLDEST)
    notes.tally(wrong, f"ages are not from 0 to {OLDEST:.0f} and were made unknown.")
    return years.mask(wrong)
