"""The record of a run, typed: what run.json holds, and how a file of anybody's is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from evalfm.cards import CardModel, Model, in_words
from evalfm.cautions import Caution, with_known_codes
from evalfm.config import EvaluationOptions, HeadOptions, TrainingOptions
from evalfm.encoder_options import EncoderOptions
from evalfm.errors import EvalfmError
from evalfm.features.cost import Cost
from evalfm.features.map_costs import MapCosts
from evalfm.schema_one import migrated
from evalfm.split_options import SplitOptions
from evalfm.statistics.estimate import Estimate
from evalfm.tasks.cohort import Exclusion
from evalfm.tasks.kinds import BASE_TO_NOVEL, EPISODES, KINDS, KindName
from evalfm.training.recipe import Adaptation

SCHEMA = 2
IMPORTED = "imported"
"""Head of a run whose predictions another program made."""
LARGEST = 1e100
"""No figure of a run is larger; sums and squares of what is smaller stay finite."""
MOST_BYTES = 256 << 20
"""Of a record; evalfm writes a few kilobytes, of whole training curves a few megabytes."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What moves the cursor or colours a terminal, line breaks and tabs excepted."""


def _counted(item: Any, name: str) -> Any:
    if not 0 <= getattr(item, name) <= 1 << 40:
        raise ValueError(f"{name} is {getattr(item, name)}, which counts nothing")
    return item


Word = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Metric = Annotated[Estimate, AfterValidator(lambda each: _counted(each, "n"))]
Exclusions = list[Annotated[Exclusion, AfterValidator(lambda each: _counted(each, "images"))]]


class RecordSection(CardModel):
    """A section of a record; of a file, keys that this version does not know are ignored, so that newer ones open."""

    def as_written(self) -> dict[str, Any]:
        """The keys that the file has, as plain values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class WholeSection(RecordSection):
    """A section that holds all of a card or configuration, of which these keys are read."""

    model_config = ConfigDict(extra="allow")


class LoadedEncoder(EncoderOptions, WholeSection):
    """How the encoder was loaded, by what name; ``weights`` are None for a table of features, and never a path."""

    name: str | None = None
    weights: Literal["hub", "random", "file"] | None = None  # type: ignore[assignment]


class RunConfig(EvaluationOptions, TrainingOptions, HeadOptions, SplitOptions, WholeSection):
    """The options of a run, enough to run it again; ``seed`` is the run's own.

    Of imported predictions nobody knows what was trained.
    """

    baseline: bool
    adaptation: Adaptation | Literal["unknown"]  # type: ignore[assignment]
    heads: tuple[str, ...] | None = None
    seed: Count
    encoder: LoadedEncoder = LoadedEncoder()


class WeightsSection(WholeSection):
    """Where an encoder's weights come from; ``none`` for one without any."""

    source: str | None = None


class EncoderSection(WholeSection):
    """The encoder's card."""

    name: Word
    parameters: Annotated[int, Field(ge=0, le=1 << 60)] | None = None
    licence: str = "unknown"
    commercial_use: str | None = None
    gated: bool | None = None
    pooling: str | None = None
    poolings: dict[str, int | None] = Field(default_factory=dict)
    weights: WeightsSection = WeightsSection()
    pretraining_data: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def dimensions(self) -> int | None:
        """Length of the pooled embedding; None where the card does not say."""
        return None if self.pooling is None else self.poolings.get(self.pooling)


class TaskSection(WholeSection):
    """The task's card."""

    name: Word
    title: str
    kind: KindName
    target: Annotated[list[Word], Field(min_length=1)]
    metrics: Annotated[list[Word], Field(min_length=1)]
    subgroups: list[str] = Field(default_factory=list)
    version: int = 1
    measure: str | None = None
    where: str | None = None
    positives_only: bool | None = None
    nsd_tolerance_mm: float | None = None


class HeadSection(RecordSection):
    """The head: its name, its grid, and what of the features it reads."""

    name: Word
    grid: dict[str, Any] = Field(default_factory=dict)
    needs: list[str] = Field(default_factory=list)
    deterministic: bool | None = None


class SplitSize(RecordSection):
    """Size of train, val or test; ``positive_images`` have the finding, or any of several."""

    images: Count
    patients: Count
    positive_images: Count


class SplitSizes(RecordSection):
    """Sizes of the splits, over all folds where there are some."""

    train: SplitSize
    val: SplitSize
    test: SplitSize


