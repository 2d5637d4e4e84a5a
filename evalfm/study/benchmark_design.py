"""What a benchmark will run: the shipped study, narrowed to what each data set can answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalfm.cards import checked
from evalfm.config import MachineOptions
from evalfm.data.manifest import Manifest
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.paths import input_file, user_path
from evalfm.probing.cohort import PHANTOM
from evalfm.progress import SILENT, Progress
from evalfm.study.allowed import AllowedTask, allowed_tasks
from evalfm.study.cohorts import Manifests
from evalfm.study.config import EncoderEntry, Study, check_study_names, load_study
from evalfm.study.grid import LeftOut
from evalfm.study.plan import Plan, make_plan
from evalfm.study.trials import TRIALS, Candidate, Trial

FEW_IMAGES, FOLDS = 2000, 5
"""A data set of fewer images is measured over so many folds, unless the caller says otherwise."""


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
