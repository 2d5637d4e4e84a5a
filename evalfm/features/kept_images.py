"""Prepared images kept in memory in their stored depth, so that a later pass decodes nothing."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

from evalfm.encoders.preprocessing import Prepared
from evalfm.features.memory import HOST, MemoryBudget

_OVERHEAD_BYTES = 1024
"""What Python needs beside the pixels of an image."""


class KeptImages:
    """Prepared images by row, as many as the budget of main memory holds; for threads.

    The least recently used leave first, but none that was used in this pass over the images or in the last one: a pass
    that is longer than the memory would else push out each image just before it is asked for again.
    """

    def __init__(self, memory: MemoryBudget, *, room: int = 0) -> None:
        """Nothing is kept yet.

        Args:
            memory: the budget.
            room: bytes of it that are left to reading ahead.
        """
        self._memory, self._room = memory, room
        self._lock = threading.Lock()
        self._images: OrderedDict[int, Prepared] = OrderedDict()
        self._used: dict[int, int] = {}
        self._clock = 0
        # What is reserved, in a box of its own: it outlives the images where nobody clears them.
        self._reserved = [0]
        weakref.finalize(self, _return, memory, self._reserved)

    def __len__(self) -> int:
        return len(self._images)

    def get(self, row: int) -> Prepared | None:
        """The image of ``row``, or None where it is not kept."""
        with self._lock:
            self._clock += 1
            self._used[row] = self._clock
            image = self._images.get(row)
            if image is not None:
                self._images.move_to_end(row)
            return image

    def put(self, row: int, image: Prepared) -> bool:
        """Keep the image of ``row`` if there is room, or can be made; whether it is kept."""
        size = _bytes(image)
        with self._lock:
            if row in self._images:
                return True
            while self._memory.free(HOST) < size + self._room or not self._memory.reserve(HOST, size):
                if not self._images:
                    return False
                oldest = next(iter(self._images))
                if self._clock - self._used[oldest] <= 2 * len(self._used):
                    return False
                self._drop(oldest)
            self._reserved[0] += size
            self._images[row] = image
            return True

    def give_up(self, nbytes: int) -> None:
        """Drop images until ``nbytes`` are free for something that cannot do without them, or none is left."""
        with self._lock:
            while self._images and self._memory.free(HOST) < nbytes:
                self._drop(next(iter(self._images)))

    def clear(self) -> None:
        """Drop all images."""
        with self._lock:
            while self._images:
                self._drop(next(iter(self._images)))
            self._used.clear()

    def _drop(self, row: int) -> None:
        size = _bytes(self._images.pop(row))
        self._reserved[0] -= size
        self._memory.release(HOST, size)


def _return(memory: MemoryBudget, reserved: list[int]) -> None:
    if reserved[0]:
        memory.release_later(HOST, reserved[0])


def _bytes(image: Prepared) -> int:
    return int(image.pixels.nbytes) + _OVERHEAD_BYTES
