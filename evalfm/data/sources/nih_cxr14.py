"""NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients with text-mined labels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_numbers, as_text, first_word, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.digests import WORKERS
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import column, expect_file, what_is_in
from evalfm.data.splits import import_ids
from evalfm.errors import EvalfmError

NAME = "nih-cxr14"
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
OLDEST = 100.0
ADULT = 18.0
LOWEST_ADULT_FILM_MM = 250.0


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
    notes: list[str] = []
    places = _images(root)
    image = as_text(column(native, "Image Index", file)).map(places)
    there = image.notna().to_numpy()
    if not there.any():
        first = column(native, "Image Index", file).iloc[0]
        raise EvalfmError(f"There is no images/{first} in {root}, which {what_is_in(root)}; unpack the images there.")
    if not there.all():
        notes.append(f"{int((~there).sum())} of {len(native)} rows have no image file and were left out.")
    native, image = native[there].reset_index(drop=True), image[there].reset_index(drop=True)

    labels = _labels(column(native, "Finding Labels", file), file)
    age = _age(column(native, "Patient Age", file), notes)
    heights, widths = _sizes(image, root, options, notes)
    table = pd.DataFrame(
        {
            "id": as_text(column(native, "Image Index", file)).str.replace(r"\.png$", "", regex=True).astype(object),
            "image": image,
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


def _age(cells: pd.Series, notes: list[str]) -> NDArray[np.float64]:
    """Years; the table of 2017 writes ``058Y``, ``013M`` and ``005D``."""
    fields = as_text(cells).astype("string").str.extract(r"^(\d+)([YMWD]?)$")
    units = fields[1].map({"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}).astype(float)
    age = pd.to_numeric(fields[0]).astype(float).to_numpy() / units.to_numpy()
    wrong = age > OLDEST
    if wrong.any():
        notes.append(f"{int(wrong.sum())} ages above {OLDEST:.0f} are errors of the set and were made unknown.")
    return np.where(wrong, np.nan, age)


def _sizes(
    image: pd.Series, root: Path, options: ImportOptions, notes: list[str]
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
    notes: list[str],
) -> dict[str, NDArray[np.float64]]:
    """Millimetres per stored pixel; unknown where an adult's image would be less than 250 mm high."""

    def numbers(*names: str) -> NDArray[np.float64]:
        given = column(native, names, file)
        cells = as_numbers(given)
        if cells is None:
            where = first_word(given)
            raise EvalfmError(f"{file} holds words in the column {names[0]!r} ({where}); take the table of NIH itself.")
        return cells.to_numpy(dtype=np.float64)

    # The header reads `OriginalImage[Width,Height]`, whose comma makes two columns of it.
    width_mm = numbers("OriginalImage[Width", "OriginalImageWidth") * numbers(
        "OriginalImagePixelSpacing[x", "OriginalImagePixelSpacing_x"
    )
    height_mm = numbers("Height]", "OriginalImageHeight") * numbers("y]", "OriginalImagePixelSpacing_y")
    too_low = (height_mm < LOWEST_ADULT_FILM_MM) & ~(age < ADULT)
    if too_low.any():
        notes.append(
            f"{int(too_low.sum())} adult images would be under {LOWEST_ADULT_FILM_MM:.0f} mm high; "
            "their pixel spacing was made unknown."
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


def _info(labels: tuple[str, ...], notes: list[str], *, official: bool) -> DatasetInfo:
    return DatasetInfo(
        name=NAME,
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
