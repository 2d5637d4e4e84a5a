"""Montgomery County: 138 radiographs of tuberculosis screening, 58 with it, both lungs outlined."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.dicom import ADULT_YEARS
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import OLDEST, Notes, what_is_in
from evalfm.errors import EvalfmError


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``CXR_png/MCUCXR_NNNN_{0,1}.png``, ``ClinicalReadings/*.txt`` and ``ManualMask/{left,right}Mask/*.png``.

    The last digit of a name is 1 for tuberculosis. The set names no patients.

    Raises:
        EvalfmError: no image is there, or a name is another.
    """
    masks: Masks = {"left_lung": (("ManualMask/leftMask",), ".png"), "right_lung": (("ManualMask/rightMask",), ".png")}
    facts = {
        "name": "montgomery",
        "title": "Montgomery County chest X-ray set",
        "licence": "National Library of Medicine, research use with attribution",
        "redistributable_images": True,
    }
    return read_images(root, "MCUCXR", masks, facts)


Masks = dict[str, tuple[tuple[str, ...], str]]
"""Per finding the folders that may hold its files, and their ending."""

IMAGES, READINGS = "CXR_png", "ClinicalReadings"
# One reading of Shenzhen has `femal`; `female24yrs` has no space.
_SEX = re.compile(r"(?<![a-z\d])(female?|male|f|m)(?![a-z])", re.IGNORECASE)
_AGE = re.compile(
    r"(?<![\d.])(\d{1,3}(?:\.\d+)?)[\s-]*(y(?:ears?|rs?)?|m(?:onths?|os?)?|d(?:ays?)?)(?![a-z])", re.IGNORECASE
)
_NAMED = re.compile(r"^(?:patient'?s\s+)?(?:sex|age)\s*:", re.IGNORECASE)
_PER_YEAR = {"y": 1.0, "m": 12.0, "d": 365.25}


def read_images(root: Path, prefix: str, masks: Masks, facts: dict[str, Any]) -> Imported:
    """A row per ``CXR_png/<prefix>_NNNN_{0,1}.png``; the last digit is 1 for tuberculosis.

    Of the readings only sex and age enter.

    Raises:
        EvalfmError: no image is there, or a name ends in another digit.
    """
    files = sorted((root / IMAGES).glob(f"{prefix}_*.png"))
    if not files:
        first = f"{IMAGES}/{prefix}_0001_0.png"
        raise EvalfmError(f"There is no {first} in {root}, which {what_is_in(root)}; give the folder that holds it.")
    names = [path.stem for path in files]
    strange = [name for name in names if not re.fullmatch(rf"{prefix}_\d+_[01]", name)]
    if strange:
        raise EvalfmError(f"{strange[0]}.png is not named {prefix}_NNNN_0 or _1; take the set's own files.")
    notes = Notes()
    others = sum(path.suffix.lower() == ".png" for path in (root / IMAGES).iterdir()) - len(files)
    notes.tally(others, f"other images in {IMAGES} are not named {prefix}_NNNN_0 or _1 and were left out.")
    readings = [_reading(root / READINGS / f"{name}.txt") for name in names]
    sexless, ageless = (sum(fact is None for fact in column) for column in zip(*readings, strict=True))
    if sexless or ageless:
        notes.append(f"{sexless} of {len(names)} images have no sex in their reading, {ageless} no age.")
    columns: dict[str, Any] = {
        "id": names,
        "image": [f"{IMAGES}/{path.name}" for path in files],
        "tuberculosis": [float(name[-1]) for name in names],
        "sex": pd.Series([sex for sex, _ in readings], dtype=object),
        "age": pd.Series([age for _, age in readings], dtype="float64"),
    }
    outlined = []
    for finding, (folders, ending) in masks.items():
        cells = [_first_file(root, [f"{folder}/{name}{ending}" for folder in folders]) for name in names]
        if any(cells):
            outlined.append(finding)
            columns[f"{finding}_mask"] = pd.Series(cells, dtype=object)
        notes.tally(cells.count(None), f"of {len(names)} images have no {finding} mask.")
    notes.tally(columns["age"] < ADULT_YEARS, f"images are of patients under {ADULT_YEARS:.0f}.")
    info = DatasetInfo(
        mask_dialects=dict.fromkeys(outlined, "file"),
        label_source={"tuberculosis": "clinical"} | dict.fromkeys(outlined, "radiologist"),
        attributes=["sex", "age"],
        public_ids=True,
        notes=notes,
        citation="Jaeger et al., Two public chest X-ray datasets for computer-aided screening, QIMS 2014",
        **facts,
    )
    return Imported(pd.DataFrame(columns), info)


def _first_file(root: Path, locators: list[str]) -> str | None:
    return next((locator for locator in locators if os.path.isfile(root / locator)), None)


def _reading(file: Path) -> tuple[str | None, float | None]:
    """Sex and age (years) of a reading: of lines such as ``Patient's Sex: F``, or of a first line ``male 45yrs``.

    What follows is a report, whose ages and sexes may be of anything.
    """
    if not file.is_file():
        return None, None
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    head = [_NAMED.sub("", line).strip() for line in lines if _NAMED.match(line)] or lines[:1]
    if len(head) == 1 and len(lines) > 1 and _AGE.fullmatch(lines[1]):
        head.append(lines[1])
    sex = next(filter(None, map(_SEX.search, head)), None)
    age = next(filter(None, map(_AGE.search, head)), None)
    years = None if age is None else float(age[1]) / _PER_YEAR[age[2][0].lower()]
    if years is not None and years > OLDEST:
        years = None
    return (None if sex is None else sex[1][0].upper()), years
