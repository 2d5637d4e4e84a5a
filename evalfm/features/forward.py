"""Batches through an encoder: their automatic size, and smaller ones where memory is short."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError
from evalfm.features.memory import available_bytes, forward_bytes

AMPLE = 4 * 1024**3
"""Free main memory, in bytes, above which the largest automatic batch fits any encoder of the catalogue."""

SHARE = 0.25
"""Of the free memory that the tensors of one batch may take; libraries' own buffers and films read ahead need more."""


def automatic_batch_size(encoder: Encoder) -> int:
    """Images per batch with about as many pixels as 32 of 224², and four times as many on a GPU.

    Where main memory is short the encoder is first measured on one blank image, and the batch made to fit.
    """
    height, width = encoder.input_size
    on_gpu = device_of(encoder).type == "cuda"
    pixels = (128 if on_gpu else 32) * 224 * 224
    size = max(1, min(256 if on_gpu else 64, pixels // (height * width)))
    free = None if on_gpu else available_bytes()
    if free is None or free >= AMPLE or size == 1:
        return size
    try:
        each = forward_bytes(encoder)
    except RuntimeError as error:
        if not _is_short_of_memory(error):
            raise
        return 1
    return max(1, min(size, math.floor(SHARE * free / max(1, each))))


def device_of(encoder: Encoder) -> torch.device:
    """Where the encoder's weights lie; the CPU for one without weights."""
    first = next(itertools.chain(encoder.parameters(), encoder.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@dataclass
class Forward:
    """Runs prepared batches through ``encoder``; one that memory does not hold is split, and so are all after it.

    Attributes:
        encoder: in evaluation mode, on its device.
        most: images that fit at once, where a larger batch was seen not to.
    """

    encoder: Encoder
    most: int | None = None

    def __call__(self, batch: Tensor) -> Features:
        """Features of a batch [B, C, h, w], on the encoder's device.

        Raises:
            EvalfmError: the features have not the declared dimensions or are not finite, or not even one image fits.
        """
        parts = []
        first = 0
        while first < len(batch):
            part = batch[first : first + (self.most or len(batch))]
            try:
                parts.append(self._encoded(part))
            except RuntimeError as error:
                if not _is_short_of_memory(error):
                    raise
                self._shrink(len(part))
                continue
            first += len(part)
        if len(parts) == 1:
            return parts[0]
        maps = tuple(torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True))
        return Features(torch.cat([part.pooled for part in parts]), maps)

    def _encoded(self, batch: Tensor) -> Features:
        features = self.encoder.encode(batch.to(device_of(self.encoder), non_blocking=True))
        declared = (self.encoder.pooled_dim, *self.encoder.map_channels)
        found = (features.pooled.shape[1], *(each.shape[1] for each in features.maps))
        if found != declared:
            raise EvalfmError(f"{self.encoder.card.name} gives {found} channels and declares {declared}; fix its card.")
        return features

    def _shrink(self, tried: int) -> None:
        place = device_of(self.encoder)
        if tried == 1:
            raise EvalfmError(
                f"Not even one image of {self.encoder.input_size[0]} x {self.encoder.input_size[1]} fits the memory of "
                f"{place} beside {self.encoder.card.name}; take a smaller --input-size or another machine."
            ) from None
        self.most = tried // 2
        if place.type == "cuda":
            torch.cuda.empty_cache()


def _is_short_of_memory(error: Exception) -> bool:
    """The CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
