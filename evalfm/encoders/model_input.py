"""From prepared pixels in their stored depth to the model's input, batch by batch on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from evalfm.encoders.card import Preprocessing

LEVELS = {torch.uint8: 255.0, torch.uint16: 65535.0}
"""What stands for 1, by type; float32 is in its unit already."""


def model_input(pixels: Tensor, facts: Preprocessing, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The model's input float32 [B, C, h, w] of prepared pixels, on the device where they lie.

    Nothing in it waits for the device.

    Args:
        pixels: [B, 1 or 3, h, w] as ``Preparer`` leaves them: uint8, uint16 or float32.
        facts: the encoder's preprocessing.
        change: applied to the float32 pixels in the image's unit, before they are scaled: an augmentation.

    >>> from evalfm.encoders import find_card
    >>> pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    >>> model_input(pixels, find_card("vit-small").preprocessing)[0, :, 0].tolist()
    [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    """
    values = pixels.float()
    if pixels.dtype in LEVELS:
        values = values / LEVELS[pixels.dtype]
    if change is not None:
        values = change(values)
    if facts.scaling == "min-max-input":
        low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
        values = (values - low) / (high - low).clamp_min(1e-8)
    elif facts.scaling == "z-score-input":
        values = _z_score(values, facts.channels)
    scale, shift = _statistics(facts.input_range, facts.mean, facts.std, values.device)
    return torch.addcmul(shift, values, scale)


def _z_score(values: Tensor, channels: int) -> Tensor:
    """Mean 0 and unbiased standard deviation 1 over all channels of the input; a flat image is centred only."""
    centred = values - values.mean((1, 2, 3), keepdim=True)
    # A grey image counts as often as the model sees it.
    count = channels * values[0, 0].numel()
    deviation = (centred.square().mean((1, 2, 3), keepdim=True) * (count / max(count - 1, 1))).sqrt()
    return torch.where(deviation >= 1e-6, centred / deviation.clamp_min(1e-6), centred)


@lru_cache(maxsize=64)
def _statistics(
    input_range: tuple[float, float] | None, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and summand [C, 1, 1] that bring the unit interval to the model's range and statistics."""
    low, high = input_range or (0.0, 1.0)
    means, deviations = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (mean, std))
    scale, shift = (high - low) / deviations, (low - means) / deviations
    return scale.float().to(device), shift.float().to(device)
