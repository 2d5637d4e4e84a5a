"""NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients with text-mined labels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.dicom import ADULT_HEIGHT_MM, ADULT_YEARS
from evalfm.data.digests import WORKERS
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import OLDEST, Notes, column, expect_file, numbers, with_places
from evalfm.data.splits import import_ids
from evalfm.errors import EvalfmError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = ("train_val_list.txt", "test_list.txt")
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "No Finding",
)


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``Data_Entry_2017*.csv`` and the images in ``images*/``; rows without a file are left out.

    Ages above 100 are errors of the set and become unknown. The original pixel spacing is scaled by
    original size ÷ stored size, since the images were squashed. The official lists are followed where both
    lie in ``root``.

    Raises:
        EvalfmError: a file or column is missing, or a finding is not one of the known.
    """
    file = expect_file(root, TABLES)
    native = read_table(file)
    notes = Notes()
    named = column(native, "Image Index", file)
    native = native.assign(image=as_text(named).map(_images(root)))
    native = with_places(native, root, notes, f"images/{named.iloc[0] if len(named) else '*'}")

    labels = _labels(column(native, "Finding Labels", file), file)
    age = _age(column(native, "Patient Age", file), notes)
    heights, widths = _sizes(native["image"], root, options, notes)
    table = pd.DataFrame(
        {
            "id": as_text(column(native, "Image Index", file)).str.replace(r"\.png$", "", regex=True).astype(object),
            "image": native["image"],
            "patient": as_text(column(native, "Patient ID", file)),
            **labels,
            "sex": as_text(column(native, "Patient Gender", file)),
            "age": age,
            "view": as_text(column(native, "View Position", file)),
            **_spacing(native, file, age, heights, widths, notes),
        }
    )
    split = _official_split(table, root)
    if split is not None:
        table["split"] = pd.Series(split, dtype=object)
    info = _info(tuple(labels), notes, official=split is not None)
    return Imported(table, info, val_from_train=split is not None)


def _images(root: Path) -> dict[str, str]:
    """File name → locator of every image in ``images*/`` and ``images*/images/``."""
    places: dict[str, str] = {}
    for folder in sorted(entry for entry in root.glob("images*") if entry.is_dir()):
        for place in (folder, folder / "images"):
            if place.is_dir():
                prefix = place.relative_to(root).as_posix()
                with os.scandir(place) as entries:
                    names = (entry.name for entry in entries if entry.name.lower().endswith(".png"))
                    places |= {name: f"{prefix}/{name}" for name in names if name not in places}
    return places


def _labels(cells: pd.Series, file: Path) -> dict[str, NDArray[np.float64]]:
    codes, combinations = pd.factorize(as_text(cells).fillna(""))
    sets = [{word.strip() for word in str(combination).split("|")} for combination in combinations]
    unknown = sorted(set().union(*sets) - set(FINDINGS))
    if unknown:
        words = ", ".join(repr(word) for word in unknown[:3])
        raise EvalfmError(
            f"{file} has Finding Labels that NIH ChestX-ray14 does not know: {words}; take its own table."
        )
    return {
        finding.lower().replace(" ", "_"): np.array([finding in present for present in sets], dtype=np.float64)[codes]
        for finding in FINDINGS
    }


def _age(cells: pd.Series, notes: Notes) -> NDArray[np.float64]:
    """Years; the table of 2017 writes ``058Y``, ``013M`` and ``005D``."""
    fields = as_text(cells).astype("string").str.extract(r"^(\d+)([YMWD]?)$")
    units = fields[1].map({"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}).astype(float)
    age = pd.to_numeric(fields[0]).astype(float).to_numpy() / units.to_numpy()
    wrong = age > OLDEST
    notes.tally(wrong, f"ages above {OLDEST:.0f} are errors of the set and were made unknown.")
    return np.where(wrong, np.nan, age)


def _sizes(
    image: pd.Series, root: Path, options: ImportOptions, notes: Notes
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height and width of the stored images, NaN where the file cannot be read."""
    from evalfm.data.images import image_size

    def size(locator: str) -> tuple[float, float]:
        try:
            return image_size(locator, root)
        except EvalfmError:
            return np.nan, np.nan

    # Threads wait for distant disks together.
    with ThreadPoolExecutor(WORKERS) as pool:
        read = options.progress.track(pool.map(size, image), "image sizes", len(image))
        sizes = np.array(list(read), dtype=np.float64).reshape(-1, 2)
    broken = np.flatnonzero(np.isnan(sizes[:, 0]))
    if len(broken):
        name = str(image.iloc[broken[0]]).rpartition("/")[2]
        notes.append(f"{len(broken)} image files cannot be read, such as {name}.")
    return sizes[:, 0], sizes[:, 1]


def _spacing(
    native: pd.DataFrame,
    file: Path,
    age: NDArray[np.float64],
    heights: NDArray[np.float64],
    widths: NDArray[np.float64],
    notes: Notes,
) -> dict[str, NDArray[np.float64]]:
    """Millimetres per stored pixel; unknown where an adult's image would be less than 250 mm high."""
    # The header reads `OriginalImage[Width,Height]`, whose comma makes two columns of it.
    width, height, across, down = (
        numbers(native, names, file, "take the table of NIH itself")
        for names in (
            ("OriginalImage[Width", "OriginalImageWidth"),
            ("Height]", "OriginalImageHeight"),
            ("OriginalImagePixelSpacing[x", "OriginalImagePixelSpacing_x"),
            ("y]", "OriginalImagePixelSpacing_y"),
        )
    )
    width_mm, height_mm = width * across, height * down
    too_low = (height_mm < ADULT_HEIGHT_MM) & ~(age < ADULT_YEARS)
    notes.tally(
        too_low, f"adult images would be under {ADULT_HEIGHT_MM:.0f} mm high; their pixel spacing was made unknown."
    )
    unknown = too_low | ~(height_mm > 0) | ~(width_mm > 0)
    return {
        "spacing_row_mm": np.where(unknown, np.nan, height_mm / heights),
        "spacing_column_mm": np.where(unknown, np.nan, width_mm / widths),
    }


def _official_split(table: pd.DataFrame, root: Path) -> NDArray[np.object_] | None:
    lists = [root / name for name in LISTS]
    present = [path for path in lists if path.is_file()]
    if not present:
        return None
    if len(present) == 1:
        absent = next(path.name for path in lists if path not in present)
        raise EvalfmError(f"{root} holds {present[0].name} and no {absent}; put it there too, or move both away.")
    return import_ids(table["id"].to_numpy(dtype=object), lists)


def _info(labels: tuple[str, ...], notes: Notes, *, official: bool) -> DatasetInfo:
    return DatasetInfo(
        name="nih-cxr14",
        title="NIH ChestX-ray14",
        licence="unrestricted use with attribution (NIH Clinical Center)",
        citation="Wang et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks, CVPR 2017",
        label_source=dict.fromkeys(labels, "text-mined"),
        attributes=["sex", "age", "view"],
        redistributable_images=True,
        public_ids=True,
        spacing_note="original spacing × original size ÷ stored size",
        split=SplitRule(rule="official", note="lists of the data set") if official else None,
        notes=notes,
    )
