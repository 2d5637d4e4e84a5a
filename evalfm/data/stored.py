"""Pixel values as a file holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stored:
    """What a file holds, unscaled.

    Attributes:
        values: [C, H, W], C = 1 or 3, air dark where the file says which end is dark.
        bits: bits of a stored value.
        rule: which reading was done, for the record.
    """

    values: NDArray[Any]
    bits: int
    rule: str


def channels_first(values: NDArray[Any]) -> NDArray[Any] | None:
    """[H, W] or [H, W, C] as [1 or 3, H, W], an opacity channel dropped; None where it is no image."""
    if values.ndim == 2:
        return values[None]
    if values.ndim == 3 and values.shape[2] in (1, 3):
        return np.moveaxis(values, 2, 0)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        return np.moveaxis(values[..., :-1], 2, 0)
    return None
