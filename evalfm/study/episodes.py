"""Few-shot episodes as YAML: encoders × tasks × methods × shots, run one encoder and task after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evalfm.cards import CardModel, read_yaml, validate
from evalfm.config import ComputeOptions, EncoderOptions
from evalfm.encoders.reference import EncoderRef
from evalfm.episodes import EpisodeRun
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.few_shot.cohort import EpisodeCohort, draw_cohort
from evalfm.probing.few_shot.config import FINE_TUNE, ZERO_SHOT, EpisodeConfig, EpisodeOptions, Method
from evalfm.probing.few_shot.episodes import solve_episodes
from evalfm.probing.names import check_names
from evalfm.progress import SILENT, Progress
from evalfm.study.cohorts import Manifests
from evalfm.study.config import PHANTOM, EncoderEntry, episodes_file, named


class EpisodeTask(CardModel):
    """A task of the grid.

    Attributes:
        name: a task card's name or path, or a label column.
        data: another data set than the grid's, for this task alone.
        prompts: a file of sentences for ``zeroshot``, in place of the task's own.
    """

    name: str
    data: str | None = None
    prompts: str | None = None


class EpisodeStudy(EpisodeOptions):
    """Episodes of every encoder on every task; what is not listed here is as ``evalfm episodes`` takes it.

    Attributes:
        protocol: ``episodes``, which tells this file from a study of probes.
        name: a word. title: what it is about, printed above its tables.
        data: folder, registered name or ``phantom``; ``--data`` takes another for every task.
        on_phantom: keys that take another value with ``--data phantom``.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    protocol: Literal["episodes"] = "episodes"
    name: str = Field(pattern=r"^[\w.-]+$")
    title: str
    data: str
    encoders: tuple[Annotated[EncoderEntry, BeforeValidator(named)], ...] = Field(min_length=1)
    tasks: tuple[Annotated[EpisodeTask, BeforeValidator(named)], ...] = Field(min_length=1)
    on_phantom: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _entries_fit(self) -> EpisodeStudy:
        unknown = sorted(set(self.on_phantom) - (set(type(self).model_fields) - {"name", "data", "on_phantom"}))
        if unknown:
            raise ValueError(f"on_phantom changes {', '.join(unknown)}, which is no key that it could change")
        if len({(task.name, task.data) for task in self.tasks}) < len(self.tasks):
            raise ValueError("a task stands twice under tasks, with the same data")
        for task in self.tasks:
            self.config(task, self.encoders[0])
        return self

    def config(self, task: EpisodeTask, encoder: EncoderEntry, **options: Any) -> EpisodeConfig:
        """The episodes of ``encoder`` on ``task``."""
        shared = {name: getattr(self, name) for name in EpisodeOptions.model_fields}
        shared |= {name: getattr(encoder, name) for name in EncoderOptions.model_fields}
        shared |= {"data": self.data_of(task), "prompts": task.prompts}
        return EpisodeConfig(encoder=encoder.name, task=task.name, **(shared | options))

    def data_of(self, task: EpisodeTask) -> str:
        """The data set of ``task``."""
        return task.data or self.data

    def changed(self, **changes: Any) -> EpisodeStudy:
        """The same with other values, checked anew.

        Raises:
            EvalfmError: a value is not valid.
        """
        return validate(EpisodeStudy, self.model_dump(by_alias=True) | changes, f"episodes {self.name}")

    def on(self, data: str | None) -> EpisodeStudy:
        """The same on ``data`` alone, every task once; on the phantom with ``on_phantom`` applied."""
        study = self
        if data is not None:
            tasks = {task.name: task.model_dump() | {"data": None} for task in study.tasks}
            study = study.changed(data=data, tasks=list(tasks.values()))
        return study.changed(**study.on_phantom) if study.data == PHANTOM and study.on_phantom else study

    def by(self, methods: Sequence[str], **changes: Any) -> EpisodeStudy:
        """The same by these methods, with ``changes``; what was set for others alone goes back to its default."""
        idle = {FINE_TUNE: ("recipe", "fine_tune_episodes"), "linear": ("strength",)}
        dropped = {name for method, names in idle.items() if method not in methods for name in names}
        content = {name: value for name, value in self.model_dump(by_alias=True).items() if name not in dropped}
        content |= {"on_phantom": {}, "methods": methods, **changes}
        return validate(EpisodeStudy, content, f"episodes {self.name}")

    def only(self, encoders: Sequence[str] = (), tasks: Sequence[str] = ()) -> EpisodeStudy:
        """The same with these names alone; nothing named keeps all.

        Raises:
            UnknownNameError: a name is not among them.
        """
        for kind, names, known in (("encoder", encoders, self.encoders), ("task", tasks, self.tasks)):
            for name in names:
                if name not in {each.name for each in known}:
                    raise UnknownNameError(f"{kind} of {self.name}", name, {each.name for each in known})
        return self.changed(
            encoders=[each.model_dump() for each in self.encoders if each.name in (encoders or [each.name])],
            tasks=[each.model_dump() for each in self.tasks if each.name in (tasks or [each.name])],
        )


