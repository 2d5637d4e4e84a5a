"""What a run's run.json must hold for others to read it, and how a file that anybody may have written is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from evalfm.cards import in_words
from evalfm.errors import EvalfmError
from evalfm.tasks.card import Kind

LARGEST = 1e100
"""No figure of a run is larger; sums and squares of what is smaller stay finite."""
MOST_BYTES = 256 << 20
"""Of a record; evalfm writes a few kilobytes, of whole training curves a few megabytes."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What moves the cursor or colours a terminal, line breaks and tabs aside."""

Word = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Facts = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class _Read(BaseModel):
    """Keys that are read, of their types; others stay, and are looked at by nobody."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Estimate(BaseModel):
    """A metric as ``Estimate.to_json`` gives it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    value: float | None
    low: float | None = None
    high: float | None = None
    percentile: Annotated[list[float] | tuple[float, float], Field(min_length=2, max_length=2)] | None = None
    method: str = ""
    n: Count = 0
    unit: str = "patients"
    reason: str | None = None
    note: str | None = None


class _OfTemplate(_Estimate):
    template: str


class _EncoderConfig(_Read):
    name: str | None = None
    weights: Literal["hub", "random", "file"] | None = None
    input_size: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    resize: str | None = None


class _Config(_Read):
    baseline: bool
    adaptation: Literal["frozen", "lora", "full", "scratch"]
    seed: Count
    data: str | None = None
    test_data: str | None = None
    shots: Count | None = None
    val_shots: Count | None = None
    label_fraction: float | None = None
    limit: Count | None = None
    where: str | None = None
    test_where: str | None = None
    base_to_novel: bool = False
    threshold: str = ""
    associate: str | None = None
    recipe: Facts | None = None
    encoder: _EncoderConfig | None = None

    @model_validator(mode="after")
    def _strength(self) -> _Config:
        if self.associate is not None and not re.fullmatch(r"[^=\s]+\s*=\s*\d{0,9}\.?\d{1,9}", self.associate.strip()):
            raise ValueError(f"associate is {self.associate[:60]!r}, not column=strength")
        return self


class _Encoder(_Read):
    name: Word
    parameters: Annotated[int, Field(ge=0, le=1 << 60)] | None = None
    licence: str | None = None
    commercial_use: str | None = None
    gated: bool | None = None
    pooling: str | None = None
    poolings: dict[str, int | None] | None = None
    weights: Facts | None = None
    pretraining_data: list[Facts] = []


class _Task(_Read):
    name: Word
    title: str
    kind: Kind
    target: Annotated[list[Word], Field(min_length=1)]
    metrics: Annotated[list[Word], Field(min_length=1)]
    subgroups: list[str] = []
    version: int = 1


class _Head(_Read):
    name: Word
    grid: Facts = {}
    needs: list[str] = []


class _Part(_Read):
    images: Count
    patients: Count
    positive_images: Count


class _Parts(_Read):
    train: _Part
    val: _Part
    test: _Part


class _Data(_Read):
    name: Word
    test_name: Word
    licence: str
    citation: str | None = None
    test_digest: str | None = None
    label_source: dict[str, str]
    class_names: list[Word]
    patients_known: bool
    folds: Annotated[int, Field(ge=2)] | None
    parts: _Parts
    redistributable_images: bool

    @model_validator(mode="after")
    def _sensible(self) -> _Data:
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names names a class twice")
        if self.folds is not None and self.folds > self.parts.test.images:
            raise ValueError(f"there are {self.folds} folds of {self.parts.test.images} test images")
        return self


class _Chosen(_Read):
    thresholds: dict[str, float | None] = {}
    temperatures: dict[str, float | None] = {}


class _ChosenByFold(_Chosen):
    folds: list[_Chosen] | None = None


class _Exclusion(_Read):
    reason: str
    images: Count


class _Spread(_Read):
    least: float
    most: float
    sd: float


class _Prompts(_Read):
    metric: str | None = None
    by_template: list[_OfTemplate] = []
    spread: _Spread | None = None

    @model_validator(mode="after")
    def _named(self) -> _Prompts:
        if self.spread is not None and self.metric is None:
            raise ValueError("a spread over templates needs the metric that it is of")
        return self


class _EpisodeConfig(_Read):
    queries: Count
    encoder: _EncoderConfig | None = None


class _EpisodeData(_Read):
    name: Word
    class_names: list[str]


class _Named(_Read):
    name: Word


def _holding(model: type[BaseModel]) -> Callable[[Facts], Facts]:
    """A check that a mapping holds what ``model`` reads; the mapping itself is passed on, whole."""

    def check(content: Facts) -> Facts:
        try:
            model.model_validate(content)
        except ValidationError as error:
            raise ValueError(faults_of(error)) from None
        return content

    return check


Config = Annotated[Facts, AfterValidator(_holding(_Config))]
EncoderFacts = Annotated[Facts, AfterValidator(_holding(_Encoder))]
TaskFacts = Annotated[Facts, AfterValidator(_holding(_Task))]
HeadFacts = Annotated[Facts, AfterValidator(_holding(_Head))]
DataFacts = Annotated[Facts, AfterValidator(_holding(_Data))]
Metric = Annotated[Facts, AfterValidator(_holding(_Estimate))]
Chosen = Annotated[Facts, AfterValidator(_holding(_ChosenByFold))]
ExclusionFacts = Annotated[Facts, AfterValidator(_holding(_Exclusion))]
PromptFacts = Annotated[Facts, AfterValidator(_holding(_Prompts))]
EpisodeConfig = Annotated[Facts, AfterValidator(_holding(_EpisodeConfig))]
EpisodeData = Annotated[Facts, AfterValidator(_holding(_EpisodeData))]
NamedFacts = Annotated[Facts, AfterValidator(_holding(_Named))]


def faults_of(error: ValidationError, most: int = 3) -> str:
    """The faults of a model in words, the first few of them."""
    faults = [in_words(each["loc"], each["msg"]) for each in error.errors()]
    return "; ".join(faults[:most]) + (f"; and {len(faults) - most} more" if len(faults) > most else "")


def read_record(path: Path, model: type[Model], what: str) -> Model:
    """The file at ``path`` as ``model``; letters that would steer a terminal become a replacement character.

    Raises:
        EvalfmError: it cannot be read, is no JSON, or does not hold what ``model`` reads.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, too many for a record")
        content = from_json(path.read_bytes(), allow_inf_nan=False)
        return model.model_validate(_plain(content, ""))
    except (OSError, ValueError) as error:
        told = faults_of(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        told = printable(told[:500]).rstrip(".")
        raise EvalfmError(f"{path} cannot be read as {what} of schema 1 ({told}); run it again with --force.") from None


def printable(text: str) -> str:
    """``text`` without letters that would steer a terminal."""
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
