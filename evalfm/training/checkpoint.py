"""The state of a training at the end of an epoch, on disk, whole or not there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from evalfm.data.atomic import write_atomically
from evalfm.errors import EvalfmError

STATE = "checkpoint.pt"
BEST = "best.pt"
Line = dict[str, float | int | str]


@dataclass
class State:
    """Everything that the next epoch starts from.

    Attributes:
        epoch: how many are done. best_epoch: which one val liked best (0 = the start), with its ``best`` score,
            greater is better.
        tensors: the trained tensors as they are; ``average`` their moving average.
        optimiser, scaler: states of the optimiser and of the loss scaling.
        curve: one line per look at val, the first before training.
        steps: how many the average has taken in.
        done: training has ended.
    """

    epoch: int
    tensors: dict[str, Tensor]
    average: dict[str, Tensor]
    steps: int
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    best: float
    best_epoch: int
    curve: list[Line] = field(default_factory=list)
    done: bool = False


def write_state(folder: Path, state: State) -> None:
    """Write ``state``; the one before is there until this one is whole."""
    _write(folder / STATE, vars(state))


def read_state(folder: Path) -> State | None:
    """The last whole state, or None where there is none."""
    content = _read(folder / STATE)
    return None if content is None else State(**content)


def write_best(folder: Path, epoch: int, tensors: dict[str, Tensor]) -> None:
    """Write the tensors that val liked best so far, under their epoch; earlier ones go with ``forget_best``."""
    _write(folder / f"{epoch}-{BEST}", tensors)


def read_best(folder: Path, epoch: int) -> dict[str, Tensor]:
    """The tensors of ``epoch``.

    Raises:
        EvalfmError: they are gone.
    """
    found = _read(folder / f"{epoch}-{BEST}")
    if found is None:
        raise EvalfmError(f"{folder} holds no whole training; remove the folder and start again.")
    return found


def forget_best(folder: Path, but: int) -> None:
    """Remove the tensors of every epoch but one."""
    for path in folder.glob(f"*-{BEST}"):
        if path.name != f"{but}-{BEST}":
            path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    stream = BytesIO()
    torch.save(content, stream)
    write_atomically(path, stream.getbuffer().tobytes())


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise EvalfmError(
            f"{path} is damaged ({str(error).splitlines()[0]}); remove {os.fspath(path.parent)}."
        ) from None
    return content
