"""Breast density on mammograms: VinDr-Mammo, and any table with laterality and view."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions, TableMapping
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.sources import Imported
from evalfm.data.sources import table as any_table
from evalfm.data.sources._tables import Notes, column, expect_file, files_by_stem, only_words, with_places
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"mapping"})
TABLE = "breast-level_annotations.csv"
IMAGES = "images"
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
GRADES = "ABCD"
_DENSITY = re.compile(r"^(?:(?:breast )?density|acr|bi-?rads)?\s*[-_:]?\s*([a-d1-4])$", re.IGNORECASE)
_NUMBER = re.compile(r"[1-4]$")
_BIRADS = re.compile(r"^(?:bi-?rads)?\s*([0-6])$", re.IGNORECASE)


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read VinDr-Mammo (``breast-level_annotations.csv`` and ``images/<study>/<image>.dicom``), or a mapped table.

    ``density`` is A to D, in this order. The exam stays in one split, whoever the patient is. Of VinDr-Mammo the
    official test split is kept and val is drawn by exam from training; ``birads`` is the breast's category.

    A mapped table must hold the exam or the patient; columns of density, laterality and view are known by their names
    (``density`` or ``breast_density``, ``laterality``, ``view`` or ``view_position``) or by the mapping.

    Raises:
        EvalfmError: a file or column is missing, a word is unknown, or an exam is of two patients.
    """
    if options.mapping is not None:
        return _any(root, options, options.mapping)
    file = expect_file(root, [TABLE])
    native = read_table(file)
    notes = Notes()
    native = native.assign(
        study=as_text(column(native, "study_id", file)), id=as_text(column(native, "image_id", file))
    )
    # Copies as PNG may be called ``<image>.png`` or ``<study>_<image>.png``.
    found = reversed(files_by_stem(root, (IMAGES,), SUFFIXES).items())
    places = {stem.rpartition("_")[2]: place for stem, place in found}
    first = f"{native['study'].iloc[0]}/{native['id'].iloc[0]}.dicom" if len(native) else "*/*.dicom"
    # Notes count the images that are there.
    native = with_places(native.assign(image=native["id"].map(places)), root, notes, f"{IMAGES}/{first}")
    birads = only_words(column(native, "breast_birads", file), _category, "BI-RADS 0 to 6", file)
    table = pd.DataFrame(
        {
            **native[["id", "image", "study"]],
            "laterality": only_words(column(native, "laterality", file), _side, "L or R", file),
            "view": as_text(column(native, "view_position", file)).map(_upper),
            "density": _density(column(native, "breast_density", file), file, notes),
            "birads": pd.to_numeric(birads),
            "split": only_words(column(native, "split", file), _split_of, "training or test", file),
        }
    )
    return Imported(table, _info(notes), val_from_train=True)


def _any(root: Path, options: ImportOptions, mapping: TableMapping) -> Imported:
    """Any table: read as one, then density, laterality and view brought into one form and exams held together."""
    if mapping.patient is None and mapping.study is None:
        raise EvalfmError("Views of one exam must stay together: name its column, --study COLUMN or --patient.")
    native, file = any_table.read_mapped(root, mapping)
    present = set(native.columns)

    def column_of(given: str | None, *names: str) -> str:
        return given or next((name for name in names if name in present), names[0])

    mapping = mapping.model_copy(
        update={
            "labels": {
                "density": column_of(mapping.labels.get("density"), "density", "breast_density"),
                **mapping.labels,
            },
            "label_kinds": {**mapping.label_kinds, "density": "class"},
            "levels": {name: levels for name, levels in mapping.levels.items() if name != "density"},
            "attributes": {
                "laterality": column_of(mapping.attributes.get("laterality"), "laterality"),
                "view": column_of(mapping.attributes.get("view"), "view", "view_position"),
                **mapping.attributes,
            },
        }
    )
    imported = any_table.import_source(root, options.model_copy(update={"mapping": mapping}))
    notes = Notes(imported.info.notes)
    table = imported.table.assign(
        density=_density(imported.table["density"], file, notes),
        laterality=only_words(imported.table["laterality"], _side, "L or R", file),
        view=as_text(imported.table["view"]).map(_upper),
    )
    if mapping.patient is not None and mapping.study is not None:
        pairs = table[["study", "patient"]].drop_duplicates()
        if pairs["study"].dropna().duplicated().any():
            raise EvalfmError(
                f"{file} has exams of two patients ({int(pairs['study'].duplicated().sum())}), whose views could come "
                "into two splits; correct the table, or leave --patient out."
            )
    return Imported(table, imported.info.model_copy(update={"notes": notes}))


def _density(cells: pd.Series, file: Path, notes: Notes) -> pd.Series:
    """A to D from ``DENSITY C``, ``c`` or the numbers 1 to 4; another count of numbers is not guessed."""
    words = only_words(cells, _grade, "DENSITY A to D, or 1 to 4", file)
    numbered = as_text(cells).map(lambda word: bool(word and _NUMBER.search(word)))
    notes.tally(numbered, "densities are the numbers 1 to 4 in the table, which were taken for A to D.")
    return words


def _grade(word: str) -> str | None:
    match = _DENSITY.match(word)
    if match is None:
        return None
    grade = match[1].upper()
    return GRADES[int(grade) - 1] if grade.isdecimal() else grade


def _category(word: str) -> str | None:
    match = _BIRADS.match(word)
    return match[1] if match else None


def _side(word: str) -> str | None:
    return SIDES.get(word.lower())


def _split_of(word: str) -> str | None:
    return {"training": "train", "test": "test"}.get(word.lower())


def _upper(word: str | None) -> str | None:
    return word.upper() if word else None


def _info(notes: Notes) -> DatasetInfo:
    return DatasetInfo(
        name="vindr-mammo",
        title="VinDr-Mammo",
        licence="PhysioNet Restricted Health Data License 1.5.0",
        citation=(
            "Nguyen et al., VinDr-Mammo: A large-scale benchmark dataset for computer-aided diagnosis in full-field "
            "digital mammography, Scientific Data 2023"
        ),
        label_source={"density": "radiologist", "birads": "radiologist"},
        label_kinds={"density": "class", "birads": "class"},
        attributes=["laterality", "view"],
        split=SplitRule(rule="official", note="split of the data set"),
        notes=notes,
    )
