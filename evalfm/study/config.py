"""A study as YAML: encoders (× pooling × layers) × tasks × heads × adaptations × shots (or fractions) × seeds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evalfm.cards import CardModel, Option, read_yaml, validate
from evalfm.config import Baselines, EvaluationOptions, HeadOptions
from evalfm.data.phantom import BUILT_IN
from evalfm.encoder_options import EncoderOptions, Layers
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.paths import user_path
from evalfm.probing.names import name_faults, raise_all
from evalfm.split_options import DataOptions, SubsetOptions
from evalfm.tasks.kinds import KindName
from evalfm.training.recipe import Adaptation

PLAN = "Plan of what is not here"


def named(value: Any) -> Any:
    """A bare word is a mapping with a name alone."""
    return {"name": value} if isinstance(value, str) else value


def several(value: Any) -> Any:
    """One value, null too, is a list of it."""
    return value if isinstance(value, list | tuple) else (value,)


class EncoderEntry(EncoderOptions):
    """An encoder of the grid.

    Attributes:
        name: what ``evalfm probe --encoder`` takes.
        added: whether the caller put it beside the encoders of the study as it is written, which its results say.
    """

    name: str
    added: bool = False


class TaskEntry(HeadOptions):
    """A task of the grid.

    Attributes:
        name: a task card's name or path, or a label column.
        heads: in place of the study's; None takes those.
        data: another data set than the study's, for this task alone; then ``test_where`` is its own too.
        folds: in place of the study's; None takes those.
        limit: at most so many images of this task, however many the study allows.
        base_to_novel: false leaves the study's base-to-novel column out for this task.
    """

    name: str
    data: str | None = None
    test_where: str | None = None
    folds: int | None = Field(None, ge=2)
    limit: int | None = Field(None, ge=1)
    base_to_novel: bool = True

    @model_validator(mode="after")
    def _own_data(self) -> TaskEntry:
        if self.test_where is not None and self.data is None:
            raise ValueError("a task has a test_where of its own only with data of its own")
        return self


class AdaptationEntry(CardModel):
    """What of the encoders is trained.

    Attributes:
        name: the adaptation. recipe: changes of its recipe.
        episodes: of the study's episodes the first so many alone, for each is a training.
        heads: of each task's heads these alone; None takes all of them.
    """

    name: Adaptation
    recipe: dict[str, Any] = Field(default_factory=dict)
    heads: tuple[str, ...] | None = None
    episodes: int | None = Field(None, ge=1)


class SupervisedEntry(EncoderOptions):
    """A network that is no encoder × adaptation of the grid, such as a supervised one.

    Attributes:
        encoder: a name, or an alias such as ``unet-resnet34`` that says head and adaptation too.
        weights: what training starts from, unless it is from scratch.
        resize: as of an encoder; an alias has one of its own.
        head: None takes the alias's, else the task's first.
        adaptation: None takes the alias's, else ``scratch``.
        recipe: changes of the adaptation's recipe.
        tasks: for which tasks of the study; None takes all that the head serves.
    """

    encoder: str
    head: str | None = None
    adaptation: Adaptation | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    tasks: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _weights_are_used(self) -> SupervisedEntry:
        if self.trained == "scratch" and self.weights != "hub":
            raise ValueError(f"{self.encoder} is trained from scratch, so its weights would do nothing; leave them out")
        return self

    @property
    def trained(self) -> Adaptation:
        """The adaptation; without one in the entry, that of a supervised network."""
        return self.adaptation or "scratch"

    def serving(self, tasks: tuple[str, ...]) -> SupervisedEntry:
        """The same for these tasks alone."""
        kept = None if self.tasks is None else tuple(name for name in self.tasks if name in tasks)
        return self.model_copy(update={"tasks": kept})


HeadsByKind = dict[KindName, tuple[str, ...]]


class Study(EvaluationOptions, DataOptions):
    """A grid of probes; what is not listed here is as ``evalfm probe`` takes it.

    Attributes:
        name: in the paths that a study writes, and a column of its results.
        title: what it is about, printed above its table.
        data: folder, registered name or ``phantom``; ``--data`` takes another.
        baselines: here ``all`` unless said otherwise.
        shots, label_fractions, associate: as ``evalfm probe`` takes one of them, each value a column of the grid; null
            is all of train.
        episodes: draw shots and queries so many times; the shots are then those of few-shot episodes.
        base_to_novel: images per class of one more column, where text heads learn on the first half of the classes and
            are tested on both halves.
        encoders, tasks: the grid.
        pooling, layers: as ``evalfm probe`` takes one of them, each value a column of the grid; null is the card's own.
            An encoder that names its own has that alone, and one that has none of a name is left out there.
        heads: a list, or a list for each kind of task; a head that does not serve a task is left out there. Null takes
            each task's own.
        adaptations: what of the encoders is trained.
        supervised: networks beside the grid.
        on_phantom: keys that take another value where the data are a built-in phantom.
    """

    schema_version: Literal[1, 2] = Field(2, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    data: str
    baselines: Baselines = "all"
    base_to_novel: int | None = Field(None, ge=1)
    episodes: int | None = Field(None, ge=1)
    shots: tuple[Annotated[int, Field(ge=1)] | None, ...] = ()
    label_fractions: tuple[Annotated[float, Field(gt=0, le=1)] | None, ...] = ()
    associate: tuple[str, ...] = ()
    encoders: tuple[Annotated[EncoderEntry, BeforeValidator(named)], ...] = ()
    pooling: Annotated[tuple[str | None, ...], BeforeValidator(several), Field(min_length=1)] = (None,)
    layers: Annotated[tuple[Layers | None, ...], BeforeValidator(several), Field(min_length=1)] = (None,)
    tasks: tuple[Annotated[TaskEntry, BeforeValidator(named)], ...] = Field(min_length=1)
    heads: tuple[str, ...] | HeadsByKind | None = None
    adaptations: tuple[Annotated[AdaptationEntry, BeforeValidator(named)], ...] = (AdaptationEntry(name="frozen"),)
    supervised: tuple[SupervisedEntry, ...] = ()
    on_phantom: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _says_schema_1(cls, content: Any) -> Any:
        if isinstance(content, dict) and ("floors" in content or isinstance(content.get("baselines"), (list, tuple))):
            raise ValueError(
                "floors is now baselines (default, none or all), and the list of networks under baselines is now "
                "supervised; write these and schema: 2"
            )
        return content

    @model_validator(mode="after")
    def _changes_fit(self) -> Study:
        unknown = sorted(set(self.on_phantom) - (set(type(self).model_fields) - {"name", "data", "on_phantom"}))
        if unknown:
            raise ValueError(f"on_phantom changes {', '.join(unknown)}, which is no key that it could change")
        named = {task.name for task in self.tasks}
        for network in self.supervised:
            unknown = sorted(set(network.tasks or ()) - named)
            if unknown:
                raise ValueError(f"the supervised {network.encoder} names {', '.join(unknown)}, no task of the study")
        if len({(task.name, task.data) for task in self.tasks}) < len(self.tasks):
            raise ValueError("a task stands twice under tasks, with the same data")
        if self.episodes is None and (self.queries or any(each.episodes for each in self.adaptations)):
            raise ValueError("queries, and episodes of an adaptation, do nothing without episodes of the study")
        if self.episodes and (not self.shots or None in self.shots):
            raise ValueError("episodes go with shots, each a number of images of each class")
        if not (self.encoders and self.adaptations) and not self.supervised:
            raise ValueError("encoders with adaptations, or supervised, need at least one entry")
        return self

    @property
    def subsets(self) -> tuple[SubsetOptions, ...]:
        """What of train is learned from: shots, label fractions, associations and base-to-novel, each once."""
        few = [SubsetOptions(shots=shots, episodes=self.episodes) for shots in self.shots]
        few += [SubsetOptions(label_fraction=None if each in (None, 1.0) else each) for each in self.label_fractions]
        few += [SubsetOptions(associate=each) for each in self.associate]
        if self.base_to_novel is not None:
            few.append(SubsetOptions(shots=self.base_to_novel, base_to_novel=True))
        return tuple(dict.fromkeys(few)) or (SubsetOptions(),)

    def choices_of(self, encoder: EncoderEntry) -> list[EncoderEntry]:
        """``encoder`` with each pooling and layers of the grid, where it names none of its own."""
        poolings = self.pooling if encoder.pooling is None else (encoder.pooling,)
        layers = self.layers if encoder.layers is None else (encoder.layers,)
        return [
            encoder.model_copy(update={"pooling": one, "layers": other}) for one, other in product(poolings, layers)
        ]

    @property
    def named_heads(self) -> list[str]:
        """Every head that the study names anywhere, once."""
        of_study = self.heads.values() if isinstance(self.heads, dict) else [self.heads]
        of_entries = [each.heads for each in self.tasks] + [each.heads for each in self.adaptations]
        of_supervised = [each.head and (each.head,) for each in self.supervised]
        return list(dict.fromkeys(head for heads in (*of_study, *of_entries, *of_supervised) for head in heads or ()))

    def subsets_of(self, task: TaskEntry) -> tuple[SubsetOptions, ...]:
        """Those of ``subsets`` that ``task`` has."""
        return tuple(each for each in self.subsets if task.base_to_novel or not each.base_to_novel)

    def data_of(self, task: TaskEntry) -> tuple[str, str | None]:
        """The data set of ``task`` and which of its patients are put into test."""
        return (self.data, self.test_where) if task.data is None else (task.data, task.test_where)

    def images_of(self, task: TaskEntry) -> dict[str, Any]:
        """Which images ``task`` takes, as options of a probe: data, whose patients are tested, folds and limit."""
        data, test_where = self.data_of(task)
        limits = [each for each in (self.limit, task.limit) if each is not None]
        folds = self.folds if task.folds is None else task.folds
        return {"data": data, "test_where": test_where, "folds": folds, "limit": min(limits, default=None)}

    def changed(self, **changes: Any) -> Study:
        """The same study with other values, checked anew.

        Raises:
            EvalfmError: a value is not valid.
        """
        content = self.model_dump(by_alias=True) | changes
        return validate(Study, content, f"study {self.name}")

    def on(self, data: str | None) -> Study:
        """The study on ``data`` alone, every task once; on the phantom with ``on_phantom`` applied."""
        study = self
        if data is not None:
            tasks = {task.name: task.model_dump() | {"data": None, "test_where": None} for task in study.tasks}
            study = study.changed(data=data, tasks=list(tasks.values()))
        if study.data in BUILT_IN and study.on_phantom:
            study = study.changed(**study.on_phantom)
        return study

    def with_encoders(self, names: Sequence[str], weights: str | None = None) -> Study:
        """The study with further encoders behind its own, and marked as ``added``; names that it has change nothing.

        Args:
            names: as ``evalfm probe --encoder`` takes them.
            weights: the file of the one that is added; None takes those of its card.

        Raises:
            EvalfmError: a file of weights is given and not one encoder is added.

        >>> study = load_study("demo").with_encoders(["squeezenet1-0.caffe", "timm:resnet10t.c3_in1k"])
        >>> [(each.name, each.added) for each in study.encoders][-2:]
        [('squeezenet1-0.caffe', False), ('timm:resnet10t.c3_in1k', True)]
        """
        known = {each.name for each in self.encoders} | {each.encoder for each in self.supervised}
        further = [name for name in dict.fromkeys(names) if name not in known]
        if weights is not None and len(further) != 1:
            raise EvalfmError(
                f"--weights {weights} is the file of one encoder that --encoder adds to the study, and it adds "
                f"{len(further)}; the files of several stand in its YAML."
            )
        entries = [EncoderEntry(name=name, added=True, weights=weights or "hub") for name in further]
        return self.changed(encoders=[each.model_dump() for each in (*self.encoders, *entries)]) if entries else self

    def only(
        self, encoders: tuple[str, ...] = (), tasks: tuple[str, ...] = (), adaptation: tuple[str, ...] = ()
    ) -> Study:
        """The study with these names alone, supervised networks among them; nothing named keeps all.

        Raises:
            EvalfmError: a name is not in the study, or nothing is left.
        """
        supervised = [each.serving(tasks) if tasks else each for each in self.supervised]
        _check_names("encoder", encoders, [each.name for each in self.encoders] + [each.encoder for each in supervised])
        _check_names("task", tasks, [each.name for each in self.tasks])
        _check_names(
            "adaptation", adaptation, [each.name for each in self.adaptations] + [each.trained for each in supervised]
        )
        return self.changed(
            encoders=[each.model_dump() for each in self.encoders if each.name in (encoders or [each.name])],
            tasks=[each.model_dump() for each in self.tasks if each.name in (tasks or [each.name])],
            adaptations=[each.model_dump() for each in self.adaptations if each.name in (adaptation or [each.name])],
            supervised=[
                each.model_dump()
                for each in supervised
                if each.encoder in (encoders or [each.encoder])
                and each.trained in (adaptation or [each.trained])
                and each.tasks != ()
            ],
        )


class Assumed(CardModel):
    """A data set or a machine that is not at hand, for a plan."""

    images: Annotated[
        int | None, Field(ge=10, description="Plan for so many images that are not here, split .7/.1/.2."), Option(PLAN)
    ] = None
    speed: Annotated[
        float | None, Field(ge=0.001, description="Plan for a machine that keeps up so many TFLOP/s."), Option(PLAN)
    ] = None
    decode: Annotated[
        float | None, Field(ge=0, description="Plan with so many ms for one worker to read an image."), Option(PLAN)
    ] = None

    @property
    def decode_seconds(self) -> float | None:
        """Of reading one image by one worker; None tries images of the data, or takes a stated value."""
        return None if self.decode is None else self.decode / 1e3


def check_study_names(study: Study, *, data: bool = True) -> None:
    """Look up encoders, heads, tasks and, if ``data``, data sets, before anything heavy is imported.

    Raises:
        EvalfmError: names all that are unknown.
    """
    raise_all(study_name_faults(study, data=data))


def study_name_faults(study: Study, *, data: bool = True) -> list[EvalfmError]:
    """What ``check_study_names`` refuses, one error a fault."""
    encoders = [each.name for each in study.encoders] + [each.encoder for each in study.supervised]
    faults: list[EvalfmError] = []
    for task in study.tasks:
        faults += task_faults(task.name, study.data_of(task)[0] if data else None, data=data)
    if data and study.test_data is not None:
        faults += task_faults(study.tasks[0].name, study.test_data)
    return name_faults(encoders, heads=study.named_heads, aliases=True, before=faults)


def task_faults(task: str, where: str | None, *, data: bool = True) -> list[EvalfmError]:
    """Why ``task`` does not go with the data set ``where``, as far as names tell; without ``data``, with none."""
    if not data:
        # How many images a label column has only its data tell.
        return name_faults(tasks=[task])
    faults = name_faults(data=[where])
    if faults:
        return [AbsentDataError(str(where)) if isinstance(each, UnknownNameError) else each for each in faults]
    return name_faults(tasks=[task], data=[where])


class AbsentDataError(EvalfmError):
    """A data set that a study names is not here."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no data set {name!r} here; register yours with `evalfm data register DIR --name {name}`,"
            " name its folder with --data DIR, or see the study run with --data phantom."
        )


def _check_names(kind: str, names: tuple[str, ...], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(f"{kind} of the study", name, set(known))


def configs() -> dict[str, Path]:
    """The studies that ship with evalfm, by name: in the wheel, or at the root of a checkout."""
    installed = Path(str(resources.files("evalfm"))) / "_configs"
    folder = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name: str) -> Study:
    """The study ``name``: one that ships with evalfm, or the path of a YAML file.

    Raises:
        EvalfmError: there is none, or it is not valid.

    >>> load_study("demo").name
    'demo'
    """
    if name.endswith((".yaml", ".yml")):
        path = user_path(name, "The study")
    elif name in configs():
        path = configs()[name]
    else:
        raise UnknownNameError("study", name, configs())
    return validate(Study, read_yaml(path), f"study {path.name}")
