"""Masks from files and from run lengths, and how wide they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.data.images import read_stored
from evalfm.data.rle import decode, decode_union, encode
from evalfm.errors import EvalfmError

__all__ = ["cardiothoracic_ratio", "decode", "decode_union", "encode", "horizontal_extent", "read_mask_file"]


def read_mask_file(locator: str, root: Path) -> NDArray[np.bool_]:
    """A mask [H, W] from a PNG, GIF, BMP, TIFF, JPEG or an array of NPZ or NPY.

    Values of 0 and 1 are taken as they are. Any others are cut at half of what a pixel can hold (above 127 of
    255), so that antialiased borders are halved. A palette of colours counts by its indices, which must be 0
    and 1.

    Raises:
        EvalfmError: the file cannot be read, has colours, keeps its mask in the opacity, or holds values that
            are neither 0 and 1 nor reach above half of the range, as a map of several labels does.
    """
    stored = read_stored(locator, root)
    values = stored.values
    if len(values) > 1 and (values != values[:1]).any():
        indices = stored.palette_indices
        if indices is None or indices.max() > 1:
            raise EvalfmError(f"Mask {locator} has colours; save it with one grey channel, one finding a file.")
        return np.asarray(indices > 0)
    film = values[0]
    if stored.opacity_varies and (film == film.flat[0]).all():
        raise EvalfmError(f"Mask {locator} lies in the opacity of its file; save it as grey, 0 and 255.")
    return _cut(film, stored.bits, locator)


def _cut(film: NDArray[Any], bits: int, locator: str) -> NDArray[np.bool_]:
    low, high = film.min(), film.max()
    if not np.isfinite([low, high]).all() or low < 0:
        raise EvalfmError(f"Mask {locator} holds negative or infinite values; save it as 0 and 1, or 0 and 255.")
    if film.dtype.kind == "f" and high <= 1:
        return np.asarray(film > 0.5)
    if high <= 1:
        return np.asarray(film > 0)
    # Wider types often hold the 0 and 255 of 8 bits.
    top = 255 if high <= 255 or film.dtype.kind == "f" else 2**bits - 1
    if high > top or high <= top // 2:
        raise EvalfmError(
            f"Mask {locator} holds values up to {high:g}, neither 0 and 1 nor above half of {top}; "
            "save one finding a file, as 0 and 1 or as 0 and 255."
        )
    return np.asarray(film > top // 2)


def horizontal_extent(mask: NDArray[np.bool_]) -> int:
    """Columns from the first to the last that ``mask`` [H, W] touches; 0 for an empty mask."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1) if columns.size else 0


def cardiothoracic_ratio(heart: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> float | None:
    """Full horizontal extent of the heart over that of both lungs together, or None where one is empty.

    The widths are those a reader draws: leftmost to rightmost border over the whole mask, not row by row
    (row-wise widths differ from the published ratios by .011 where the extents agree within .002).
    """
    thorax = horizontal_extent(lungs)
    width = horizontal_extent(heart)
    return width / thorax if thorax and width else None
