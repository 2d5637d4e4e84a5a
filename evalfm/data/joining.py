"""A second table's columns brought into a manifest by a key, nothing changed that was known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from evalfm.data.columns import MASK_SUFFIX, TEXT_COLUMNS, as_numbers, as_text, first_word, read_table, with_numbers
from evalfm.data.config import JoinConfig
from evalfm.data.dataset_info import LabelKind
from evalfm.data.manifest import Manifest
from evalfm.data.plain_pickle import read_plain_mapping
from evalfm.errors import EvalfmError, UnknownNameError, shown
from evalfm.paths import input_file

IMAGE_KEYS = ("image", "image_name", "image_stem")
"""Keys made of the locator: whole, its file name, its file name without extension."""

KEY, VALUE = "key", "value"
"""Columns of a pickled or JSON mapping once it is a table."""


@dataclass(frozen=True)
class Joined:
    """The wider manifest, and how well the tables met.

    Attributes:
        matched: rows of the manifest that the other table speaks of; ``unmatched`` those it does not.
        unused: rows of the other table that no image answers to; ``example`` is the key of one.
        filled: per column, unknown cells that are known now; ``changed`` known cells that are others now.
    """

    manifest: Manifest
    matched: int
    unmatched: int
    unused: int
    example: str | None
    filled: dict[str, int]
    changed: dict[str, int]


def read_other(path: Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet table, or a pickled mapping of ids to plain values (columns ``key`` and ``value``).

    Nothing that a pickle names is imported or made, see ``plain_pickle``.

    Raises:
        EvalfmError: absent, damaged, or a pickle that holds anything else.

    >>> _ = Path("tubes.csv").write_text("id,tube\\na,1\\n")
    >>> read_other(Path("tubes.csv")).columns.tolist()
    ['id', 'tube']
    """
    with input_file(path, "check --with").open("rb") as stream:
        start = stream.read(1)
    if start != b"\x80" and path.suffix not in (".pkl", ".pickle"):
        return read_table(path)
    content = read_plain_mapping(path)
    return pd.DataFrame({KEY: [str(key) for key in content], VALUE: list(content.values())})


def join(manifest: Manifest, other: pd.DataFrame, config: JoinConfig, name: str) -> Joined:
    """``manifest`` with columns of ``other``, a table called ``name`` in messages.

    Unknown cells are filled. A cell that is known and would become another value, or unknown, is left alone where
    the other table says nothing, and refused where it says otherwise, unless ``replace`` is set.

    Raises:
        EvalfmError: a column is missing or cannot be joined to, a key stands twice with different values, no row
            matches, or labels would change.

    >>> from evalfm.data.phantom import make_phantom
    >>> phantom = make_phantom("join", n=3, size=64)
    >>> other = pd.DataFrame({"name": phantom.table["id"][:2], "edema": [1, 0]})
    >>> joined = join(phantom, other, JoinConfig(join_on="id=name", labels=["edema"]), "other.csv")
    >>> joined.matched, joined.unmatched, joined.manifest.label("edema").tolist()
    (2, 1, [1.0, 0.0, nan])
    """
    mine, theirs = config.keys
    keys = keys_of(manifest, mine)
    if mine in IMAGE_KEYS and not keys.is_unique:
        raise EvalfmError(
            f"Several images have the {mine} {shown(keys[keys.duplicated()].iloc[0])}; join on another column."
        )
    _check_columns(other, [theirs, *config.labels.values(), *config.attributes.values(), *config.masks.values()], name)
    wanted = _wanted(other, config)
    wanted.index = pd.Index(as_text(other[theirs]).map(lambda key: key.strip() if key else None))
    wanted = wanted[wanted.index.notna()]
    if not len(wanted):
        raise EvalfmError(f"{name} has no row with a value in {theirs}; choose another column with --join-on.")
    wanted = _one_row_a_key(wanted, name)
    places = keys.map({key: place for place, key in enumerate(wanted.index)})
    met = places.notna().to_numpy(dtype=bool)
    if not met.any():
        raise EvalfmError(
            f"No row of {manifest.info.name} meets one of {name}: {mine} is like {shown(str(keys.iloc[0]))}, "
            f"{theirs} like {shown(str(wanted.index[0]))}; choose other columns with --join-on."
        )
    taken = wanted.iloc[places[met].astype(int).to_numpy()]
    table = manifest.table.copy()
    filled, changed = {}, {}
    for column in wanted.columns:
        table[column], filled[column], changed[column] = _merged(table, column, met, taken[column])
    altered = {column: count for column, count in changed.items() if count}
    if altered and not config.replace:
        changes = ", ".join(f"{count} of {column}" for column, count in altered.items())
        raise EvalfmError(
            f"{name} would change known values ({changes}); take another name for the column (NEW=COLUMN), "
            "or add --replace if the new ones are right."
        )
    unused = sorted(set(wanted.index) - set(keys[met]))
    count = int(met.sum())
    sentences = [f"{', '.join(wanted.columns)} joined from a second table for {count} of {len(manifest)} images."]
    sentences += [config.note] if config.note else []
    info = manifest.info.model_copy(
        update={
            "label_source": {
                **manifest.info.label_source,
                **dict.fromkeys([*config.labels, *config.masks], config.source),
            },
            "label_kinds": {**manifest.info.label_kinds, **config.label_kinds},
            "mask_dialects": {**manifest.info.mask_dialects, **dict.fromkeys(config.masks, config.dialect)},
            "mask_sizes": {
                **manifest.info.mask_sizes,
                **(dict.fromkeys(config.masks, config.mask_size) if config.mask_size else {}),
            },
            "attributes": list(dict.fromkeys([*manifest.info.attributes, *config.attributes])),
            "notes": [*manifest.info.notes, *sentences],
        }
    )
    wider = Manifest(info, table, manifest.folder)
    return Joined(wider, count, len(manifest) - count, len(unused), str(unused[0]) if unused else None, filled, changed)


