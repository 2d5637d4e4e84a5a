"""A study from its first cell to its last: failures are recorded and passed by, results appear after each cell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

from evalfm.config import MachineOptions, ProbeConfig, Shard
from evalfm.probing.crews import crew_for_cells
from evalfm.probing.executor import CrewExecutor, Executor, Outcome, SerialExecutor
from evalfm.progress import SILENT, Progress
from evalfm.publishing import check_writable
from evalfm.run import Run
from evalfm.study.cohorts import Manifests
from evalfm.study.config import Study
from evalfm.study.plan import check_study
from evalfm.study.results import FAILURES, RESULTS, file_of, rows_of, write_failures, write_results


class Watch(Protocol):
    """Follows how a study goes on."""

    def started(self, cell: ProbeConfig, number: int, of: int) -> None:
        """The cell is about to run."""

    def finished(self, outcome: Outcome, number: int, of: int) -> None:
        """The cell has its runs, or has failed."""


class Sayer:
    """Says failures alone, through the progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def started(self, cell: ProbeConfig, number: int, of: int) -> None:
        """Say nothing; the probe itself does."""

    def finished(self, outcome: Outcome, number: int, of: int) -> None:
        """Say what failed."""
        if outcome.failure is not None:
            self._progress.say(f"Failed: {outcome.cell.description}: {outcome.failure.sentence}")


@dataclass(frozen=True)
class StudyRuns(Sequence[Run]):
    """The runs of a study, those of its baselines among them, each once; and what failed.

    Attributes:
        runs: in the order in which they came. failed: cells without a result.
        folder: where ``results.parquet`` and ``failures.json`` lie.
        shard: which shard of the study they are of; None is all of it.
    """

    runs: tuple[Run, ...]
    failed: tuple[Outcome, ...]
    folder: Path
    shard: Shard | None = None

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...

    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        return self.runs[index]

    @property
    def results(self) -> Path:
        """The table of results."""
        return self.folder / file_of(RESULTS, self.shard)

    @property
    def failures(self) -> Path:
        """The list of what failed."""
        return self.folder / file_of(FAILURES, self.shard)


def run_study(
    study: Study,
    out: str | Path,
    progress: Progress = SILENT,
    *,
    machine: MachineOptions | None = None,
    force: bool = False,
    shard: Shard | None = None,
    executor: Executor | None = None,
    manifests: Manifests | None = None,
    watch: Watch | None = None,
) -> StudyRuns:
    """Run every cell of ``study``; a run that is under ``out`` already is not computed again.

    Each data set is read and every fault looked for before the first cell runs. A cell that fails is recorded in
    ``failures.json`` and the rest goes on; an interrupt by the keyboard stops, and the same call goes on later.

    Args:
        study: the grid.
        out: folder of the runs, of ``results.parquet`` and of ``failures.json``.
        progress: where long work is shown.
        machine: with what cells are run.
        force: run again what is there already.
        shard: run the cells of this shard alone; its tables are then ``results-K-of-N.parquet`` and
            ``failures-K-of-N.json``, and the call without a shard makes those of the whole of what all have run.
        executor: who runs them; where None this process one after the other, or the workers that ``machine`` names.
        manifests: data sets that were read already.
        watch: follows every cell; failures are said through ``progress`` where None.

    Returns:
        The runs as a sequence, with what failed in ``failed``.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.

    >>> from evalfm.data.phantom import make_phantom
    >>> from evalfm.study.config import load_study
    >>> _ = make_phantom("small", n=100, size=64)
    >>> study = load_study("demo").on("small").only(tasks=("ptx-cls",))
    >>> runs = run_study(study.changed(baselines="none", heads=["linear"]), "runs")
    >>> [(run.encoder, run.head) for run in runs]
    [('squeezenet1-0.caffe', 'linear')]
    """
    folder, machine = Path(out), machine or MachineOptions()
    manifests, watch = manifests or Manifests(progress), watch or Sayer(progress)
    check_writable(folder)
    grid = check_study(study, manifests)[0]
    cells = [cell.on(machine, out=folder, force=force) for cell in grid.of(shard).cells]
    numbers = {cell.key: number for number, cell in enumerate(cells, 1)}

    def started(cell: ProbeConfig) -> None:
        watch.started(cell, numbers[cell.key], len(cells))

    runs: dict[Path, Run] = {}
    rows: list[dict[str, Any]] = []
    failed: list[Outcome] = []
    write_results(folder, rows, shard)
    write_failures(folder, failed, shard=shard)
    with ExitStack() as stack:
        if executor is None:
            crew = crew_for_cells(machine, cells) if cells else None
            executor = SerialExecutor(manifests.get, started, grid.own)
            if crew is not None:
                executor = CrewExecutor(stack.enter_context(crew), started, grid.own)
        for number, outcome in enumerate(executor.run(cells, progress), 1):
            # An encoder of the grid that is also a baseline (pixels) is shown as what it was first.
            fresh = [run for run in outcome.runs if run.folder not in runs]
            runs |= {run.folder: run for run in fresh}
            rows += [row for run in fresh for row in rows_of(study.name, run, folder)]
            write_results(folder, rows, shard)
            if outcome.failure is not None:
                failed.append(outcome)
                write_failures(folder, failed, manifests.known, shard)
            if outcome.stages.measures:
                progress.say("\n".join([outcome.cell.description, *outcome.stages.table()]))
            watch.finished(outcome, number, len(cells))
    return StudyRuns(tuple(runs.values()), tuple(failed), folder, shard)
