"""How maps are kept: float16 wherever it holds the values, stored, in memory or computed on the fly alike."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_HALF = 65504.0


def halved(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, h, w] as float16, and whether it holds all of them as a 0-dim bool tensor beside them.

    The device is not waited for. Where the answer is no, ``pack`` says what to keep.

    >>> half, fits = halved(torch.full((1, 1, 2, 2), 65505.0))
    >>> half.dtype, bool(fits)
    (torch.float16, False)
    """
    low, high = torch.aminmax(maps)
    return maps.half(), (low >= -LARGEST_HALF) & (high <= LARGEST_HALF)


def pack(maps: Tensor) -> Tensor:
    """Maps [B, C, h, w] as float16; where an image has a value beyond ±65504, as float32.

    In the float32 result the images that fit hold their float16 values, so what becomes of an image never
    depends on its neighbours in the batch or segment.
    """
    half, all_fit = halved(maps)
    if bool(all_fit):
        return half
    fits = maps.abs().amax(dim=(1, 2, 3), keepdim=True) <= LARGEST_HALF
    return half.float().where(fits, maps.float())
