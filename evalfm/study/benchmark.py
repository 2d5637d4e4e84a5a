"""A benchmark of encoders: the shipped study on every task that the data allow, what a tube changes, one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalfm.analysis.good_for import Standing, standings, worn_by
from evalfm.analysis.pages import Section
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.section import CHANGES, tube_changes
from evalfm.analysis.report.tables import Signed, Value, Worded, table
from evalfm.analysis.report.task import TaskReport, sections
from evalfm.analysis.robustness import ROBUSTNESS, Robustness
from evalfm.cards import checked, takes
from evalfm.cautions import Code, sentences
from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.atomic import write_atomically
from evalfm.encoder_options import EncoderOptions
from evalfm.paths import user_path
from evalfm.probing.executor import Outcome
from evalfm.progress import SILENT, Progress
from evalfm.publishing import check_writable
from evalfm.run import Run
from evalfm.study.benchmark_design import Benchmark, design, entries_of, trials_of
from evalfm.study.grid import LeftOut, label_of
from evalfm.study.running import Sayer, StudyRuns, Watch, run_study
from evalfm.study.trials import Candidate, Trial
from evalfm.workers.job import Fault

PAGE, SUMMARY = "report.html", "benchmark.json"
TITLE = "Benchmark"
OF_AN_ENCODER: tuple[Code, ...] = (
    "random-weights",
    "contamination",
    "contamination-unknown",
    "unconfirmed-card",
    "trained-from-random",
)
"""Codes of cautions that say what to beware of."""


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Attributes:
        runs: of the encoders and their baselines.
        standings: of every encoder on every task, with all labels.
        beware: sentences: what a figure leans on, what the encoder was trained on, what a tube changes.
        failed: what gave no result, and why.
        left_out: what the data do not allow, and why.
        page: the report; None where no run was made.
        folder: of everything.
    """

    runs: tuple[Run, ...]
    standings: tuple[Standing, ...]
    beware: tuple[str, ...]
    failed: tuple[LeftOut, ...]
    left_out: tuple[LeftOut, ...]
    page: Path | None
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values, without paths."""
        return {
            "schema": 1,
            "runs": len(self.runs),
            "standings": [each.to_json() for each in self.standings],
            "beware": list(self.beware),
            "failed": [vars(each) for each in self.failed],
            "left_out": [vars(each) for each in self.left_out],
            "page": None if self.page is None else self.page.name,
        }


@dataclass
class _Collected:
    """Passes on what a study reports, and keeps which cell each run is of."""

    watch: Watch
    of: dict[tuple[str, str], dict[str, Run]] = field(default_factory=dict)

    def started(self, cell: ProbeConfig, number: int, of: int) -> None:
        """Pass it on."""
        self.watch.started(cell, number, of)

    def finished(self, outcome: Outcome, number: int, of: int) -> None:
        """Keep the runs, by encoder and task of their cell and by head, and pass it on."""
        for run in (run for run in outcome.runs if not run.is_baseline):
            self.of.setdefault((outcome.cell.encoder, outcome.cell.task), {})[run.head] = run
        self.watch.finished(outcome, number, of)


def run_benchmark(
    benchmark: Benchmark,
    out: str | Path,
    progress: Progress = SILENT,
    *,
    machine: MachineOptions | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> BenchmarkResult:
    """Run every part, what is tried on its runs, and write the page; what is there already is not computed again.

    What fails is noted and the rest goes on; an interrupt stops, and the same call goes on later.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.
    """
    folder, watch = user_path(out, "--out"), watch or Sayer(progress)
    check_writable(folder)
    runs: dict[Path, Run] = {}
    failed: list[LeftOut] = []
    made: dict[tuple[str, str, str], dict[str, Run]] = {}
    for part in benchmark.parts:
        collected = _Collected(watch)
        done = run_study(
            part.study,
            folder / part.folder,
            progress,
            machine=machine,
            force=force,
            manifests=benchmark.manifests,
            watch=collected,
        )
        runs |= {run.folder: run for run in done}
        failed += _failures(done)
        if not part.few:
            made |= {(part.study.data, *key): run for key, run in collected.of.items()}
    trials, left_out = trials_of(benchmark)
    found: dict[str, list[dict[str, Any]]] = {}
    for trial, candidate in trials:
        data = _name_of(candidate, benchmark)
        of_heads = made.get((data, label_of(candidate.entry), candidate.task.name), {})
        run = of_heads.get(candidate.task.head) or next(iter(of_heads.values()), None)
        if run is None:
            failed.append(LeftOut(f"{trial.word} of {candidate.what}", "its run was not made"))
            continue
        try:
            found.setdefault(trial.file, []).append(_tried(trial, run, candidate, folder, progress, force=force))
        except Exception as error:
            fault = Fault.of(error)
            failed.append(LeftOut(f"{trial.word} of {candidate.what}", fault.sentence))
            progress.say(f"Failed: {failed[-1].what}: {fault.sentence}")
    return _result(tuple(runs.values()), found, failed, [*benchmark.left_out, *left_out], benchmark, folder)


def _name_of(candidate: Candidate, benchmark: Benchmark) -> str:
    return next(
        part.study.data for part in benchmark.parts if benchmark.manifests.get(part.study.data) is candidate.manifest
    )


def _failures(done: StudyRuns) -> Iterator[LeftOut]:
    for outcome in done.failed:
        assert outcome.failure is not None
        yield LeftOut(outcome.cell.description, outcome.failure.sentence)


def _tried(
    trial: Trial, run: Run, candidate: Candidate, folder: Path, progress: Progress, *, force: bool
) -> dict[str, Any]:
    """What ``trial`` finds on ``run``: read where it was found before, else found and written beside the others."""
    path = folder / trial.file
    known = trial.read(path) if path.is_file() else []
    for each in known:
        if each["run"] == run.record.key and not force:
            return dict(each)
    progress.say(f"{trial.word}: {candidate.what}")
    found = {"run": run.record.key, **trial.find(run, candidate, progress)}
    others = [each for each in known if each["run"] != run.record.key]
    content = {"schema": 1, "runs": [*others, found]}
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return found


def _result(
    runs: tuple[Run, ...],
    found: Mapping[str, list[dict[str, Any]]],
    failed: Sequence[LeftOut],
    left_out: Sequence[LeftOut],
    benchmark: Benchmark,
    folder: Path,
) -> BenchmarkResult:
    """The page, the summary beside it, and both in memory."""
    tasks = sections(runs) if runs else []
    changes = [{"schema": 1, "runs": found[CHANGES]}] if CHANGES in found else []
    worn = [Robustness.of(found[ROBUSTNESS])] if ROBUSTNESS in found else []
    standing = standings(each.comparison for each in tasks if each.comparison is not None)
    beware = [sentence for run in runs if not run.is_baseline for sentence in _cautions(run)]
    beware += [f"{each.title}: {sentence}" for each in tasks for sentence in each.associations]
    beware += tube_changes(changes)
    beware += [sentence for each in worn for sentence in worn_by(each)]
    page = folder / PAGE if runs else None
    whole = tuple(dict.fromkeys(beware)), tuple(failed), tuple(dict.fromkeys(left_out)), page, folder
    result = BenchmarkResult(runs, tuple(standing), *whole)
    if page is not None:
        title = f"{TITLE} of {', '.join(dict.fromkeys(run.encoder for run in runs if not run.is_baseline))}"
        first = _first_section(result, tasks, benchmark.notes)
        write_atomically(page, report_page(runs, title, (), worn, changes, tasks, [first]).encode())
    write_atomically(folder / SUMMARY, (json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n").encode())
    return result


def _cautions(run: Run) -> list[str]:
    return [f"{run.encoder}: {sentence}" for sentence in sentences(run.record.cautions, OF_AN_ENCODER)]


def _first_section(result: BenchmarkResult, tasks: Sequence[TaskReport], notes: Sequence[str]) -> Section:
    """What the encoders are good for, what to beware of, what failed and what was left out."""
    rows: list[list[Value]] = [
        [
            *(each.task, each.cohort, f"{each.encoder} · {each.head}", each.metric, each.estimate),
            *(each.baseline, Signed.of(each.gain), Worded.p(each.p), each.verdict),
        ]
        for each in result.standings
    ]
    header = ["task", "tested on", "encoder · head", "metric", "value", "nearest baseline", "gain", "p", "verdict"]
    caption = (
        "The line that val chose of each encoder against the baseline that it beats least surely, on the same "
        "patients; gain is above 0 where the encoder is better. Verdicts at the 5 % level against every baseline at "
        "once, task by task."
    )
    left: list[list[Value]] = [[each.what, each.reason] for each in result.left_out]
    pieces = [Section("Beware", points=result.beware)] if result.beware else []
    failed = [f"{each.what}: {each.reason}" for each in result.failed]
    return Section(
        "What it is good for",
        "good-for",
        words=" ".join(notes),
        tables=[("", table("good-for", header, rows, caption))],
        leading=1,
        sections=pieces,
        folded=[("What the data do not allow", table("left-out", ["what", "why"], left))] if left else [],
        absent=failed,
    )


@takes(EncoderOptions, MachineOptions)
def benchmark(
    encoder: str | Sequence[str],
    *,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path = "runs/benchmark",
    tasks: Sequence[str] = (),
    folds: int | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> BenchmarkResult:
    """Measure encoders on every task that data sets allow, with few labels, by subgroup, and write one page.

    Args:
        encoder: a card's name or path, ``file.py:build``, ``precomputed:FILE``, or several.
        data: a data set's folder or registered name, or several; none takes the phantom.
        out: folder of the runs, of ``report.html`` and of ``benchmark.json``.
        tasks: these alone; none takes every one that a data set allows.
        folds: by patient; 1 takes a data set's own split; without it 5 where it has fewer than 2,000 images.
        limit: at most so many images a task.
        force: run again what is there already.
        progress: where long work is shown.
        options: how the encoders are loaded, as ``evalfm probe`` takes it, and with what they are run.

    Returns:
        The runs, where each encoder stands, what to beware of, what failed, and the page.

    Raises:
        EvalfmError: anything the caller can fix before something runs, in one sentence.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("small", n=120, size=64).folder
    >>> found = benchmark("hog", data=data, tasks=["cardiomegaly-cls"], out="bench")
    >>> [each.task for each in found.standings], found.page.name, found.failed
    (['cardiomegaly-cls'], 'report.html', ())
    """
    names = [encoder] if isinstance(encoder, str) else list(encoder)
    sets = [data] if isinstance(data, str | Path) else list(data)
    of_encoder = {name: value for name, value in options.items() if name in EncoderOptions.model_fields}
    of_machine = {name: value for name, value in options.items() if name not in of_encoder}
    entries = entries_of(names, of_encoder)
    machine = checked(MachineOptions, of_machine)
    planned = design(entries, list(map(str, sets)), tasks=tasks, folds=folds, limit=limit)
    return run_benchmark(planned, out, progress, machine=machine, force=force)
