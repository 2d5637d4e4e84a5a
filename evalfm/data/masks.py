"""Masks from files and from run lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalfm.data.images import stored_array
from evalfm.data.rle import decode as decode
from evalfm.data.rle import decode_union as decode_union
from evalfm.data.rle import encode as encode
from evalfm.errors import EvalfmError


def read_mask_file(locator: str, root: Path) -> NDArray[np.bool_]:
    """A mask [H, W] from a PNG, GIF, TIFF, or a member of an NPZ.

    A file of 0 and 1 is taken as it is; any other is cut at half of what its pixels can hold (> 127 for 8 bits), so
    that antialiased borders are halved.

    Raises:
        EvalfmError: the file cannot be read, or holds several channels that differ.
    """
    stored = stored_array(locator, root)
    values = stored.values
    if values.shape[0] > 1:
        if not (values == values[:1]).all():
            raise EvalfmError(f"Mask {locator} has colours; save it with one channel, one finding a file.")
    film = values[0]
    if film.dtype == bool or not film.size or film.max() <= 1:
        return np.asarray(film > 0)
    if np.issubdtype(film.dtype, np.floating):
        raise EvalfmError(f"Mask {locator} holds numbers above 1; save it as 0 and 1, or 0 and 255.")
    return np.asarray(film > (2**stored.bits - 1) // 2)


__all__ = ["decode", "decode_union", "encode", "read_mask_file"]
