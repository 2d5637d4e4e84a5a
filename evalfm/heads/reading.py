"""Features of examples in batches, read ahead by a thread and brought to the device that trains or predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evalfm.features.readers import read_ahead
from evalfm.heads.head import Examples
from evalfm.heads.module import Maps

FeatureBatch = tuple[Maps, Tensor]
"""Maps [B, C, h, w] each, shallow to deep, and pooled features [B, D]."""


def read_batches(
    examples: Examples, drawn: Sequence[Tensor], maps: bool, device: torch.device
) -> Iterator[FeatureBatch]:
    """Features of the examples at each of ``drawn`` positions, in order, float32 on ``device``.

    They travel in the numbers that they are kept in, half as many bytes, and are widened where they are used.

    Raises:
        EvalfmError: as ``FeatureSource.features``.
    """

    def read(positions: Tensor) -> FeatureBatch:
        features = examples.source.features(examples.rows[positions.numpy()].tolist(), maps=maps)
        return tuple(to_device(level, device) for level in features.maps), to_device(features.pooled, device)

    for levels, pooled in read_ahead(drawn, read):
        yield tuple(level.float() for level in levels), pooled.float()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to a GPU by way of pinned memory, so that nothing waits for the copy.

    >>> to_device(torch.zeros(2), torch.device("cpu")).device
    device(type='cpu')
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor if tensor.is_pinned() else tensor.pin_memory()
    # Towards the CPU it must be waited for, or the values are read before they have come.
    return tensor.to(device, non_blocking=device.type == "cuda")
