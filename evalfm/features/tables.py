"""Feature sources that see no image: a constant, the table's own columns, embeddings from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from evalfm.data.geometry import Geometry
from evalfm.data.privacy import public_names
from evalfm.encoders.encoder import Features
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features.embedding_files import few, read_embeddings, refuse_known_columns
from evalfm.paths import input_file, user_path

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest

MOST_LEVELS = 64
HASHED_ROWS = 8192
"""At a time, so that a large table is not held twice."""


class TableSource:
    """Pooled features [N, D] that lie in memory, one row per row of the manifest; there are no maps."""

    map_channels: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()
    input_size: tuple[int, int] = (1, 1)

    def __init__(self, name: str, manifest: Manifest, values: NDArray[np.float32], meaning: str) -> None:
        """``meaning`` says what the columns are; it is part of the key with every value."""
        self.name = name
        self._manifest = manifest
        self._values = np.ascontiguousarray(values, dtype=np.float32)
        digest = hashlib.sha256(f"{name}\n{meaning}\n{self._values.shape}\n".encode())
        # By id, so that the order of the table makes no other run.
        ids = list(map(str, manifest.table["id"]))
        order = sorted(range(len(ids)), key=ids.__getitem__)
        for start in range(0, len(order), HASHED_ROWS):
            digest.update(self._values[order[start : start + HASHED_ROWS]].data)
        self._key = digest.hexdigest()

    @property
    def key(self) -> str:
        """SHA-256 of the name, what the columns mean and every value."""
        return self._key

    @property
    def pooled_dim(self) -> int:
        """Number of columns."""
        return int(self._values.shape[1])

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] of ``rows``, in order.

        Raises:
            EvalfmError: maps are asked for.
        """
        if maps:
            raise EvalfmError(f"{self.name} has no spatial maps; choose an image encoder for this head.")
        return Features(torch.from_numpy(self._values[np.asarray(rows, dtype=np.intp)]))

    def geometry(self, row: int) -> Geometry:
        """The image of ``row`` onto itself: nothing was resized."""
        return Geometry.identity(self._manifest.size(row))


class ConstantSource(TableSource):
    """The baseline that knows nothing: one feature that is 0 for every image."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__("constant", manifest, np.zeros((len(manifest), 1), np.float32), "0")

    @property
    def key(self) -> str:
        """The same for every manifest."""
        return hashlib.sha256(b"constant").hexdigest()


class MetadataSource(TableSource):
    """The baseline that sees only columns of the table, such as sex, age and view.

    A number gives itself (0 where unknown) and whether it is unknown; any other column gives one feature per
    level and one for unknown. Levels are those of the whole manifest, sorted: that fixes which features there
    are and in what order, never their values. Scaling is left to the head, which knows the training rows.

    Attributes:
        feature_names: what each feature is, such as ``sex=F`` or ``age unknown``.
    """

    def __init__(
        self, manifest: Manifest, columns: Sequence[str], levels: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        """``levels`` fixes the levels of named columns, such as those of the data a head was trained on.

        Raises:
            EvalfmError: a column is unknown, or has too many levels to be an attribute.
        """
        known = [str(name) for name in manifest.table.columns]
        for name in columns:
            if name not in known:
                raise UnknownNameError("column", name, known)
        if not columns:
            raise EvalfmError("Metadata features need at least one column, such as sex, age or view.")
        parts: list[NDArray[np.float32]] = []
        names: list[str] = []
        for name in columns:
            column = manifest.table[name]
            fixed = (levels or {}).get(name)
            if fixed is None and pd.api.types.is_numeric_dtype(column):
                values, labels = _number(name, column)
            else:
                values, labels = _one_hot(name, column, fixed)
            parts.append(values)
            names.extend(labels)
        self.feature_names = tuple(names)
        super().__init__("metadata", manifest, np.concatenate(parts, axis=1), "\n".join(names))


def _number(name: str, column: pd.Series) -> tuple[NDArray[np.float32], list[str]]:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    unknown = ~np.isfinite(values)
    filled = np.where(unknown, 0.0, values)
    return np.stack([filled, unknown], axis=1).astype(np.float32), [name, f"{name} unknown"]


def _one_hot(name: str, column: pd.Series, fixed: tuple[str, ...] | None) -> tuple[NDArray[np.float32], list[str]]:
    texts = [None if pd.isna(value) or value == "" else str(value) for value in column]
    levels = list(fixed) if fixed is not None else sorted({text for text in texts if text is not None})
    if len(levels) > MOST_LEVELS:
        raise EvalfmError(
            f"The column {name!r} has {len(levels)} different values, which is no attribute of a few levels; "
            "name another column."
        )
    position = {level: number for number, level in enumerate(levels)}
    values = np.zeros((len(texts), len(levels) + 1), np.float32)
    values[np.arange(len(texts)), [position.get(text or "", len(levels)) for text in texts]] = 1
    return values, [*(f"{name}={level}" for level in levels), f"{name} unknown"]


def _names_in(known: Container[str], manifest: Manifest) -> list[str]:
    """The ids of ``manifest``; or their salted hashes, where a file knows none of the ids but some of those."""
    own = [str(name) for name in manifest.table["id"]]
    if any(name in known for name in own) or manifest.info.names_are_public or not manifest.info.salt:
        return own
    hashed: list[str] = public_names(own, manifest.info).tolist()
    return hashed if any(name in known for name in hashed) else own


class PrecomputedSource(TableSource):
    """Embeddings that were computed elsewhere, joined to the manifest by image id.

    The file is a table (.csv, .parquet) with a column ``id`` and one column per feature or, in Parquet, one column of
    lists of one length; an .npz with ``ids`` [N] and ``features`` [N, D]; or a .safetensors of ``evalfm embed``.
    Ids are those of the manifest, or all of them its salted hashes, as evalfm writes where ids are not public. Row
    numbers and columns that the manifest has too, such as a label or the patient, are no features.
    """

    def __init__(self, manifest: Manifest, path: Path | str) -> None:
        """Read and join the file.

        Raises:
            EvalfmError: the file cannot be read, has a column that is no feature, lacks images, repeats ids or holds
                what is no finite number; all faults of its rows are named at once.
        """
        path = input_file(user_path(path, "precomputed:FILE"))
        found = read_embeddings(path, [str(name) for name in manifest.table.columns])
        position = {name: number for number, name in enumerate(found.ids)}
        wanted = _names_in(position, manifest)
        faults = []
        if len(position) < len(found.ids):
            repeated = sorted(pd.Series(found.ids)[pd.Series(found.ids).duplicated()].unique())
            faults.append(f"repeats {len(repeated)} ids ({few(repeated)})")
        if missing := [name for name in wanted if name not in position]:
            faults.append(f"lacks {len(missing)} of {len(wanted)} images ({few(missing)})")
        used = [name for name in wanted if name in position]
        # Most often in the order of the manifest already: then they are not held twice.
        values = found.values if used == found.ids else found.values[[position[name] for name in used]]
        # A sum in double precision is finite where all that float32 holds is.
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(values.sum(axis=1, dtype=np.float64))
        if bad := [used[row] for row in np.flatnonzero(~finite)]:
            rows = ", ".join(str(position[name] + 1) for name in bad[:5])
            faults.append(f"has empty, NaN or infinite features for {len(bad)} images ({few(bad)}), row {rows}")
        if faults:
            raise EvalfmError(f"{path} {' and '.join(faults)}; mend the file.")
        refuse_known_columns(values, found.names, manifest.table, path)
        super().__init__("precomputed", manifest, values, "\n".join(found.names))
