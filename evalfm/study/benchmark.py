"""A benchmark of encoders: the shipped study on every task that the data allow, what a tube changes, one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalfm.analysis.good_for import Standing, standings, worn_by
from evalfm.analysis.pages import Section
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.section import CHANGES, read_changes, tube_changes
from evalfm.analysis.report.tables import Signed, Value, Worded, table
from evalfm.analysis.report.task import TaskReport, sections
from evalfm.analysis.robustness import ROBUSTNESS, Robustness
from evalfm.cards import checked, takes
from evalfm.cautions import Code, sentences
from evalfm.config import MachineOptions, ProbeConfig
from evalfm.data.atomic import write_atomically
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import FAMILIES
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.paths import input_file, user_path
from evalfm.probing.cohort import PHANTOM
from evalfm.probing.counterfactual import IMAGES, counterfactual
from evalfm.probing.erasing import DEVICE, erase
from evalfm.probing.executor import Outcome
from evalfm.probing.robustness import robustness
from evalfm.progress import SILENT, Progress
from evalfm.publishing import check_writable
from evalfm.run import Run
from evalfm.study.allowed import AllowedTask, allowed_tasks
from evalfm.study.cohorts import Manifests
from evalfm.study.config import EncoderEntry, Study, check_study_names, load_study
from evalfm.study.grid import LeftOut, label_of
from evalfm.study.plan import Plan, make_plan
from evalfm.study.running import Sayer, StudyRuns, Watch, run_study
from evalfm.tasks.kinds import kind_of
from evalfm.workers.job import Fault

FEW_IMAGES, FOLDS = 2000, 5
"""A data set of fewer images is measured over so many folds, unless the caller says otherwise."""
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
class Part:
    """What of a benchmark is one study: a data set with all labels, or with few.

    Attributes:
        folder: of its runs, in that of the benchmark.
        study: the shipped one, narrowed to what the data allow.
        tasks: of the study.
        few: whether it learns from few labels.
    """

    folder: str
    study: Study
    tasks: tuple[AllowedTask, ...]
    few: bool = False


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark will run.

    Attributes:
        parts: the studies, in their order.
        left_out: tasks and what else of a benchmark that the data do not allow, and why.
        notes: what was decided for the caller, a sentence each.
        manifests: the data sets, read and checked.
    """

    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    manifests: Manifests

    @property
    def encoders(self) -> tuple[EncoderEntry, ...]:
        """What is measured."""
        return self.parts[0].study.encoders


def design(
    encoders: Sequence[EncoderEntry],
    data: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    folds: int | None = None,
    limit: int | None = None,
    manifests: Manifests | None = None,
) -> Benchmark:
    """Narrow the shipped study to what each data set can answer.

    Args:
        encoders: at least one.
        data: folders or registered names; none takes the phantom.
        tasks: these alone, cards or label columns; none takes every one that a data set allows.
        folds: by patient; 1 takes the data set's own split, None goes by its size.
        limit: at most so many images a task.
        manifests: data sets that were read already.

    Raises:
        EvalfmError: a name is unknown, a data set has faults, or none can answer any task.
    """
    manifests = manifests or Manifests()
    shipped = load_study("benchmark")
    parts: list[Part] = []
    left_out: list[LeftOut] = []
    names = list(data) or [PHANTOM]
    notes = [] if data else ["No --data was given: phantom radiographs, whose figures say nothing about patients."]
    for name in names:
        manifest = manifests.get(name)
        over = _folds_of(manifest, folds, limit)
        cards = list(tasks) or [task.name for task in shipped.tasks]
        allowed, missing = allowed_tasks(cards, manifest, over, limit=limit, columns=not tasks)
        left_out += missing
        if over and folds is None:
            notes.append(f"{manifest.info.name} has fewer than {FEW_IMAGES:,} images: {over} folds test each once.")
        if not allowed:
            continue
        taken = sum(part.study.data != name and part.folder.startswith(manifest.info.name) for part in parts)
        folder = f"{manifest.info.name}-{taken + 1}" if taken else manifest.info.name
        common: dict[str, Any] = {
            "encoders": [entry.model_dump() for entry in encoders],
            "data": name,
            "folds": over,
            "limit": limit,
            "on_phantom": {},
        }
        whole = shipped.changed(**common, tasks=[task.name for task in allowed], shots=[], val_shots=None, seeds=1)
        parts.append(Part(folder, whole, tuple(allowed)))
        some, unfit = _with_few_labels(shipped, allowed, manifest)
        left_out += unfit
        if some:
            few = shipped.changed(
                **common,
                name="few-labels",
                tasks=[task.name for task in some],
                shots=[each for each in shipped.shots if each is not None],
            )
            parts.append(Part(f"{folder}-few-labels", few, tuple(some), few=True))
    if not parts:
        reasons = "".join(f"\n- {each.what}: {each.reason}" for each in left_out)
        raise EvalfmError(f"No data set named can answer any task; name others with --data or --task.{reasons}")
    for part in parts:
        check_study_names(part.study)
    return Benchmark(tuple(parts), tuple(left_out), tuple(notes), manifests)


