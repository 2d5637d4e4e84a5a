"""From the tensors of a model's own forward to what the card promises: maps on the input's grid, one pooled vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.encoders.card import EncoderCard
    from evalfm.encoders.encoder import RawFeatures


def as_map(
    layer: Tensor, stride: int, card: EncoderCard, input_size: tuple[int, int], final_norm: Callable[[Tensor], Tensor]
) -> Tensor:
    """A layer as a map [B, C, H, W] over the whole input: tokens without their prefix, or the cells of a network."""
    if layer.ndim == 4:
        return cover(layer, stride, input_size)
    if card.map_norm == "final":
        layer = final_norm(layer)
    patches = layer[:, card.prefix_tokens :]
    rows, columns = (side // card.size_multiple for side in input_size)
    return patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)


def cover(cells: Tensor, stride: int, input_size: tuple[int, int]) -> Tensor:
    """Repeat the border cells that unpadded convolutions lose, so that the map covers the whole input.

    >>> cover(torch.zeros(1, 8, 3, 4), 4, (16, 24)).shape
    torch.Size([1, 8, 4, 6])
    """
    lost_y, lost_x = (math.ceil(side / stride) - count for side, count in zip(input_size, cells.shape[2:], strict=True))
    if (lost_y, lost_x) == (0, 0) or not (0 <= lost_y <= 2 and 0 <= lost_x <= 2):
        return cells
    # An unpadded stem shifts the first cell inwards: the odd cell goes before.
    before_y, before_x = (lost_y + 1) // 2, (lost_x + 1) // 2
    padding = (before_x, lost_x - before_x, before_y, lost_y - before_y)
    return functional.pad(cells, padding, mode="replicate")


def pool(raw: RawFeatures, card: EncoderCard, final_norm: Callable[[Tensor], Tensor]) -> Tensor:
    """The pooled embedding [B, D] that the card names; means are taken in float32.

    Raises:
        EvalfmError: the model gives no such pooling.
    """
    if card.pooling != "cls-mean":
        return _pooled(card.pooling, raw, card, final_norm)
    return torch.cat([_pooled(part, raw, card, final_norm).float() for part in ("cls", "mean")], dim=1)


def _pooled(name: str, raw: RawFeatures, card: EncoderCard, final_norm: Callable[[Tensor], Tensor]) -> Tensor:
    """One pooling: the model's own, else of its end, or of the deepest layer where the card says so."""
    if card.pooled_layer is None and name in raw.pooled:
        return raw.pooled[name]
    end, prefix = raw.final, None
    if (card.pooled_layer is not None or end is None) and raw.layers:
        end, prefix = raw.layers[-1], raw.prefix
        end = final_norm(end) if end.ndim == 3 and card.map_norm == "final" else end
    if end is not None and end.ndim == 3:
        prefix = end[:, : card.prefix_tokens]
        if name == "mean":
            return end[:, card.prefix_tokens :].mean(1, dtype=torch.float32)
    elif end is not None and name in ("gap", "mean"):
        return end.mean((2, 3), dtype=torch.float32)
    elif end is not None and name == "max":
        return end.amax((2, 3))
    if name == "cls" and prefix is not None and prefix.shape[1]:
        return prefix[:, 0]
    raise EvalfmError(f"{card.name} has no pooling {name!r}; fix the card's poolings.")
