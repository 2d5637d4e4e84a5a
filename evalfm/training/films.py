"""Augmented films with their truth, batch by batch, decoded ahead of the training by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.data.images import Image, is_constant
from evalfm.encoders.model_input import LEVELS, model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.errors import EvalfmError
from evalfm.features.cores import reader_count
from evalfm.features.films import FilmMemory
from evalfm.heads.head import Examples
from evalfm.heads.segmentation.masks import read_target
from evalfm.training.augmentation import Augment

MEMORY_BYTES = 1_000_000_000
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Prepared films [B, C, h, w] with their truth [B, …], and which examples they are."""

    films: Tensor
    target: Tensor
    positions: tuple[int, ...]


class FilmReader:
    """Films of some examples as an encoder takes them; a context manager.

    Resized films stay in memory up to a gigabyte, so that later epochs decode only what did not fit.

    Attributes:
        examples: whose films are read. target: their truth without augmentation, as the objective reads it; masks
            are made anew for an augmented film and need none.
    """

    def __init__(
        self,
        examples: Examples,
        preparer: Preparer,
        load: Callable[[int], Image],
        *,
        target: Tensor | None,
        grid: tuple[int, int] | None,
        workers: int | None,
        pin: bool = False,
    ) -> None:
        self._examples, self._preparer, self._load = examples, preparer, load
        self._target, self._grid, self._pin = target, grid, pin
        self._memory = FilmMemory(MEMORY_BYTES)
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        self._geometry: dict[int, Geometry] = {}
        self._pool = ThreadPoolExecutor(reader_count(workers))

    def __enter__(self) -> FilmReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(
        self, dealt: Sequence[Sequence[int]], augment: Callable[[int], Augment | None] = lambda position: None
    ) -> Iterator[Batch]:
        """The examples at each of ``dealt``, in order; ``augment`` gives the change of the film at a position.

        Raises:
            EvalfmError: an image cannot be read.
        """
        waiting: deque[tuple[Sequence[int], list[Future[tuple[Tensor, Tensor]]]]] = deque()
        for positions in dealt:
            films = [self._pool.submit(self._one, position, augment(position)) for position in positions]
            waiting.append((positions, films))
            if len(waiting) > BATCHES_AHEAD:
                yield self._stack(*waiting.popleft())
        while waiting:
            yield self._stack(*waiting.popleft())

    def _stack(self, positions: Sequence[int], films: list[Future[tuple[Tensor, Tensor]]]) -> Batch:
        read = [film.result() for film in films]
        stacked, target = torch.stack([film for film, _ in read]), torch.stack([truth for _, truth in read])
        if self._pin:
            stacked, target = stacked.pin_memory(), target.pin_memory()
        return Batch(stacked, target, tuple(positions))

    def _one(self, position: int, augment: Augment | None) -> tuple[Tensor, Tensor]:
        row = int(self._examples.rows[position])
        try:
            film, geometry = self._resized(row)
        except EvalfmError as error:
            raise EvalfmError(f"Row {row + 1} of the manifest: {error}") from None
        moved = geometry
        if film.dtype in LEVELS:
            film = film.float() / LEVELS[film.dtype]
        if augment is not None:
            film, moved = augment(film, geometry)
        tensor = model_input(film[None], self._preparer.facts)[0]
        if self._target is not None and (augment is None or self._grid is None):
            return tensor, self._target[position]
        assert self._grid is not None
        assert self._examples.masks is not None
        masks = self._examples.masks(row)
        if self._preparer.facts.resize == "shortest-edge-crop" and masks.any():
            # What the crop cut away cannot come back into view by a move: there the film is black.
            masks = masks & geometry.visible().numpy()
        return tensor, read_target(masks, moved, self._grid)

    def _resized(self, row: int) -> tuple[Tensor, Geometry]:
        with self._lock:
            own = self._locks.setdefault(row, threading.Lock())
        # Who comes while another thread decodes the same film waits for it, and decodes nothing.
        with own:
            with self._lock:
                kept = self._memory.get(str(row))
            if kept is not None:
                return kept, self._geometry[row]
            image = self._load(row)
            if is_constant(image):
                raise EvalfmError(
                    f"all pixels of the image have the value {image.pixels.flat[0]:g}; replace the file or drop the "
                    "row (`evalfm data check` lists all such rows)."
                )
            prepared = self._preparer(image)
            film, geometry = torch.from_numpy(prepared.pixels), prepared.geometry
            with self._lock:
                self._geometry[row] = geometry
                self._memory.put(str(row), film)
        return film, geometry
