"""Resampling of pixels [C, H, W]: PIL's filters in single precision, and the plain ones of two and four taps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

Pixels = NDArray[Any]

FILTERS = {
    "bilinear": Pil.Resampling.BILINEAR,
    "bicubic": Pil.Resampling.BICUBIC,
    "lanczos": Pil.Resampling.LANCZOS,
}
_SHARPNESS = -0.75
"""Of the plain bicubic filter, as in torch and OpenCV; PIL's antialiased one has -0.5."""


def resample(pixels: Pixels, size: tuple[int, int], filter_: str, antialias: bool, *, cut: bool) -> Pixels:
    """``pixels`` [C, H, W] on a grid of ``size`` (h, w), the pixel's centre being its place.

    Bytes stay bytes where nothing is computed: on the same grid, and with the nearest pixel. Else the result is
    float32, in units where a byte of 255 is 1: encoders feel the rounding to 256 levels, and PIL's filters cost no less
    on bytes. ``cut`` brings values back to the unit interval after each axis, width first, as PIL does with bytes.

    Args:
        pixels: uint8 or float32.
        size: height and width of the result.
        filter_: nearest, bilinear, bicubic or lanczos.
        antialias: whether the filter grows with the factor by which the image shrinks.
        cut: whether overshoot is cut.

    >>> resample(np.array([[[0, 255]]], np.uint8), (1, 4), "bilinear", True, cut=True)
    array([[[0.  , 0.25, 0.75, 1.  ]]], dtype=float32)
    """
    if pixels.shape[1:] == size:
        return pixels
    if filter_ == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(pixels.shape[1:], size, strict=True))
        return pixels[:, rows[:, None], columns]
    with_pil = antialias or filter_ == "lanczos"
    pixels = in_unit(pixels)
    # A filter without negative weights stays within its values.
    if cut and filter_ != "bilinear":
        for step in ((pixels.shape[1], size[1]), size):
            pixels = np.clip(_in_float(pixels, step, filter_, with_pil), np.float32(0), np.float32(1))
        return pixels
    return _in_float(pixels, size, filter_, with_pil)


def in_unit(pixels: Pixels) -> Pixels:
    """Bytes as float32 of the unit interval; float32 as it is.

    >>> in_unit(np.array([0, 255], np.uint8))
    array([0., 1.], dtype=float32)
    """
    if pixels.dtype != np.uint8:
        return pixels
    values = pixels.astype(np.float32)
    values /= np.float32(255)
    return values


def _in_float(pixels: Pixels, size: tuple[int, int], filter_: str, with_pil: bool) -> Pixels:
    if pixels.shape[1:] == size:
        return pixels
    if with_pil:
        return _planes_by_pil(pixels, size, filter_)
    across = _plain(pixels, size[1], filter_)
    return np.ascontiguousarray(_plain(across.swapaxes(1, 2), size[0], filter_).swapaxes(1, 2))


def _planes_by_pil(pixels: Pixels, size: tuple[int, int], filter_: str) -> Pixels:
    planes = [_by_pil(plane, size, filter_) for plane in pixels]
    return planes[0][None] if len(planes) == 1 else np.stack(planes)


def _by_pil(plane: Pixels, size: tuple[int, int], filter_: str) -> Pixels:
    return np.asarray(Pil.fromarray(np.ascontiguousarray(plane)).resize((size[1], size[0]), FILTERS[filter_]))


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """Which of ``old`` pixels each of ``new`` shows: the one in which its centre lies."""
    inside = np.floor((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
    return np.asarray(np.minimum(inside, old - 1))


def _plain(pixels: Pixels, length: int, filter_: str) -> Pixels:
    """The last axis resampled from the two (bilinear) or four (bicubic) nearest pixels, however much it shrinks."""
    old = pixels.shape[2]
    if old == length:
        return pixels
    place = (np.arange(length) + 0.5) * (old / length) - 0.5
    if filter_ == "bilinear":
        place = np.maximum(place, 0)
    first = np.floor(place)
    share = place - first
    taps = {0: 1 - share, 1: share} if filter_ == "bilinear" else {tap: _cubic(share - tap) for tap in (-1, 0, 1, 2)}
    result = np.zeros((*pixels.shape[:2], length), dtype=np.float32)
    for tap, weights in taps.items():
        result += pixels[:, :, np.clip(first.astype(np.intp) + tap, 0, old - 1)] * weights.astype(np.float32)
    return result


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel of cubic convolution (IEEE TASSP 1981)."""
    a, x = _SHARPNESS, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