def load_episodes(name: str) -> EpisodeStudy:
    """The episodes ``name``: those that ship with evalfm, or the path of a YAML file.

    Raises:
        EvalfmError: there are none, they are not valid, or it is a study of probes.
    """
    path = episodes_file(name)
    return validate(EpisodeStudy, read_yaml(path), f"episodes {path.name}")


def trainable(encoder: str) -> bool:
    """Whether an encoder has something to train, as far as its name tells: no table and no classical descriptor."""
    ref = EncoderRef.parse(encoder)
    card = ref.card()
    return not ref.is_table and (card is None or card.family != "classical")


def takes_weights(encoder: str) -> bool:
    """Whether an encoder can be given weights, as far as its name tells."""
    ref = EncoderRef.parse(encoder)
    card = ref.card()
    return not ref.is_table and (card is None or card.weights.source != "none")


@dataclass(frozen=True)
class EpisodeCell:
    """One encoder on one task, with the methods that serve it.

    Attributes:
        left_out: those it cannot, each with the reason.
    """

    encoder: EncoderEntry
    task: EpisodeTask
    methods: tuple[Method, ...]
    left_out: tuple[str, ...]


def cells(study: EpisodeStudy) -> list[EpisodeCell]:
    """Every encoder on every task; a method that does not serve an encoder is left out, with the reason.

    Raises:
        EvalfmError: an encoder is not known, or one is left without any method.
    """
    grid = []
    for entry in study.encoders:
        ref = EncoderRef.parse(entry.name)
        card = ref.card()
        reasons: dict[Method, str] = {}
        if not trainable(entry.name):
            reasons[FINE_TUNE] = f"{entry.name} by fine-tune: it has no weights to train"
        if ref.is_table or (card is not None and card.text_tower is None):
            reasons[ZERO_SHOT] = f"{entry.name} by zeroshot: it reads no text"
        methods = tuple(each for each in study.methods if each not in reasons)
        left_out = tuple(reason for method, reason in reasons.items() if method in study.methods)
        if not methods:
            raise EvalfmError(f"{'; '.join(left_out)}. Take other methods, such as --method linear.")
        grid += [EpisodeCell(entry, task, methods, left_out) for task in study.tasks]
    return grid


@dataclass(frozen=True)
class EpisodeOutcome:
    """The results of one cell, or why there are none."""

    cell: EpisodeCell
    runs: tuple[EpisodeRun, ...]
    failure: str | None = None


def draw_cohorts(
    study: EpisodeStudy, manifests: Manifests, progress: Progress = SILENT
) -> dict[EpisodeTask, EpisodeCohort]:
    """The episodes of every task, drawn once for all encoders.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.
    """
    cohorts: dict[EpisodeTask, EpisodeCohort] = {}
    faults: list[str] = []
    # Before data are read or made.
    check_names([entry.name for entry in study.encoders])
    for task in study.tasks:
        try:
            config = study.config(task, study.encoders[0])
            cohorts[task] = draw_cohort(config, manifests.get(study.data_of(task)), progress)
        except EvalfmError as error:
            faults.append(f"{task.name}: {error}" if len(study.tasks) > 1 else str(error))
    if len(faults) > 1:
        faults = [f"{study.name} has {len(faults)} faults:\n" + "\n".join(f"- {each}" for each in faults)]
    if faults:
        raise EvalfmError(faults[0])
    return cohorts


def run_episode_study(
    study: EpisodeStudy,
    out: str | Path,
    progress: Progress = SILENT,
    *,
    machine: ComputeOptions | None = None,
    cohorts: Mapping[EpisodeTask, EpisodeCohort] | None = None,
    force: bool = False,
) -> Iterator[EpisodeOutcome]:
    """Run the cells one after the other; what is under ``out`` already is not computed again.

    A cell that fails by something that its user can fix, such as weights that are not here, is recorded and the rest
    goes on; where there is one cell alone its error is raised.

    Raises:
        EvalfmError: of a single cell, or a fault of the tasks or names that must be fixed first.
    """
    grid = cells(study)
    cohorts = cohorts or draw_cohorts(study, Manifests(progress), progress)
    options = (machine or ComputeOptions()).model_dump(include=set(ComputeOptions.model_fields))
    for cell in grid:
        config = study.config(cell.task, cell.encoder, **options, out=out, force=force)
        # What was valid with all methods is valid with some, whose options may do nothing here.
        config = config.model_copy(update={"methods": cell.methods})
        try:
            runs = solve_episodes(cell.encoder.name, cohorts[cell.task], config, progress)
        except EvalfmError as error:
            if len(grid) == 1:
                raise
            yield EpisodeOutcome(cell, (), str(error))
            continue
        yield EpisodeOutcome(cell, tuple(runs))
