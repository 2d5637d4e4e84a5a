"""Masks from files and from run lengths, and how wide they are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from evalfm.data.images import read_stored
from evalfm.data.rle import decode, decode_union, encode
from evalfm.data.stored import Stored
from evalfm.errors import EvalfmError

__all__ = [
    "cardiothoracic_ratio",
    "decode",
    "decode_union",
    "encode",
    "horizontal_extent",
    "mask_file_values",
    "read_mask_file",
]

SAY_VALUES = (
    "say which value is the finding (`--mask-values FINDING=VALUE` at the import, `mask_values` in dataset.yaml)"
)
VOID = 255
"""What maps of labels hold where nobody judged."""


FEW_VALUES = 16
"""Values between black and the largest, up to which every one counts; where there are more, some may be noise."""
FEWEST_ALONE = 5
"""Pixels of one value with nothing brighter near them, from which a thin region is no border."""
SMALLEST_AREA = 4
"""Pixels amid equal ones, from which a value among many fills an area."""
NEAR = 0.16
"""Share of the range that noise and the borders' tails may lie away from black and from white."""
FLAT = 0.05
"""Share of the range within which neighbours count as equal where compression made noise."""


def read_mask_file(
    locator: str, root: Path, values: Collection[int] | None = None, named: Collection[int] = ()
) -> NDArray[np.bool_]:
    """A mask [H, W] from a PNG, GIF, BMP, TIFF, JPEG or an array of NPZ or NPY.

    Values of 0 and 1 are taken as they are. Any others are thresholded at half of what a pixel can hold (above 127 of
    255), so that antialiased borders are halved. A palette of colours counts by its indices, which must be 0
    and 1.

    Args:
        locator: path under ``root``.
        root: folder that the locator may not leave.
        values: of a map of labels, those that are the finding; a palette counts by its indices then.
        named: values of the map that are other findings.

    Raises:
        EvalfmError: the file cannot be read, has colours, keeps its mask in the opacity, says that white is zero, or
            holds values that are neither 0 and 1 nor reach above half of the range, or several that fill areas of their
            own, as a map of labels does.

    >>> from PIL import Image
    >>> Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save("mask.png")
    >>> read_mask_file("mask.png", Path(".")).tolist()
    [[False, True]]
    """
    stored = read_stored(locator, root)
    if values is not None:
        return _chosen(stored, locator, frozenset(values), frozenset(named))
    if stored.white_is_zero:
        # tifffile and others set the tag for bits and write 1 for the finding; the file does not say which it is.
        raise EvalfmError(
            f"Mask {locator} is a TIFF that says white is zero; save it as PNG, 0 and 255, or {SAY_VALUES}."
        )
    pixels = stored.values
    if len(pixels) > 1 and (pixels != pixels[:1]).any():
        indices = stored.palette_indices
        if indices is None or indices.max() > 1:
            raise EvalfmError(
                f"Mask {locator} has colours; save it with one grey channel, one finding a file"
                f"{'' if indices is None else f', or {SAY_VALUES}'}."
            )
        return np.asarray(indices > 0)
    grey = pixels[0]
    if stored.opacity_varies and (grey == grey.flat[0]).all():
        raise EvalfmError(f"Mask {locator} lies in the opacity of its file; save it as grey, 0 and 255.")
    return _thresholded(grey, stored.bits, locator, lossy=stored.lossy)


def mask_file_values(locator: str, root: Path) -> tuple[int, ...]:
    """The values that a map of labels holds, in order.

    Raises:
        EvalfmError: as for ``read_mask_file``, and where it holds no whole numbers or was compressed with loss.
    """
    return tuple(int(value) for value in np.unique(_labels(read_stored(locator, root), locator)))


def _labels(stored: Stored, locator: str) -> NDArray[Any]:
    """The labels [H, W] of a map, as the file stores them."""
    values = stored.values[0] if stored.palette_indices is None else stored.palette_indices
    if stored.palette_indices is None and (stored.values != stored.values[:1]).any():
        raise EvalfmError(f"Mask {locator} has colours, which are no values; save it with one grey channel.")
    if stored.lossy:
        raise EvalfmError(f"Mask {locator} is a JPEG, which changes the values of a map; save the original as PNG.")
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.rint(values)).any():
        raise EvalfmError(f"Mask {locator} holds values that are no whole numbers from 0; save it as a map of labels.")
    return 2**stored.bits - 1 - values if stored.white_is_zero else values


def _chosen(stored: Stored, locator: str, values: frozenset[int], named: frozenset[int]) -> NDArray[np.bool_]:
    """Where a map holds one of ``values``."""
    labels = _labels(stored, locator)
    others = set(np.unique(labels).astype(int).tolist()) - values - named
    if VOID in others and 0 not in values and max((values | named | others) - {VOID}, default=0) < VOID // 2:
        raise EvalfmError(
            f"Mask {locator} holds 255 beside smaller values, which often marks what nobody judged; say so at the "
            "import (`--mask-unknown FINDING=255`), or name it among the values of a finding."
        )
    return np.isin(labels, sorted(values))