class DataSection(RecordSection):
    """The data of a run: sources, classes, folds, and sizes of the splits.

    Attributes:
        pool: training images of the rarest class, from which few-shot subsets were drawn; None for all other runs.
    """

    name: Word
    class_names: list[Word]
    licence: str
    citation: str | None = None
    label_source: dict[str, str]
    patients_known: bool
    test_name: Word
    test_digest: str | None = None
    derived_from: list[str] = Field(default_factory=list)
    folds: Annotated[int, Field(ge=2)] | None
    splits: SplitSizes
    redistributable_images: bool
    pool: Count | None = None

    @property
    def unit(self) -> str:
        """What is resampled: ``patients``, or ``images`` where patients are unknown."""
        return "patients" if self.patients_known else "images"

    @model_validator(mode="after")
    def _sensible(self) -> DataSection:
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names names a class twice")
        if self.folds is not None and self.folds > self.splits.test.images:
            raise ValueError(f"there are {self.folds} folds of {self.splits.test.images} test images")
        return self


class PluggedMetric(RecordSection):
    """What a metric of another package says of itself, so that its figures are read where the package is not.

    Attributes:
        package: with its version. The rest is as in ``evalfm.metrics.metric.Metric``.
    """

    package: str
    unit: str
    better: float | Literal["higher", "lower"] | None
    beside: tuple[str, ...]


class Chosen(RecordSection):
    """What val decided: hyper-parameters, operating thresholds and temperatures by class, and how they were found.

    Attributes:
        path: the score on val of every candidate; ``curve`` that of every epoch.
        folds: the same of each fold, where there are some; then all else is empty.
    """

    head: dict[str, Any] = Field(default_factory=dict)
    thresholds: dict[str, float | None] = Field(default_factory=dict)
    temperatures: dict[str, float | None] = Field(default_factory=dict)
    path: list[Any] = Field(default_factory=list)
    curve: list[Any] = Field(default_factory=list)
    folds: list[Chosen] | None = None

    @property
    def each(self) -> list[Chosen]:
        """One for every fold, or this one alone."""
        return self.folds or [self]


class TemplateResult(RecordSection):
    """The primary metric on test by one template alone."""

    template: str
    estimate: Metric


class Spread(RecordSection):
    """How far the templates lie apart."""

    least: float
    most: float
    sd: float


class PromptSection(WholeSection):
    """The sentences of a head that reads text, and of zero-shot what each template gives alone."""

    source: Any = None
    templates: Any = None
    context: Any = None
    rows: Any = None
    metric: str | None = None
    by_template: list[TemplateResult] = Field(default_factory=list)
    spread: Spread | None = None

    @model_validator(mode="after")
    def _named(self) -> PromptSection:
        if self.spread is not None and self.metric is None:
            raise ValueError("a spread over templates needs the metric that it is of")
        return self


class EpisodeSection(RecordSection):
    """How the episodes of a run were drawn, and how far they lie apart.

    Attributes:
        sd: standard deviation of the metric over the episodes; None for one.
        queries: images of each class that an episode scores. images: that stand in any episode.
        support_from, query_from: from where they were drawn, in words.
    """

    sd: float | None
    queries: Count
    images: Count
    support_from: str
    query_from: str


class RefitSection(RecordSection):
    """Refits of the head on resampled patients of train and val, whose test predictions lie beside the run's.

    Attributes:
        numbers: of the draws; a draw is decided by its number and the patients' ids.
        looked_at: draws that were looked at: those without a class that the run learnt are not used.
        chosen_again: whether every candidate was fitted again in each refit for the drawn val to choose among; else
            the drawn val chose among the run's own, and that one was fitted again. A refit's threshold and
            temperature are always chosen on the drawn val by its own scores.
        learns: False of a head that learns nothing, so that no other training sample would change it.
    """

    numbers: Annotated[list[Annotated[int, Field(ge=0, le=1 << 14)]], Field(max_length=1 << 12)]
    looked_at: Count
    chosen_again: bool = False
    learns: bool = True

    @model_validator(mode="after")
    def _distinct(self) -> RefitSection:
        if len(set(self.numbers)) < len(self.numbers):
            raise ValueError("a draw stands twice among the numbers of refits")
        return self


class ImportedTable(RecordSection):
    """The table that predictions were imported from: its file's name without its folder, and its SHA-256."""

    file: Word
    sha256: Word


class Provenance(RecordSection):
    """Where, when and with what a run was made; no host name, user or path.

    Attributes:
        seconds: that the run took; ``peak_memory_bytes`` of the process so far.
        cost: of one image, of the encoder before any training; None where no encoder ran, as for tables of features,
            and in runs of older versions.
        map_costs: what decided whether feature maps were stored or computed when they were used; None where nothing
            was measured: no maps, few of them, or the way was chosen.
        feature_path: precision, compilation and device class with which the features were computed, in one word.
        batch_size: images per call of the encoder; None where it was not called. Results do not depend on it.
        imported: the table that the predictions came from; None where evalfm made them.
    """

    versions: dict[str, str]
    git_commit: str | None
    device: str
    precision: str
    seconds: float
    peak_memory_bytes: int | None
    weights_digest: str | None
    feature_key: str
    split_hash: str
    synthetic: bool
    random_weights: bool
    cost: Cost | None = None
    map_costs: MapCosts | None = None
    feature_path: str | None = None
    batch_size: int | None = None
    imported: ImportedTable | None = None


