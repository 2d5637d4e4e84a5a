"""The contract of an encoder: a card that holds its facts and one hook that runs its model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What an encoder says of a batch of images.

    ``pooled`` is the published global embedding [B, D]; ``maps`` are spatial maps [B, C, H, W], shallow to deep.
    """

    pooled: Tensor
    maps: tuple[Tensor, ...] = ()