def _thresholded(values: NDArray[Any], bits: int, locator: str, *, lossy: bool = False) -> NDArray[np.bool_]:
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all() or low < 0:
        raise EvalfmError(f"Mask {locator} holds negative or infinite values; save it as 0 and 1, or 0 and 255.")
    if values.dtype.kind == "f" and high <= 1:
        if 0 < high <= 0.5 and len(np.unique(values)) <= FEW_VALUES:
            # Such as 0 and 1 that were divided by 255; probabilities have many values.
            raise EvalfmError(
                f"Mask {locator} holds values up to {high:g}, which is less than half of 1; save it as 0 and 1, or 0 "
                "and 255."
            )
        _refuse_labels(values, 1.0, locator, lossy=lossy)
        return np.asarray(values > 0.5)
    if high <= 1:
        return np.asarray(values > 0)
    # Wider types often hold the 0 and 255 of 8 bits.
    top = 255 if high <= 255 or values.dtype.kind == "f" else 2**bits - 1
    if high > top or high <= top // 2:
        raise EvalfmError(
            f"Mask {locator} holds values up to {high:g}, neither 0 and 1 nor above half of {top}; "
            f"save one finding a file, as 0 and 1 or as 0 and 255, or {SAY_VALUES}."
        )
    _refuse_labels(values, float(top), locator, lossy=lossy)
    return np.asarray(values > top // 2)


def _refuse_labels(grey: NDArray[Any], top: float, locator: str, *, lossy: bool) -> None:
    """Refuse a map of labels: a value between 0 and the largest that fills an area of its own, not a border.

    Borders that were smoothed are steep: no pixel of theirs has eight equal neighbours. Compression leaves noise near
    black and white, where only a share of such pixels shows an area; a label of one or two pixels' width is known by
    having nothing brighter near it.
    """
    high = grey.max()
    between = (grey > 0) & (grey < high)
    if not between.any():
        return
    reach = 4
    marked = (np.flatnonzero(between.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(each[0] - reach, 0), each[-1] + reach + 1) for each in marked)
    region = grey[rows, columns].astype(np.float64)
    between = (region > 0) & (region < high)
    values, counts = np.unique(region[between], return_counts=True)
    few = len(values) <= FEW_VALUES and not lossy
    if top == 1 and not few:
        return  # a map of probabilities
    spread = maximum_filter(region, 3, mode="nearest") - minimum_filter(region, 3, mode="nearest")
    flat_values, flat_counts = np.unique(region[between & (spread == 0)], return_counts=True)
    flat = dict(zip(flat_values.tolist(), flat_counts.tolist(), strict=True))
    # Lossy compression rounds all of black or of white to one value beside it.
    lowest = 0.0 if few or ((grey == 0).mean() > 0.05 and not lossy) else NEAR
    areas = [
        value
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        if flat.get(value, 0) >= max(0.1 * count, 1 if few else SMALLEST_AREA)
        and (few or lowest < value / top < 1 - NEAR)
    ]
    middle = between & (region > NEAR * top) & (region < (1 - NEAR) * top)
    noisy = (middle & (spread <= FLAT * top)).sum()
    if not areas and noisy >= FEWEST_ALONE and noisy >= (0.1 if lossy else 0.03) * between.sum() and top > 1:
        areas = sorted({float(np.median(region[middle & (spread <= FLAT * top)]))})
    step = top * 2 / 255
    rounded = values[0] <= step and values[-1] >= high - step and ((values <= step) | (values >= high - step)).all()
    if not areas and few and len(values) <= 4 and not rounded:
        share = 0.0 if len(values) == 1 else 0.5
        areas = [value for value in values.tolist() if _is_thin_label(region, value, share)]
    if not areas and few and values.tolist() == [1] and high == VOID:
        areas = [1.0]
    if areas:
        shown = ", ".join(f"{value:g}" for value in [0, *areas[:4], high])
        raise EvalfmError(
            f"Mask {locator} holds several values that fill areas of their own ({shown}), as a map of labels does; "
            f"save one finding a file, as 0 and 255, or {SAY_VALUES}."
        )


def _is_thin_label(values: NDArray[np.float64], value: float, share: float) -> bool:
    """Whether ``share`` of the pixels of ``value`` stand alone: borders have brighter and darker ones within three."""
    one = values == value
    alone = one & (
        (maximum_filter(values, 7, mode="nearest") == value) | (minimum_filter(values, 7, mode="nearest") == value)
    )
    return bool(alone.sum() >= max(FEWEST_ALONE, share * one.sum()))


def onto_grid(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """``mask`` [h, w] at another size (H, W): the nearest neighbour by pixel centres."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.intp)
    return mask[np.ix_(rows, columns)]


def horizontal_extent(mask: NDArray[np.bool_]) -> int:
    """Columns from the first to the last that ``mask`` [H, W] touches; 0 for an empty mask.

    >>> horizontal_extent(np.array([[False, True, False, True]]))
    3
    """
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1) if columns.size else 0


def cardiothoracic_ratio(heart: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> float | None:
    """Full horizontal extent of the heart over that of both lungs together, or None where one is empty.

    The widths are those a reader draws: leftmost to rightmost border over the whole mask, not row by row
    (row-wise widths differ from the published ratios by .011 where the extents agree within .002).

    >>> lungs = np.ones((2, 10), dtype=bool)
    >>> heart = np.zeros((2, 10), dtype=bool)
    >>> heart[:, 3:8] = True
    >>> cardiothoracic_ratio(heart, lungs)
    0.5
    """
    thorax = horizontal_extent(lungs)
    width = horizontal_extent(heart)
    return width / thorax if thorax and width else None
