"""Checkpoints of a training: written beside it from a copy in memory, and whole or not there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from evalfm.errors import EvalfmError

STATE = "checkpoint.pt"
PART = ".checkpoint.pt.part"
"""A checkpoint that is being written, or that a killed process left half written; it is never read."""
INTERVAL_SECONDS = 60.0
"""Least time between two checkpoints; a killed training goes back by about so much."""
LARGEST_SHARE = 0.1
"""Largest share of a training's time that checkpoints may take: slow disks get fewer of them."""
WRITE_BYTES_PER_SECOND = 200e6
"""Assumed speed of a disk until the first checkpoint has measured it."""

CurveLine = dict[str, float | int | str]


@dataclass
class TrainingState:
    """Everything that the next epoch starts from, and the best so far.

    Attributes:
        epoch: epochs that are done.
        tensors: the trained tensors as they are; ``average`` their moving average.
        steps: steps that the average has taken in.
        optimiser, scaler: states of the optimiser and of the loss scaling.
        best: best validation score, greater is better; ``best_epoch`` where it was reached (0 = before training) and
            ``best_tensors`` what was scored there.
        curve: one line per validation, the first before training.
        done: training has ended; only the best and the curve are kept in the file.
    """

    epoch: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    optimiser: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    best: float = -float("inf")
    best_epoch: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    curve: list[CurveLine] = field(default_factory=list)
    done: bool = False


def write_state(folder: Path, state: TrainingState) -> None:
    """Write ``state`` straight to the disk; the checkpoint before it is there until this one is whole.

    Raises:
        EvalfmError: the disk is full or cannot be written.
    """
    part = folder / PART
    try:
        torch.save(vars(state), part)
        # Until the disk has the file, so that a power cut after the rename leaves no empty one.
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, folder / STATE)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise EvalfmError(
            f"The checkpoint {folder / STATE} cannot be written ({reason}); free space there and type the same "
            "command again."
        ) from None


def read_state(folder: Path) -> TrainingState | None:
    """The last whole checkpoint, its tensors on the CPU; None where there is none.

    Raises:
        EvalfmError: the file is damaged, or no checkpoint of this version.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or set(content) != {each.name for each in fields(TrainingState)}:
            raise ValueError("it is no checkpoint of this version")
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise EvalfmError(f"{path} is damaged ({str(error).splitlines()[0]}); remove {os.fspath(folder)}.") from None
    return TrainingState(**content)


def in_memory(content: Any) -> Any:
    """A copy of ``content`` (nested dicts and lists of tensors and numbers) in the CPU's memory.

    >>> weight = torch.zeros(1)
    >>> kept = in_memory({"weight": weight})
    >>> _ = weight.add_(1)
    >>> kept
    {'weight': tensor([0.])}
    """
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {name: in_memory(value) for name, value in content.items()}
    if isinstance(content, list):
        return [in_memory(value) for value in content]
    return content


class Cadence:
    """When the next checkpoint is due: after the interval, and after ten times what the last one cost.

    >>> now = 0.0
    >>> cadence = Cadence(clock=lambda: now)
    >>> cadence.due
    False
    >>> now = 60.0
    >>> cadence.due
    True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._cost: float | None = None

    @property
    def due(self) -> bool:
        """Whether a checkpoint may be started now."""
        return self._clock() - self._since >= max(INTERVAL_SECONDS, (self._cost or 0.0) / LARGEST_SHARE)

    def written(self, seconds: float) -> None:
        """Note that a checkpoint, which took ``seconds`` of copying and writing, is whole."""
        self._cost, self._since = seconds, self._clock()

    def pays(self, nbytes: int) -> bool:
        """Whether the end of a training is worth writing: writing takes at most a tenth of what it would save."""
        cost = nbytes / WRITE_BYTES_PER_SECOND if self._cost is None else self._cost
        return self._clock() - self._since >= cost / LARGEST_SHARE


class CheckpointWriter:
    """Writes checkpoints in a thread while the training goes on; a context manager.

    A checkpoint is copied into the CPU's memory first: weights, their average and the optimiser's two moments, four
    times the trained weights at most, until it is written. The best tensors are not copied again. One is written at a
    time. What was begun is finished when the block is left, by an error or Ctrl-C too.
    """

    def __init__(self, folder: Path, cadence: Cadence | None = None) -> None:
        self._folder = folder
        self._cadence = cadence or Cadence()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except EvalfmError:
            # The error that ends the training is the one to be seen.
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def offer(self, state: Callable[[], TrainingState]) -> None:
        """Begin to write ``state()``, a copy that nobody changes, if a checkpoint is due and none is being written.

        Raises:
            EvalfmError: the one before could not be written.
        """
        if self._writing is not None and not self._writing.done():
            return
        self.wait()
        if not self._cadence.due:
            return
        started = time.monotonic()
        self._writing = self._thread.submit(self._write, state(), started)

    def finish(self, state: TrainingState, *, always: bool = False) -> None:
        """Write the end of a training, if it took long enough to be worth it or ``always``.

        Raises:
            EvalfmError: it cannot be written.
        """
        self.wait()
        size = sum(tensor.nbytes for tensor in state.best_tensors.values())
        if always or self._cadence.pays(size):
            write_state(self._folder, state)

    def wait(self) -> None:
        """Until what was begun is written.

        Raises:
            EvalfmError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: TrainingState, started: float) -> None:
        write_state(self._folder, state)
        self._cadence.written(time.monotonic() - started)
