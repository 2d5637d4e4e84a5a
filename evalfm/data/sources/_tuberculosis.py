"""The two tuberculosis sets of the United States' National Library of Medicine: names, readings and masks alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.dicom import ADULT_YEARS
from evalfm.data.sources._contract import Imported
from evalfm.data.sources._tables import OLDEST, what_is_in
from evalfm.errors import EvalfmError

IMAGES, READINGS = "CXR_png", "ClinicalReadings"
_SEX = re.compile(r"(?<![a-z])(female|male|f|m)(?![a-z])", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})\s*(y(?:ears?|rs?)?|m(?:onths?|os?)?|d(?:ays?)?)(?![a-z])", re.IGNORECASE)
_PER_YEAR = {"y": 1.0, "m": 12.0, "d": 365.25}


def read_films(root: Path, prefix: str, masks: dict[str, tuple[str, str]], facts: dict[str, Any]) -> Imported:
    """A row per ``CXR_png/<prefix>_NNNN_{0,1}.png``; the last digit is 1 for tuberculosis.

    ``masks`` gives, per finding, the folder and the ending of its files. Of the readings only sex and age enter.

    Raises:
        EvalfmError: no film is there, or a name ends in another digit.
    """
    films = sorted((root / IMAGES).glob(f"{prefix}_*.png"))
    if not films:
        first = f"{IMAGES}/{prefix}_0001_0.png"
        raise EvalfmError(f"There is no {first} in {root}, which {what_is_in(root)}; give the folder that holds it.")
    names = [path.stem for path in films]
    strange = [name for name in names if not re.fullmatch(rf"{prefix}_\d+_[01]", name)]
    if strange:
        raise EvalfmError(f"{strange[0]}.png is not named {prefix}_NNNN_0 or _1; take the set's own files.")
    notes: list[str] = []
    told = [_reading(root / READINGS / f"{name}.txt") for name in names]
    silent = sum(sex is None and age is None for sex, age in told)
    if silent:
        notes.append(f"{silent} of {len(names)} films have no reading with sex or age.")
    columns: dict[str, Any] = {
        "id": names,
        "image": [f"{IMAGES}/{path.name}" for path in films],
        "tuberculosis": [float(name[-1]) for name in names],
        "sex": pd.Series([sex for sex, _ in told], dtype=object),
        "age": pd.Series([age for _, age in told], dtype="float64"),
    }
    found = []
    for finding, (folder, ending) in masks.items():
        cells = [
            f"{folder}/{name}{ending}" if (root / folder / f"{name}{ending}").is_file() else None for name in names
        ]
        if any(cells):
            found.append(finding)
            columns[f"{finding}_mask"] = pd.Series(cells, dtype=object)
        if None in cells:
            notes.append(f"{cells.count(None)} of {len(names)} films have no {finding} mask.")
    children = int((columns["age"] < ADULT_YEARS).sum())
    if children:
        notes.append(f"{children} films are of patients under {ADULT_YEARS:.0f}.")
    info = DatasetInfo(
        mask_dialects=dict.fromkeys(found, "file"),
        label_source={"tuberculosis": "clinical"} | dict.fromkeys(found, "radiologist"),
        attributes=["sex", "age"],
        public_ids=True,
        notes=notes,
        citation="Jaeger et al., Two public chest X-ray datasets for computer-aided screening, QIMS 2014",
        **facts,
    )
    return Imported(pd.DataFrame(columns), info)


def _reading(file: Path) -> tuple[str | None, float | None]:
    """Sex and age of a reading, such as ``Patient's Sex: F`` and ``Patient's Age: 027Y``, or ``male 45yrs``."""
    if not file.is_file():
        return None, None
    text = file.read_text(encoding="utf-8", errors="replace").replace("Patient's", "")
    sex = _SEX.search(text)
    age = _AGE.search(text)
    years = None if age is None else int(age[1]) / _PER_YEAR[age[2][0].lower()]
    if years is not None and years > OLDEST:
        years = None
    return (None if sex is None else sex[1][0].upper()), years