class Record(RecordSection):
    """Everything that run.json holds; what is read of it is checked here, for whoever wrote the file.

    Attributes:
        key: hash of all that decides the result.
        encoder: its card, whole.
        cautions: to print with the result.
        config: the settings, enough to run it again.
        task: its card, whole.
        metrics: per metric the estimate on test with interval, n and unit.
        plugged_metrics: those of them that another package brought.
        chosen: what val decided.
        exclusions: how many images were left out of the cohort, by reason.
        prompts: of a head that reads text; None for the others.
        episodes: of few-shot episodes, over which the one metric is a mean; None for all other runs.
        refits: of heads that fit in seconds, or learn nothing; None for all other runs, and those of older versions.
        tables: SHA-256 of the tables that lie beside the predictions, by their file's name; empty of older versions.
    """

    schema_version: Literal[2] = Field(2, alias="schema")
    key: Word
    encoder: EncoderSection
    cautions: list[Caution]
    provenance: Provenance
    config: RunConfig
    task: TaskSection
    head: HeadSection
    data: DataSection
    metrics: dict[Word, Metric] = Field(min_length=1)
    plugged_metrics: dict[Word, PluggedMetric] = Field(default_factory=dict)
    chosen: Chosen
    exclusions: Exclusions
    prompts: PromptSection | None = None
    episodes: EpisodeSection | None = None
    refits: RefitSection | None = None
    tables: dict[Word, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _belong_together(self) -> Record:
        classes, kind, folds = len(self.data.class_names), KINDS[self.task.kind], self.data.folds
        if not kind.fewest <= classes <= kind.most:
            some = "class" if kind.most == 1 else "classes or more"
            raise ValueError(f"a {kind} task has {kind.fewest} {some}, not {classes}")
        if (self.episodes is None) != (self.config.episodes is None):
            raise ValueError("episodes and config.episodes go together")
        if self.chosen.folds is not None and len(self.chosen.folds) != folds:
            raise ValueError(f"chosen has {len(self.chosen.folds)} folds, and data.folds is {folds}")
        return self

    @property
    def kind(self) -> str:
        """The kind of its task; ``episodes`` of few-shot ones, ``base-to-novel`` where classes were tried in halves."""
        if self.episodes is not None:
            return EPISODES.name
        return BASE_TO_NOVEL.name if self.config.base_to_novel else self.task.kind

    @property
    def model_name(self) -> str:
        """Encoder, head and adaptation."""
        return f"{self.encoder.name} · {self.head.name} · {self.config.adaptation}"


def faults_of(error: ValidationError, most: int = 3) -> str:
    """The faults of a model in words, the first few of them."""
    faults = [in_words(each["loc"], each["msg"]) for each in error.errors()]
    return "; ".join(faults[:most]) + (f"; and {len(faults) - most} more" if len(faults) > most else "")


class _NewerError(EvalfmError):
    """A record of a newer schema."""


def read_record(path: Path, model: type[Model], what: str) -> Model:
    """The file at ``path`` as ``model``; letters that would steer a terminal become a replacement character.

    A file of schema 1 is migrated.

    Raises:
        EvalfmError: it cannot be read, is no JSON, is of a newer schema, or does not hold what ``model`` reads.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, too many for a record")
        content = _plain(from_json(path.read_bytes(), allow_inf_nan=False), "")
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is int and schema > SCHEMA:
            raise _NewerError(f"{path} is of schema {schema}, newer than this evalfm reads ({SCHEMA}); upgrade evalfm.")
        if type(schema) is int and schema == 1:
            content = migrated(content)
        return model.model_validate_json(json.dumps(with_known_codes(content)), strict=True, extra="allow")
    except _NewerError:
        raise
    except (OSError, ValueError, EvalfmError) as error:
        fault = faults_of(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        fault = printable(fault[:500]).rstrip(".")
        raise EvalfmError(f"{path} cannot be read as {what} ({fault}); run it again with --force.") from None


def write_record(path: Path, record: BaseModel) -> None:
    """Write ``record`` as JSON to ``path``."""
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def printable(text: str) -> str:
    """``text`` without letters that would steer a terminal.

    >>> printable("a\\x1b[2Jb")
    'a�[2Jb'
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _plain(content: Any, place: str) -> Any:
    """``content`` of a JSON file with printable text.

    Raises:
        ValueError: a number is too large to reckon with.
    """
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, Mapping):
        return {printable(key): _plain(value, f"{place}.{key}") for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value, place) for value in content]
    if isinstance(content, (int, float)) and not (abs(content) < LARGEST and math.isfinite(content)):
        raise ValueError(f"{place.lstrip('.')[:100]} is a number without bounds")
    return content
