"""What may leave a manifest: hashed names, declared attributes, ages up to 90, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalfm.data.dataset_info import DatasetInfo
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    import pandas as pd

    from evalfm.data.manifest import Manifest

TOP_CODED_AGE = 90.0
SPLIT_KEY = "split_key"
"""Column of salted manifests: what the split is hashed from, masked by the salt."""
NEVER_ATTRIBUTES = frozenset({"id", "image", "patient", "study", "group", "split", SPLIT_KEY})
MOST_LEVELS = 100
SHORTEST_NAME = 3
"""Letters of a name below which it could be any number or word of a sentence."""
_WORD = re.compile(r"[^\s'\"`(),;:]+")
_PLACE = re.compile(
    r"(?:[A-Za-z]:[\\/]|(?<![\w…])(?:~[\w.-]*|\.{1,2})?[\\/]|…/)[^\s'\"`()<>,;]+"
    r"|[^\s'\"`()<>,;:]+\.(?:png|jpe?g|tiff?|gif|bmp|dcm|dicom|img|np[yz]|nii|gz|csv|tsv|parquet|json|ya?ml|py|pth?|ckpt|"
    r"safetensors|pkl|txt)\b(?:#[^\s'\"`()<>,;:]*)?",
    re.IGNORECASE,
)
"""A path from a root, a home or here, and a file by its ending."""


def public_names(values: Iterable[str], info: DatasetInfo) -> NDArray[np.object_]:
    """Names that may leave: as they are where published, else the first 16 hex digits of sha256(salt + name).

    Raises:
        EvalfmError: names need a hash and dataset.yaml holds no salt.

    >>> public_names(["patient-7"], DatasetInfo(name="mine", salt="pepper")).tolist()
    ['23d9adca3084cb35']
    """
    if info.names_are_public:
        return _objects(list(values))
    if not info.salt:
        raise EvalfmError(
            f"dataset.yaml of {info.name!r} needs `salt:` (any long random text) to hide ids and patients, "
            "or `public_ids: true` if they are published already."
        )
    salt = hashlib.sha256(info.salt.encode())
    return _objects([_hashed(salt, value) for value in values])


def split_keys(names: Iterable[str]) -> NDArray[np.object_]:
    """What a split is hashed from where ``names`` are hidden: 16 hex digits of sha256, the same under any salt."""
    return _objects([_hashed(hashlib.sha256(), name) for name in names])


def mask_split_keys(keys: Iterable[str], salted: Iterable[str], salt: str) -> NDArray[np.object_]:
    """Hide ``keys`` (16 hex digits), or unmask what was hidden: each exclusive-or the hash of its ``salted`` name.

    Without the salt a masked key reveals nothing, while a plain hash of a number could be tried out. What is no key is
    returned as its salted name.
    """
    start = hashlib.sha256(f"split\x1f{salt}\x1f".encode())
    masked: list[str] = []
    for key, name in zip(keys, salted, strict=True):
        try:
            masked.append(f"{int(key, 16) ^ int(_hashed(start, name), 16):016x}")
        except ValueError:
            masked.append(name)
    return _objects(masked)


def _hashed(salt: hashlib._Hash, value: str) -> str:
    state = salt.copy()
    state.update(value.encode())
    return state.hexdigest()[:16]


def _objects(values: Sequence[object]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def without_private(text: str, manifests: Iterable[Manifest]) -> str:
    """``text`` with … for paths, names of files, and every id, patient and other name of ``manifests``."""
    places = {str(Path.home()), os.getcwd()}
    names: set[str] = set()
    for manifest in manifests:
        places |= {str(manifest.root), str(manifest.folder), os.path.abspath(manifest.folder)}
        for column in ("id", "image", "patient", "study", "group"):
            if column in manifest.table:
                names |= {str(name) for name in manifest.table[column].dropna() if len(str(name)) >= SHORTEST_NAME}
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, "…/")
    text = _PLACE.sub("…", text)
    text = re.sub(r"(['\"])(.*?)\1", lambda match: f"{match[1]}…{match[1]}" if match[2] in names else match[0], text)
    return _WORD.sub(lambda match: "…" if match[0] in names or match[0].rstrip(".") in names else match[0], text)


def public_table(manifest: Manifest, rows: NDArray[np.intp] | Sequence[int] | None = None) -> pd.DataFrame:
    """The columns of ``manifest`` that may leave it: ``id``, ``patient``, ``split`` and the declared attributes.

    ``rows`` are positions, all by default. Without known patients ``patient`` is the public name of what
    stands for one (the exam, else the image).

    Raises:
        EvalfmError: names need a salt that is not there, or a declared attribute may not leave.
    """
    import pandas as pd

    positions = np.arange(len(manifest)) if rows is None else np.asarray(rows, dtype=np.intp)
    faults = attribute_faults(manifest)
    if faults:
        raise EvalfmError(" ".join(faults))
    table = manifest.table.iloc[positions].reset_index(drop=True)
    split = table["split"] if "split" in table else pd.Series([None] * len(table), dtype=object)
    columns: dict[str, object] = {
        "id": pd.Series(public_names(table["id"], manifest.info), dtype=object),
        "patient": pd.Series(public_names(manifest.patients[positions], manifest.info), dtype=object),
        "split": split,
    }
    for name in manifest.info.attributes:
        column = table[name]
        columns[name] = column.clip(upper=TOP_CODED_AGE) if name == "age" else column
    return pd.DataFrame(columns)


def attribute_faults(manifest: Manifest, cells_named: Collection[str] = ()) -> list[str]:
    """Why declared attributes may not leave: sentences, empty where all is well.

    An attribute is a category or a number. Names, paths, masks, dates and free text are none. Of the columns
    ``cells_named`` the bad cells are reported one by one, so nothing more is said of their numbers.
    """
    import pandas as pd

    faults = []
    for name in manifest.info.attributes:
        if name in NEVER_ATTRIBUTES or name.endswith("_mask"):
            faults.append(f"The column {name!r} can be no attribute; remove it from `attributes` in dataset.yaml.")
        elif name not in manifest.table:
            faults.append(f"The attribute {name!r} has no column in the table; add it or remove it from dataset.yaml.")
        else:
            column = manifest.table[name]
            if pd.api.types.is_datetime64_any_dtype(column.dtype):
                faults.append(f"The attribute {name!r} holds dates, which never leave; remove it from dataset.yaml.")
            elif name in cells_named:
                continue
            elif name == "age" and not pd.api.types.is_numeric_dtype(column.dtype):
                faults.append("The attribute 'age' must hold numbers (years) or empty cells; correct the table.")
            elif column.dtype == object and (levels := column.nunique()) > MOST_LEVELS:
                faults.append(
                    f"The attribute {name!r} has {levels} different texts, over {MOST_LEVELS}; free text "
                    "never leaves: group it into categories or remove it from `attributes` in dataset.yaml."
                )
    return faults
