"""What is measured on masks: a lesion's area, in the image or in the lungs, and the cardiothoracic ratio."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

LUNGS = "lungs"
LUNG_SIDES = ("left_lung", "right_lung")


def parts_of(finding: str, columns: Collection[str]) -> tuple[str, ...]:
    """The findings whose masks together are ``finding``: both lungs where ``columns`` has no mask of the lungs."""
    if finding == LUNGS and "lungs_mask" not in columns and all(f"{side}_mask" in columns for side in LUNG_SIDES):
        return LUNG_SIDES
    return (finding,)


def area_fraction(mask: NDArray[np.bool_]) -> float:
    """Area of ``mask`` [H, W] as a fraction of the image, in [0, 1]."""
    return float(mask.mean())


def lung_fraction(lesion: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> float | None:
    """Area of ``lesion`` [H, W] as a fraction of the field of both lungs, in [0, 1]; None without lungs.

    The field is lungs and lesion together: some masks of the lungs end where a pneumothorax begins, others hold it.
    """
    return float(lesion.sum() / (lungs | lesion).sum()) if lungs.any() else None


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
