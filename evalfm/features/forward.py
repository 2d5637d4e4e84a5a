"""Batches through an encoder: their automatic size, and smaller ones where memory is short."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError
from evalfm.features.memory import available_bytes, forward_bytes

AMPLE = 4 * 1024**3
"""Free main memory, in bytes, above which the largest automatic batch fits any encoder of the catalogue."""

SHARE = 0.25
"""Of the free memory that the tensors of one batch may take; libraries' own buffers and images read ahead need more."""


ENOUGH = 0.95
"""Of the best measured rate, with which a smaller batch is taken."""

GPU_SHARE = 0.5
"""Of the free memory of a GPU that a batch may take while it is encoded; heads and maps need room beside it."""

LARGEST = 512
"""Images of the largest batch that is tried on a GPU."""

SLOW_SECONDS = 1.0
"""A pass that takes longer fills the GPU; no larger batch is tried."""

_searched: WeakKeyDictionary[Encoder, tuple[str, int]] = WeakKeyDictionary()


def automatic_batch_size(encoder: Encoder) -> int:
    """Images per batch with about as many pixels as 32 of 224²; on a GPU the smallest that keeps it busy, by trial.

    Where main memory is short the encoder is first measured on one blank image, and the batch made to fit. The trial on
    a GPU is made once for an encoder. Features depend on the size of the batch by rounding only.
    """
    height, width = encoder.input_size
    place = device_of(encoder)
    pixels = 32 * 224 * 224
    size = max(1, min(64, pixels // (height * width)))
    if place.type == "cuda":
        path = encoder.feature_path.name
        if _searched.get(encoder, ("", 0))[0] != path:
            _searched[encoder] = path, search_batch_size(partial(_gpu_rate, encoder, place), size, LARGEST)
        return _searched[encoder][1]
    free = available_bytes()
    if free is None or free >= AMPLE or size == 1:
        return size
    try:
        each = forward_bytes(encoder)
    except RuntimeError as error:
        if not _is_short_of_memory(error):
            raise
        return 1
    return max(1, min(size, math.floor(SHARE * free / max(1, each))))


def search_batch_size(rate: Callable[[int], float | None], first: int, most: int) -> int:
    """The smallest of ``first``, twice as many, … up to ``most`` that comes near the best ``rate``.

    Args:
        rate: images a second in batches of so many; None where they do not fit or take too long.
        first: the size to begin with; where it does not fit, halves are tried.
        most: no larger batch is tried.

    >>> search_batch_size(lambda size: min(size, 90) * 10.0, 16, 512)
    128
    >>> search_batch_size(lambda size: 1.0 if size <= 4 else None, 16, 512)
    4
    """
    size = first
    found: dict[int, float] = {}
    while size >= 1 and not found:
        measured = rate(size)
        if measured is None:
            size //= 2
        else:
            found[size] = measured
    if not found:
        return 1
    while size == max(found) and first <= size and size * 2 <= most:
        measured = rate(size * 2)
        if measured is None:
            break
        best = max(found.values())
        size *= 2
        found[size] = measured
        if measured < best / ENOUGH:
            break
    best = max(found.values())
    return min(each for each, measured in found.items() if measured >= ENOUGH * best)


def _gpu_rate(encoder: Encoder, place: torch.device, size: int) -> float | None:
    """Images a second of ``encoder`` in batches of ``size``; None where they take too much memory or time."""
    batch = torch.zeros(size, encoder.preparer.facts.channels, *encoder.input_size)
    try:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(place)
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        batch = batch.to(place)
        encoder.encode(batch, check=False)
        torch.cuda.synchronize(place)
        if torch.cuda.max_memory_allocated(place) - before > GPU_SHARE * free:
            return None
        started = time.perf_counter()
        encoder.encode(batch, check=False)
        torch.cuda.synchronize(place)
        seconds = time.perf_counter() - started
    except RuntimeError as error:
        if not _is_short_of_memory(error):
            raise
        return None
    return None if seconds > SLOW_SECONDS and size > 1 else size / seconds


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
            EvalfmError: the features have not the declared dimensions, or not even one image fits. Whether they are
                finite is not asked: that would wait for the device.
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
        features = self.encoder.encode(batch.to(device_of(self.encoder), non_blocking=True), check=False)
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
