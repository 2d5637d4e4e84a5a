"""Image folders without a table, where each folder is a class."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pandas as pd

from evalfm.data.locators import files_below
from evalfm.data.sources._tables import what_is_in
from evalfm.errors import EvalfmError

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".dcm", ".dicom")
PATH, CLASS, SPLIT = "path", "class", "split"


def class_folders(root: Path, split_words: dict[str, str], notes: list[str]) -> pd.DataFrame:
    """Columns ``path``, ``class`` and, where the classes lie in ``train/``, ``test/`` …, ``split`` of every image.

    Files that are no images by their suffix are counted in ``notes``.

    Raises:
        EvalfmError: there are fewer than two classes, or folders of splits and of classes lie side by side.
    """
    tops = _folders(root)
    parts = [name for name in tops if name.lower() in split_words]
    if parts and len(parts) < len(tops):
        other = next(name for name in tops if name not in parts)
        raise EvalfmError(f"{root} holds {parts[0]}/ and {other}/ side by side; give a root of splits or of classes.")
    rows: list[dict[str, str]] = []
    others = 0
    for part in parts or [""]:
        for name in _folders(root / part):
            for file in files_below(root, f"{part}/{name}" if part else name):
                if PurePosixPath(file).name.startswith("."):
                    continue
                if not file.lower().endswith(SUFFIXES):
                    others += 1
                    continue
                rows.append({PATH: file, CLASS: name} | ({SPLIT: part.lower()} if part else {}))
    table = pd.DataFrame(rows, dtype=object)
    if len(rows) == 0 or table[CLASS].nunique() < 2:
        raise EvalfmError(
            f"{root}, which {what_is_in(root)}, has images in fewer than two folders; give the folder that holds one "
            "folder for each class, or train/ and test/ with them."
        )
    if others:
        notes.append(f"{others} files in the folders are no images and were left out.")
    return table


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder`` but hidden ones and what archives of other systems leave."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
