"""Who runs the cells of a study: here one after the other; the same protocol serves processes and clusters."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

import evalfm
from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.existing import Known
from evalfm.probing.probe import probe
from evalfm.progress import Progress
from evalfm.run import Run

PACKAGE = Path(evalfm.__file__).parent


@dataclass(frozen=True)
class Failure:
    """Why a cell gave no result.

    Attributes:
        error: the kind of error. sentence: its first line.
        trace: where it happened, for what is no user's mistake; else None.
    """

    error: str
    sentence: str
    trace: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its runs and those of its baselines, or a failure."""

    cell: ProbeConfig
    runs: tuple[Run, ...]
    failure: Failure | None
    seconds: float


def _frames(error: Exception) -> str:
    """Where ``error`` happened: a line for each call, with no path of this machine and no value."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        _, installed, library = file.as_posix().rpartition("/site-packages/")
        own = file.is_relative_to(PACKAGE)
        place = file.relative_to(PACKAGE.parent).as_posix() if own else library if installed else "…"
        lines.append(f"{place}:{frame.lineno} in {frame.name}\n")
    return "".join(lines)


class Executor(Protocol):
    """Runs cells, wherever; each is a pure function of its JSON, the data sets, and what of its baselines is a cell."""

    def run(self, cells: Iterable[ProbeConfig], progress: Progress) -> Iterator[Outcome]:
        """Yield the outcome of every cell as soon as it is there, in any order; a failing cell stops no other."""
        ...


@dataclass
class SerialExecutor:
    """One cell after the other, in this process.

    Attributes:
        manifest: from a data set's name to its manifest, so that each is read once.
        started: called with each cell before it runs.
        own: what cells of the study, here or elsewhere, measure in their own right (see ``Known``).
    """

    manifest: Callable[[str], Manifest] | None = None
    started: Callable[[ProbeConfig], None] = field(default=lambda cell: None)
    own: frozenset[str] = frozenset()

    def run(self, cells: Iterable[ProbeConfig], progress: Progress) -> Iterator[Outcome]:
        """In order; an interrupt by the keyboard goes through."""
        # A baseline that several cells share is made, or said to be there, once.
        known: Known | None = None
        for cell in cells:
            known = known or Known(cell.force, self.own)
            self.started(cell)
            yield self._one(cell, known, progress)

    def _one(self, cell: ProbeConfig, known: Known, progress: Progress) -> Outcome:
        started = time.monotonic()
        runs, failure = self._attempt(cell, known, progress)
        heads = cell.heads or ()
        if failure is not None and failure.trace is not None and len(heads) > 1:
            # Nothing that the user could fix, such as memory that did not suffice for all heads at once.
            one_by_one, failures = list(runs), []
            for head in heads:
                alone, failure = self._attempt(cell.model_copy(update={"heads": (head,)}), known, progress)
                one_by_one += alone
                if failure is not None:
                    failures.append(Failure(failure.error, f"{head}: {failure.sentence}", failure.trace))
            runs, failure = tuple(one_by_one), failures[0] if failures else None
            if len(failures) > 1:
                failure = Failure(failures[0].error, "; ".join(each.sentence for each in failures), failures[0].trace)
        return Outcome(cell, runs, failure, time.monotonic() - started)

    def _attempt(self, cell: ProbeConfig, known: Known, progress: Progress) -> tuple[tuple[Run, ...], Failure | None]:
        try:
            data, test_data = (
                None if self.manifest is None or name is None else self.manifest(name)
                for name in (cell.data, cell.test_data)
            )
            return tuple(probe(cell, data=data, test_data=test_data, progress=progress, known=known)), None
        except EvalfmError as error:
            failure = Failure(type(error).__name__, str(error))
        except Exception as error:
            sentence = (str(error).splitlines() or [""])[0]
            failure = Failure(type(error).__name__, sentence, _frames(error))
        # What the failed cell held of the GPU is free for the next one.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (), failure
