"""How maps are kept: float16 wherever it holds the values, stored or computed on the fly alike."""

from __future__ import annotations

from torch import Tensor

LARGEST_HALF = 65504.0


def pack(maps: Tensor) -> Tensor:
    """Maps [B, C, h, w] as float16; where an image has a value beyond ±65504, as float32.

    In the float32 result the images that fit hold their float16 values, so what becomes of an image never
    depends on its neighbours in the batch or chunk.
    """
    fits = maps.abs().amax(dim=(1, 2, 3), keepdim=True) <= LARGEST_HALF
    half = maps.half()
    if bool(fits.all()):
        return half
    return half.float().where(fits, maps.float())
