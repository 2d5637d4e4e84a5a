"""What the DICOM headers of a public set say of its films: sex, age and view, by the allow-list."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from pydicom.config import disable_value_validation

from evalfm.data.dicom import LONGEST_LIFE, dicom_attributes
from evalfm.data.digests import WORKERS
from evalfm.data.locators import files_below
from evalfm.errors import EvalfmError
from evalfm.progress import Progress

ATTRIBUTES = ("sex", "age", "view")


def header_columns(locators: pd.Series, root: Path, progress: Progress, notes: list[str]) -> dict[str, Any]:
    """Columns ``sex``, ``age`` and ``view`` of films [N], unknown where a file is no sound DICOM."""

    def read(locator: str) -> dict[str, Any]:
        try:
            return dict(dicom_attributes(root / locator))
        except EvalfmError:
            return {}

    # SIIM-ACR writes ages that the standard forbids; each would be a warning.
    with disable_value_validation(), ThreadPoolExecutor(WORKERS) as pool:
        found = list(progress.track(pool.map(read, locators), "DICOM headers", len(locators)))
    damaged = sum(not facts for facts in found)
    if damaged:
        notes.append(f"{damaged} of {len(found)} headers cannot be read; sex, age and view are unknown there.")
    columns: dict[str, Any] = {name: [facts.get(name) for facts in found] for name in ATTRIBUTES}
    columns["age"] = pd.Series(columns["age"], dtype="float64")
    ageless = int(columns["age"].isna().sum()) - damaged
    if ageless:
        beyond = f"or one beyond {LONGEST_LIFE:.0f} years"
        notes.append(f"{ageless} of {len(found)} films have no age in their header, {beyond}.")
    return {name: pd.Series(values, dtype=object) if name != "age" else values for name, values in columns.items()}


def files_by_stem(root: Path, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix → locator, of every file with one of ``suffixes`` below ``folders`` of ``root``."""
    places: dict[str, str] = {}
    for folder in folders:
        for locator in files_below(root, folder):
            path = PurePosixPath(locator)
            if path.suffix.lower() in suffixes:
                places.setdefault(path.stem, locator)
    return places
