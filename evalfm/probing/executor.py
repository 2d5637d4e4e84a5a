"""Who runs cells: this process, one after the other, or the workers of a crew, side by side."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.features.running_encoder import encoded_here
from evalfm.probing.cases import Case
from evalfm.probing.cohort import load_manifest
from evalfm.probing.existing import Known
from evalfm.probing.head_group import FROZEN
from evalfm.probing.measure import encode_ahead, measure
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import Progress
from evalfm.publishing import remove_leftovers
from evalfm.run import Run
from evalfm.workers.job import Fault, Job, Worker
from evalfm.workers.pool import Crew, Pool


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        runs: its runs and those of its baselines. failure: why some or all of them are not there.
        seconds: on the clock.
        encoded: images that went through an encoder for it, where it ran.
        stages: seconds per stage, where the cell's ``profile`` asks for them.
    """

    cell: ProbeConfig
    runs: tuple[Run, ...]
    failure: Fault | None
    seconds: float
    encoded: int = 0
    stages: StageTimes = NO_TIMES


class Executor(Protocol):
    """Runs cells, wherever; each is a pure function of its JSON, the data sets, and what of its baselines is a cell."""

    def run(self, cells: Sequence[ProbeConfig], progress: Progress) -> Iterator[Outcome]:
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
    warm: WarmEncoders = field(default_factory=WarmEncoders)
    _known: Known | None = None

    def run(self, cells: Sequence[ProbeConfig], progress: Progress) -> Iterator[Outcome]:
        """In order; an interrupt by the keyboard goes through."""
        for cell in cells:
            self.started(cell)
            yield self.one(cell, progress)

    def one(self, cell: ProbeConfig, progress: Progress) -> Outcome:
        """The outcome of one cell; a baseline that it shares with earlier ones is made, or said to be there, once."""
        started, before = time.monotonic(), encoded_here()
        if self._known is None:
            self._known = Known(cell.force, self.own)
        remove_leftovers(cell.out)
        times = StageTimes() if cell.profile else NO_TIMES
        runs, failure = self._attempt(cell, self._known, progress, times)
        heads = cell.heads or ()
        if failure is not None and failure.trace is not None and len(heads) > 1:
            # Nothing that the user could fix, such as memory that did not suffice for all heads at once.
            one_by_one, failures = list(runs), []
            for head in heads:
                alone, failure = self._attempt(cell.model_copy(update={"heads": (head,)}), self._known, progress, times)
                one_by_one += alone
                if failure is not None:
                    failures.append(Fault(failure.error, f"{head}: {failure.sentence}", failure.trace))
            runs, failure = tuple(one_by_one), failures[0] if failures else None
            if len(failures) > 1:
                failure = Fault(failures[0].error, "; ".join(each.sentence for each in failures), failures[0].trace)
        return Outcome(cell, runs, failure, time.monotonic() - started, encoded_here() - before, times)

    def case(self, cell: ProbeConfig) -> Case:
        """The cell with the data sets that it names."""
        names = (cell.data, cell.test_data)
        return Case.of(
            cell, *(None if self.manifest is None or name is None else self.manifest(name) for name in names)
        )

    def _attempt(
        self, cell: ProbeConfig, known: Known, progress: Progress, times: StageTimes
    ) -> tuple[tuple[Run, ...], Fault | None]:
        try:
            runs = tuple(measure(self.case(cell), known, progress, times, self.warm))
            known.say(progress)
            return runs, None
        except Exception as error:
            failure = Fault.of(error)
        # What the failed cell held of the GPU is free for the next one.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (), failure


@dataclass
class CrewExecutor:
    """Cells side by side, one to a worker; while a worker has nothing else to do it encodes images for the others.

    Attributes:
        crew: workers that are there already.
        started: called with each cell when it begins, again where its worker was lost.
        own: as for ``SerialExecutor``.
    """

    crew: Crew
    started: Callable[[ProbeConfig], None] = field(default=lambda cell: None)
    own: frozenset[str] = frozenset()

    def run(self, cells: Sequence[ProbeConfig], progress: Progress) -> Iterator[Outcome]:
        """In the order in which they end.

        Raises:
            EvalfmError: no worker is left and none can be started.
        """
        pool = Pool(self.crew, progress, lambda number: self.started(cells[number]))
        for done in pool.run([self._job(cell) for cell in cells]):
            cell = cells[done.number]
            if done.fault is not None:
                yield Outcome(cell, (), done.fault, done.seconds)
                continue
            runs = tuple(Run.read(Path(folder)) for folder in done.value["runs"])
            failure = None if done.value["failure"] is None else Fault(**done.value["failure"])
            times = StageTimes() if cell.profile else NO_TIMES
            times.update(done.value["stages"])
            yield Outcome(cell, runs, failure, done.seconds, done.value["encoded"], times)

    def _job(self, cell: ProbeConfig) -> Job:
        config = cell.model_copy(update=_ON_ONE).model_dump(mode="json")
        beside = None
        if cell.adaptation == FROZEN:
            ahead = {"cell": config}
            beside = Job("evalfm.probing.executor:encode_cell", ahead, f"images for {cell.description}", cell.encoder)
        arguments = {"cell": config, "own": sorted(self.own)}
        return Job("evalfm.probing.executor:run_cell", arguments, cell.description, cell.encoder, beside)


_ON_ONE = {name: MachineOptions.model_fields[name].get_default() for name in ("devices", "executor", "address")}
"""A worker has one device, and no other workers."""


def run_cell(worker: Worker, *, cell: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """Measure ``cell`` (a ``ProbeConfig`` as JSON) in a worker: folders of the runs, the failure, images encoded."""
    executor = _executor(worker, frozenset(own))
    outcome = executor.one(_placed(cell, worker), worker.progress)
    failure = None if outcome.failure is None else asdict(outcome.failure)
    return {
        "runs": [str(run.folder) for run in outcome.runs],
        "failure": failure,
        "encoded": outcome.encoded,
        "stages": outcome.stages.to_json(),
    }


def encode_cell(worker: Worker, *, cell: dict[str, Any]) -> None:
    """Store features that ``cell`` will read; a fault is left to who measures it."""
    executor = _executor(worker, frozenset())
    encode_ahead(executor.case(_placed(cell, worker)), worker.progress, executor.warm)


def _placed(cell: dict[str, Any], worker: Worker) -> ProbeConfig:
    return ProbeConfig.model_validate(cell).model_copy(update={"devices": worker.device})


def _executor(worker: Worker, own: frozenset[str]) -> SerialExecutor:
    """That of the worker, which keeps data sets and the last encoder from one job to the next."""
    if "executor" not in worker.kept:
        read: dict[str, Manifest] = {}

        def manifest(name: str) -> Manifest:
            if name not in read:
                read[name] = load_manifest(name, "", worker.progress)
            return read[name]

        worker.kept["executor"] = SerialExecutor(manifest)
    executor: SerialExecutor = worker.kept["executor"]
    if own:
        executor.own = own
    return executor