def _folds_of(manifest: Manifest, folds: int | None, limit: int | None) -> int | None:
    if folds is not None:
        return folds if folds > 1 else None
    return FOLDS if min(len(manifest), limit or len(manifest)) < FEW_IMAGES else None


def _with_few_labels(
    shipped: Study, allowed: Sequence[AllowedTask], manifest: Manifest
) -> tuple[list[AllowedTask], list[LeftOut]]:
    """The tasks whose train has the most shots of each class, and why others are not learned from few labels."""
    most = max(each for each in shipped.shots if each is not None)
    fit = [task for task in allowed if task.scarcest is not None and task.scarcest >= most]
    reasons: dict[str, list[str]] = {}
    for task in (task for task in allowed if task not in fit):
        reason = f"{task.scarcest} images of the scarcest class in train, fewer than {most}"
        if task.scarcest is None:
            reason = "an image is of no one class of which shots could be drawn"
        reasons.setdefault(reason, []).append(task.name)
    where = manifest.info.name
    return fit, [LeftOut(f"few labels of {', '.join(names)} on {where}", reason) for reason, names in reasons.items()]


@dataclass(frozen=True)
class Candidate:
    """An encoder on a task of a data set, on which more may be tried than a study does."""

    entry: EncoderEntry
    manifest: Manifest
    task: AllowedTask

    @property
    def what(self) -> str:
        """In words."""
        return f"{self.entry.name} × {self.task.name} on {self.manifest.info.name}"

    @property
    def again(self) -> dict[str, Any]:
        """What loading the encoder again takes beside the record of a run."""
        weights = None if self.entry.weights in ("hub", "random") else self.entry.weights
        return {"weights": weights, "encoder": self.entry.name if EncoderRef.parse(self.entry.name).is_code else None}


@dataclass(frozen=True)
class Trial:
    """What is tried on the runs of the linear heads once they are there.

    Attributes:
        name: in words, with what one run costs.
        file: in the folder of the benchmark, of what was found, run by run.
        choose: of candidates those to try it on, and why not on others.
        find: what a run of a candidate shows, as plain values.
        read: what an earlier call found, from the file.
    """

    name: str
    file: str
    choose: Callable[[Sequence[Candidate]], tuple[list[Candidate], list[LeftOut]]]
    find: Callable[[Run, Candidate, Progress], dict[str, Any]]
    read: Callable[[Path], Sequence[Mapping[str, Any]]]

    @property
    def word(self) -> str:
        """The first of its name."""
        return self.name.partition(" ")[0]


def _with_tubes(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[LeftOut]]:
    """Tasks about a pneumothorax on phantoms, or where chest tubes are outlined."""
    chosen, left_out = [], []
    for each in candidates:
        name = each.manifest.info.name
        if DEVICE not in each.manifest.findings:
            left_out.append(LeftOut(f"counterfactual on {name}", f"{name} has no outlines of a {DEVICE}"))
        elif EncoderRef.parse(each.entry.name).is_table:
            left_out.append(LeftOut(f"counterfactual of {each.entry.name}", "a table of features sees no other image"))
        elif TUBE_TIED in each.task.targets and each.task.kind in TUBE_KINDS:
            chosen.append(each)
    return chosen, list(dict.fromkeys(left_out))


def _tube(run: Run, of: Candidate, progress: Progress) -> dict[str, Any]:
    """Drawn into new phantoms where the data are such; else painted out of images that the run has not seen."""
    if of.manifest.info.synthetic:
        return counterfactual(run, **of.again, progress=progress).to_json()
    return erase(run, of.manifest, trained_on=of.manifest, **of.again, progress=progress).to_json()


