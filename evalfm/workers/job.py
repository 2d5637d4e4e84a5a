"""A call that another process makes, and what it says meanwhile and at its end."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from evalfm.errors import EvalfmError

PACKAGE = Path(__file__).parents[1]
SECONDS_BETWEEN = 0.5
"""How often a bar tells where it is."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """A call of a function by a worker.

    Attributes:
        function: where it is, as ``package.module:name``; it takes a ``Worker`` and then ``arguments`` by name.
        arguments: plain values, as JSON has them. What the function returns is plain too.
        label: the job in words.
        warm: what the worker loads for it, such as an encoder; a worker that has it already is taken first.
        beside: a job that an idle worker does while this one runs, and which makes this one shorter; its result does
            not matter, and nobody waits for it.
        ticket: which sending of a job this is; its end repeats it, so that it is taken for no other's.
    """

    function: str
    arguments: dict[str, Any]
    label: str
    warm: str = ""
    beside: Job | None = None
    ticket: int = 0


@dataclass(frozen=True)
class Fault:
    """Why something gave no result.

    Attributes:
        error: the kind of error. sentence: its first line.
        trace: where it happened, for what is no user's mistake; else None.
    """

    error: str
    sentence: str
    trace: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        """What ``error`` says; of a mistake of the user's all of it, of another its first line and the place."""
        if isinstance(error, EvalfmError):
            return cls(type(error).__name__, str(error))
        return cls(type(error).__name__, (str(error).splitlines() or [""])[0], _frames(error))


@dataclass(frozen=True)
class Said:
    """A line that a worker says."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """How far a worker's bar is; ``total`` is None where nobody knows, ``ended`` True when it goes."""

    label: str
    done: int
    total: int | None
    ended: bool = False


@dataclass(frozen=True)
class Returned:
    """The end of a job: what the function returned, as plain values."""

    value: Any
    ticket: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Raised:
    """The end of a job: it failed, and its worker goes on."""

    fault: Fault
    ticket: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Lost:
    """The end of a worker, with its job: the process, its machine or the way to it is gone."""

    reason: str


Message = Said | Advanced | Returned | Raised | Lost
Emit = Callable[[Message], None]


@dataclass
class Worker:
    """What a job knows of the process it runs in.

    Attributes:
        device: ``cpu`` or ``cuda``, of which there is one here.
        progress: where the job's work is shown: at whoever waits for it.
        kept: what earlier jobs left for later ones, such as encoders, by name.
    """

    device: str
    progress: Told
    kept: dict[str, Any] = field(default_factory=dict)


class Told:
    """Progress that is told to the process that waits."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield ``items``, and tell twice a second how many there were."""
        done, told = 0, time.monotonic()
        self._emit(Advanced(label, 0, total))
        try:
            for item in items:
                yield item
                done += 1
                if time.monotonic() - told >= SECONDS_BETWEEN:
                    told = time.monotonic()
                    self._emit(Advanced(label, done, total))
        finally:
            self._emit(Advanced(label, done, total, ended=True))

    def say(self, message: str) -> None:
        """Tell one line."""
        self._emit(Said(message))


def perform(job: Job, worker: Worker) -> Message:
    """Make the call; its end, which is ``Returned`` or ``Raised``. A keyboard's interrupt goes through.

    A job that would end its process, as code of the user's may, has failed like any other.
    """
    module, _, name = job.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        return Returned(function(worker, **job.arguments), job.ticket)
    except (Exception, SystemExit) as error:
        return Raised(Fault.of(error), job.ticket)


def _frames(error: BaseException) -> str:
    """Where ``error`` happened: a line for each call, with no path of this machine and no value."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        _, installed, library = file.as_posix().rpartition("/site-packages/")
        own = file.is_relative_to(PACKAGE)
        place = file.relative_to(PACKAGE.parent).as_posix() if own else library if installed else "…"
        lines.append(f"{place}:{frame.lineno} in {frame.name}\n")
    return "".join(lines)