def keys_of(manifest: Manifest, name: str) -> pd.Series:
    """What the rows of a manifest are joined by: a column, or something of the locator (``IMAGE_KEYS``).

    Raises:
        UnknownNameError: there is no such column.
    """
    if name in ("image_name", "image_stem"):
        paths = manifest.table["image"].map(lambda locator: PurePosixPath(locator.replace("#", "/")))
        return pd.Series([path.name if name == "image_name" else path.stem for path in paths], dtype=object)
    if name not in manifest.table:
        raise UnknownNameError("column to join on", name, [*map(str, manifest.table.columns), *IMAGE_KEYS[1:]])
    return as_text(manifest.table[name])


def _check_columns(other: pd.DataFrame, names: list[str], name: str) -> None:
    present = [str(column) for column in other.columns]
    for column in names:
        if column not in present:
            raise UnknownNameError(f"column of {name}", column, present)


def _wanted(other: pd.DataFrame, config: JoinConfig) -> pd.DataFrame:
    """The columns to take, under their new names and in their forms."""
    columns: dict[str, pd.Series] = {}
    for label, source in config.labels.items():
        if label in TEXT_COLUMNS or label.endswith(MASK_SUFFIX):
            raise EvalfmError(f"A label cannot be named {label!r}; give it another name: NEW={source}.")
        columns[label] = _label(other[source], label, config.label_kinds.get(label, "binary"))
    for finding, source in config.masks.items():
        columns[finding + MASK_SUFFIX] = as_text(other[source])
    for attribute, source in config.attributes.items():
        if attribute not in columns:
            columns[attribute] = with_numbers(other[source])
    if not columns:
        raise EvalfmError("Nothing is taken from the second table; name columns with --label, --attribute or --mask.")
    return pd.DataFrame(columns)


def _label(cells: pd.Series, label: str, kind: LabelKind) -> pd.Series:
    numbers = as_numbers(cells)
    if kind == "class":
        return with_numbers(cells)
    if numbers is None:
        raise EvalfmError(
            f"The label {label!r} holds words, not numbers ({first_word(cells)}); give 0 and 1 or leave the cell empty."
        )
    if kind == "binary" and not set(numbers.dropna()) <= {0.0, 1.0}:
        odd = sorted(set(numbers.dropna()) - {0.0, 1.0})
        raise EvalfmError(f"The binary label {label!r} holds {odd[0]:g}; give 0, 1 or nothing, or say its kind.")
    return numbers


def _one_row_a_key(wanted: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows that say the same twice become one; rows that differ are refused."""
    if wanted.index.is_unique:
        return wanted
    distinct = wanted.reset_index(names="\0key").drop_duplicates()
    twice = distinct["\0key"][distinct["\0key"].duplicated()]
    if len(twice):
        raise EvalfmError(
            f"{name} holds {twice.nunique()} keys with different values in several rows, such as "
            f"{shown(str(twice.iloc[0]))}; leave one row for each."
        )
    return distinct.set_index("\0key")


def _merged(
    table: pd.DataFrame, column: str, met: np.ndarray[Any, np.dtype[np.bool_]], taken: pd.Series
) -> tuple[pd.Series, int, int]:
    """The column after the join, how many cells were filled, and how many were changed."""
    values = taken.to_numpy(dtype=object)
    if column not in table:
        before = pd.Series([None] * len(table), dtype=object)
    else:
        before = table[column].astype(object)
    after = before.copy()
    old = before.to_numpy(dtype=object)[met]
    said, had = pd.notna(values), pd.notna(old)
    after.iloc[np.flatnonzero(met)[said]] = values[said]
    changed = int(sum(one != other for one, other in zip(old[said & had], values[said & had], strict=True)))
    return after, int((said & ~had).sum()), changed
