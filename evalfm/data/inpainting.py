"""A region of an image inpainted from what is around it, and a region of the same shape elsewhere to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from skimage.restoration import inpaint_biharmonic

Mask = NDArray[np.bool_]

LEAST_WIDENING = 2
WIDENING = 0.004
"""Of the image's height: a drawn outline leaves the device's rim, which would be smeared into what is painted."""
REACH = 0.25
"""Of the image's longer side: a control farther from the mirrored place shows other anatomy."""
RIM = 4
"""Pixels around a region's box that are read: the biharmonic stencil reaches two."""


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of an image: a shape [h, w] that touches all four sides of its box, and where that box lies."""

    top: int
    left: int
    shape: Mask

    @classmethod
    def of(cls, mask: Mask) -> Region:
        """The region of ``mask`` [H, W].

        Raises:
            ValueError: the mask is empty.
        """
        if not mask.any():
            raise ValueError("an empty mask has no region")
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(int(rows[0]), int(columns[0]), box.copy())

    def mask(self, size: tuple[int, int]) -> Mask:
        """The region on an image of ``size`` (height, width), bool [H, W]."""
        mask = np.zeros(size, dtype=bool)
        mask[self.top : self.top + self.shape.shape[0], self.left : self.left + self.shape.shape[1]] = self.shape
        return mask


def widening(height: int) -> int:
    """Pixels by which a drawn outline is widened on an image of ``height``: 4 at 1024."""
    return max(LEAST_WIDENING, round(WIDENING * height))


def widened(mask: Mask, pixels: int) -> Mask:
    """``mask`` [H, W] and all that lies within ``pixels`` of it."""
    return np.asarray(ndimage.distance_transform_edt(~mask) <= pixels) if mask.any() else mask


def control_region(region: Region, keep_off: Mask, blank: Mask) -> Region | None:
    """The mirror image of ``region`` across the image's vertical midline, moved as little as the image allows.

    It lies inside the image, does not touch ``keep_off`` [H, W], and holds no more of ``blank`` [H, W], where nothing
    is shown, than ``region`` itself. Of places equally near the upper left one is taken, so the same masks give the
    same control. None where no place within a quarter of the longer side fits.
    """
    height, width = keep_off.shape
    shape = region.shape[:, ::-1]
    rows, columns = height - shape.shape[0] + 1, width - shape.shape[1] + 1
    allowed = int(blank[region.mask((height, width))].sum())
    free = (_shared_pixels(keep_off, shape) == 0) & (_shared_pixels(blank, shape) <= allowed)
    mirrored = width - region.left - shape.shape[1]
    away = np.hypot(np.arange(rows)[:, None] - region.top, np.arange(columns)[None] - mirrored)
    away[~free] = np.inf
    top, left = np.unravel_index(int(away.argmin()), away.shape)
    if away[top, left] > REACH * max(height, width):
        return None
    return Region(int(top), int(left), shape)


def _shared_pixels(mask: Mask, shape: Mask) -> NDArray[np.int64]:
    """How many pixels of ``mask`` [H, W] ``shape`` [h, w] covers at each place of its corner [H − h + 1, W − w + 1]."""
    overlap = signal.fftconvolve(mask.astype(np.float64), shape[::-1, ::-1].astype(np.float64), mode="valid")
    return np.rint(overlap).astype(np.int64)


def inpainted(pixels: NDArray[np.float32], region: Region) -> NDArray[np.float32]:
    """A copy of an image [C, H, W] with ``region`` filled in by biharmonic functions of what is around it.

    Damelin and Hoang (2018), as scikit-image has it, in double precision on the region's surroundings. Every other
    pixel stays what it was, bit by bit; the new ones lie within the range of their surroundings.

    >>> mask = np.zeros((8, 8), dtype=bool)
    >>> mask[3:5, 3:5] = True
    >>> inpainted(np.ones((1, 8, 8), dtype=np.float32), Region.of(mask)).min().item()
    1.0
    """
    height, width = pixels.shape[1:]
    window = tuple(
        slice(max(start - RIM, 0), min(start + length + RIM, side))
        for start, length, side in zip((region.top, region.left), region.shape.shape, (height, width), strict=True)
    )
    inside = region.mask((height, width))[window]
    painted = pixels.copy()
    for channel in painted:
        view = channel[window]
        view[inside] = inpaint_biharmonic(view.astype(np.float64), inside)[inside]
    return painted