def _one_of_each(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[LeftOut]]:
    """Of each encoder on a data set the first task of masks and the first other one: its features are what is asked."""
    first: dict[tuple[str, str, bool], Candidate] = {}
    left_out = []
    for each in candidates:
        if EncoderRef.parse(each.entry.name).is_table:
            left_out.append(LeftOut(f"robustness of {each.entry.name}", "a table of features sees no other image"))
        else:
            first.setdefault((each.entry.name, each.manifest.info.name, kind_of(each.task.kind).pixelwise), each)
    return list(first.values()), list(dict.fromkeys(left_out))


def _perturbed(run: Run, of: Candidate, progress: Progress) -> dict[str, Any]:
    """Perturbed images through the run; neighbours by site or scanner where one is declared."""
    by = next((name for name in of.manifest.info.attributes if name in SITES), None)
    given = {"by": by, "images": PERTURBED, "trained_on": of.manifest, **of.again}
    return dict(robustness([run], of.manifest, progress=progress, **given).to_json()["runs"][0])


TUBE_TIED, TUBE_KINDS = "pneumothorax", ("binary", "segmentation")
SITES = ("site", "hospital", "institution", "scanner", "manufacturer")
"""Attributes that the robustness index goes by, the first that is declared."""
PERTURBED = 50
"""Images that are perturbed, of each run."""
STRENGTHS = sum(len(family.strengths) for family in FAMILIES.values())
TRIALS = (
    Trial(
        f"counterfactual (a chest tube drawn into {IMAGES} phantoms, or painted out of images that show one)",
        CHANGES,
        _with_tubes,
        _tube,
        lambda path: read_changes(path)["runs"],
    ),
    Trial(
        f"robustness ({PERTURBED} images under {STRENGTHS} perturbations, a forward pass each)",
        ROBUSTNESS,
        _one_of_each,
        _perturbed,
        lambda path: Robustness.read(path).to_json()["runs"],
    ),
)
"""What is tried once the runs are there."""


def trials_of(benchmark: Benchmark) -> tuple[list[tuple[Trial, Candidate]], list[LeftOut]]:
    """What will be tried on which runs, and what the data do not allow."""
    chosen: list[tuple[Trial, Candidate]] = []
    left_out: list[LeftOut] = []
    for part in (part for part in benchmark.parts if not part.few):
        manifest = benchmark.manifests.get(part.study.data)
        candidates = [Candidate(entry, manifest, task) for entry in part.study.encoders for task in part.tasks]
        for trial in TRIALS:
            wanted, reasons = trial.choose(candidates)
            chosen += [(trial, each) for each in wanted]
            left_out += reasons
    return chosen, list(dict.fromkeys(left_out))


def plans_of(benchmark: Benchmark, machine: MachineOptions | None = None, progress: Progress = SILENT) -> list[Plan]:
    """What each part will cost; nothing is written.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.
    """
    stored: dict[tuple[str, str, str], int] = {}
    return [
        make_plan(part.study, machine, None, benchmark.manifests, progress, stored=stored) for part in benchmark.parts
    ]


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
            *(each.task, each.cohort, f"{each.encoder} · {each.head}", each.verdict, each.metric, each.estimate),
            *(each.baseline, Signed.of(each.gain), Worded.p(each.p)),
        ]
        for each in result.standings
    ]
    # The verdict stands where a narrow window shows it.
    header = ["task", "tested on", "encoder · head", "verdict", "metric", "value", "nearest baseline", "gain", "p"]
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


def entries_of(names: Sequence[str], options: Mapping[str, Any]) -> list[EncoderEntry]:
    """The encoders ``names`` with how they are loaded.

    Raises:
        EvalfmError: there is no name, one file of weights stands beside several encoders, or it is not there or of an
            encoder that has none.
    """
    if not names:
        raise EvalfmError("A benchmark is of an encoder; name one, as `evalfm ls encoders` lists them.")
    weights = options.get("weights", "hub")
    if weights not in ("hub", "random"):
        if len(names) > 1:
            raise EvalfmError(f"--weights {weights} is the file of one encoder, and {len(names)} are named.")
        card, path = EncoderRef.parse(names[0]).card(), user_path(weights, "--weights")
        if card is not None and card.weights.source == "none":
            raise EvalfmError(f"{names[0]} has no weights that {weights} could be; leave --weights out.")
        if not path.is_dir():
            input_file(path, "name the checkpoint's file or folder with --weights")
    return [checked(EncoderEntry, {"name": name, **options}) for name in dict.fromkeys(names)]
