"""What is measured on masks: a lesion's area, in the image or in the lungs."""

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
