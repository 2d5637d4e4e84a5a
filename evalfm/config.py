"""Every option of a probe, stated once: command line, Python call, study, run record and run key derive from it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evalfm.cards import CardModel, Option, checked, option_of
from evalfm.encoder_options import EncoderOptions, in_name
from evalfm.encoders.choice import ATTENTIVE
from evalfm.encoders.reference import find_alias
from evalfm.errors import EvalfmError, shown
from evalfm.split_options import FEW, NOT_IN_KEY, SplitOptions, SubsetOptions, Text
from evalfm.training.recipe import Adaptation, Recipe, recipe_of
from evalfm.workers.devices import name_devices

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Maps = Literal["auto", "store", "stream"]
Executor = Literal["local", "ray"]
Baselines = Literal["default", "none", "all"]
THRESHOLD_RULE = "youden"
REFITS = 20
FEWEST_REFITS = 5
"""With fewer in common there is no variance over refits worth the name."""
EPISODE_HEADS = ("linear", "prototypes", "knn")
EPISODE_RECIPE: dict[str, Any] = {"probe_start": False, "epochs": 10, "least_steps": 100}
"""In place of the recipe of an adaptation: a support has no val to choose a probe on."""
HEADS = "Heads and evaluation"
MOST_SHARDS = 1_000_000
_SHARD = re.compile(r"\s*(?P<number>\d{1,9})\s*/\s*(?P<count>\d{1,9})\s*", re.ASCII)


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


ON_MACHINE = Option("Machine", in_key=False)


@dataclass(frozen=True)
class Shard:
    """One of several parts of the work, for a batch system that runs each somewhere else.

    What belongs to it is decided by a hash of the work's own address: whatever else there is to do, in whatever order
    and on whatever machine, it is in one shard of ``count`` and in no other.

    Attributes:
        number: from 1 to ``count``.
        count: how many shards there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/8``.

        Raises:
            EvalfmError: it is not of this form, or there is no such shard.

        >>> Shard.parse("2/8")
        Shard(number=2, count=8)
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise EvalfmError(f"{shown(text)} is no shard; write K/N, such as --shard 2/8 for the second of eight.")
        number, count = int(match["number"]), int(match["count"])
        if not 1 <= count <= MOST_SHARDS:
            raise EvalfmError(
                f"There are no {count:,} shards; write K/N with N from 1 to {MOST_SHARDS:,}, such as 2/8."
            )
        if not 1 <= number <= count:
            raise EvalfmError(
                f"There is no shard {number} of {count}; shards are counted from 1, so write one from 1/{count} to "
                f"{count}/{count} (an array of a batch system that counts from 0 needs 1 added)."
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def file_name(self, name: str) -> str:
        """The file ``name`` of this shard alone, which several at once never write over each other's.

        >>> Shard(2, 8).file_name("features.parquet")
        'features-2-of-8.parquet'
        """
        stem, _, suffix = name.rpartition(".")
        return f"{stem}-{self.number}-of-{self.count}.{suffix}"

    def holds(self, address: str) -> bool:
        """Whether the work with this address belongs to the shard.

        >>> [number for number in (1, 2, 3) if Shard(number, 3).holds("any address")]
        [3]
        """
        return int.from_bytes(hashlib.sha256(address.encode()).digest()[:16], "big") % self.count == self.number - 1


class HeadOptions(CardModel):
    """What learns on the features."""

    heads: Annotated[
        Annotated[tuple[str, ...], BeforeValidator(_several)] | None,
        Field(description="Head, or several; without it the task's linear and stronger head."),
        Option(names=("--head",), in_key=False),
    ] = None
    prompts: Annotated[
        Text | None,
        Field(description="YAML or JSON of sentences for text heads, in place of the task's own."),
        Option(HEADS, in_key=False),
    ] = None


class TrainingOptions(CardModel):
    """What of the encoder is trained."""

    adaptation: Annotated[
        Adaptation,
        Field(description="What of the encoder is trained: nothing, LoRA, all of it, or all from random weights."),
        Option(names=("--adaptation", "-a"), in_key=False),
    ] = "frozen"
    recipe: Annotated[
        dict[str, Any],
        Field(description="Change the recipe of --adaptation, e.g. epochs=10 or rank=16; repeat for several."),
        Option("Training of the encoder", in_key=False),
    ] = Field(default_factory=dict)


class EvaluationOptions(CardModel):
    """How often a head is trained, how it is scored and what stands beside it."""

    seeds: Annotated[
        int, Field(ge=1, description="Seeds of subset, initialisation and batch order, never of the split."), NOT_IN_KEY
    ] = 1
    threshold: Annotated[
        str,
        Field(
            description="Rule that picks the operating threshold of yes-or-no labels on val: youden, f1, "
            "sensitivity=.9 or specificity=.9."
        ),
        Option(HEADS),
    ] = THRESHOLD_RULE
    strength: Annotated[
        float | None,
        Field(gt=0, description="With --episodes, C of the linear head, which no val can choose there; 1 by default."),
        Option(FEW, in_key=False),
    ] = None
    refits: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Refits of a head that fits in seconds, each on resampled patients of train and val, so that "
            "comparisons count training variance; 0 for none.",
        ),
        Option(HEADS, in_key=False),
    ] = REFITS
    refit_choice: Annotated[
        bool,
        Field(
            description="Fit every C (or k, or penalty) again in each refit for val to choose; else only the one it "
            "chooses among the run's own."
        ),
        Option(HEADS, in_key=False),
    ] = False
    baselines: Annotated[
        Baselines,
        Field(
            description="Constant, metadata and pixels beside the encoder (default), none, or all: random weights too."
        ),
        Option(HEADS, in_key=False),
    ] = "default"


class ComputeOptions(CardModel):
    """With what features are computed; of these, results depend on the precision alone."""

    batch_size: Annotated[int | None, Field(ge=1, description="Images per forward pass."), ON_MACHINE] = None
    workers: Annotated[
        int | None,
        Field(ge=1, description="Processes that decode images; by default one per core, 16 at most."),
        ON_MACHINE,
    ] = None
    devices: Annotated[
        str,
        BeforeValidator(name_devices),
        Field(
            description="auto (a GPU or the processor), all, numbers of GPUs such as 0,1, or cpu,cpu: a process each."
        ),
        ON_MACHINE,
    ] = "auto"
    precision: Annotated[
        Precision,
        Field(
            description="Of the encoder's forward pass; auto is float32, and on GPUs with bfloat16 that for "
            "transformers and float16 for convolutional networks."
        ),
        ON_MACHINE,
    ] = "auto"
    compile: Annotated[
        bool, Field(description="Run the frozen encoder through torch.compile, which pays for many images."), ON_MACHINE
    ] = False


class MachineOptions(ComputeOptions):
    """With what a probe is computed; of these, results depend on the precision alone."""

    executor: Annotated[
        Executor,
        Field(description="Where the processes are: on this machine, or on a Ray cluster (the extra ray)."),
        ON_MACHINE,
    ] = "local"
    address: Annotated[
        str | None,
        Field(description="Of the Ray cluster; by default one that runs here, else a new one on this machine."),
        ON_MACHINE,
    ] = None
    maps: Annotated[
        Maps,
        Field(description="Keep feature maps on disk, or run the encoder in every epoch; auto goes by the budget."),
        ON_MACHINE,
    ] = "auto"
    cache_images: Annotated[
        bool, Field(description="Keep prepared images on disk where the encoder runs in every epoch."), ON_MACHINE
    ] = False
    profile: Annotated[
        bool,
        Field(description="Print seconds per stage at the end; they overlap, docs/performance.md says what each is."),
        ON_MACHINE,
    ] = False


class EncoderConfig(MachineOptions, EncoderOptions):
    """How an encoder is loaded and run."""


class ProbeConfig(EncoderConfig, EvaluationOptions, TrainingOptions, HeadOptions, SplitOptions):
    """One encoder on one task: all that a call of ``probe`` may say, and a cell of a study.

    It is a pure function of its JSON, so that it can be sent to another process or machine. What is implied is written
    out: an alias such as ``unet-resnet34``, pooling and layers in the encoder's name, random weights of ``scratch``.

    >>> ProbeConfig(encoder="unet-resnet34", task="ptx-seg").heads
    ('unet',)
    """

    encoder: Annotated[
        str,
        Field(
            description="A card's name, a library's model (hf:ORG/MODEL, timm:NAME, open_clip:NAME/TAG), card.yaml, "
            "file.py:build or precomputed:FILE; repeat for several, or commas between."
        ),
        Option(several=True, in_key=False),
    ]
    task: Annotated[
        str,
        Field(description="A task's name, task.yaml, or a label column of the data; several likewise."),
        Option(several=True, in_key=False),
    ]
    out: Annotated[Path, Field(description="Where runs are written."), NOT_IN_KEY] = Path("runs")
    force: Annotated[bool, Field(description="Run again what is there already."), NOT_IN_KEY] = False

    @classmethod
    def checked(cls, **options: object) -> ProbeConfig:
        """The configuration of ``options``.

        Raises:
            UnknownNameError: there is no such option.
            EvalfmError: names every option that is not valid.
        """
        return checked(cls, options)

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        alias = find_alias(str(content.get("encoder")))
        if alias is not None:
            adaptation, heads = alias.applied(content.get("adaptation"), content.get("heads"))
            resize = content.get("resize") or alias.resize
            content = {**content, "encoder": alias.encoder, "adaptation": adaptation, "heads": heads, "resize": resize}
        if content.get("pooling") == ATTENTIVE:
            if content.get("heads") and _several(content["heads"]) not in ((ATTENTIVE,), [ATTENTIVE]):
                raise EvalfmError("--pooling attentive stands for --head attentive; leave one of the two out.")
            content = {**content, "heads": (ATTENTIVE,), "pooling": None}
        content = in_name(content)
        if content.get("adaptation") == "scratch":
            if str(content.get("weights", "hub")) not in ("hub", "random"):
                raise EvalfmError(
                    "--adaptation scratch starts from random weights; leave --weights out, or take --adaptation full."
                )
            content = {**content, "weights": "random"}
        return content

    @model_validator(mode="after")
    def _compatible(self) -> ProbeConfig:
        if self.base_to_novel and self.adaptation != "frozen":
            raise ValueError("base_to_novel goes with a frozen encoder; leave adaptation out")
        if self.threshold != THRESHOLD_RULE:
            # Imported where it is needed: help and names come without numpy.
            from evalfm.statistics.classification import choose_threshold

            choose_threshold([0, 1], [0, 1], self.threshold)
        if self.strength and not (self.episodes and self.adaptation == "frozen" and "linear" in self.episode_heads):
            raise ValueError("strength is the C of the head linear in episodes on frozen features; leave it out")
        if 0 < self.refits < FEWEST_REFITS:
            raise ValueError(f"refits below {FEWEST_REFITS} are not counted; take {FEWEST_REFITS} or more, or 0")
        if self.refit_choice and not self.refits:
            raise ValueError("refit_choice is what refits choose; leave it out, or take refits as well")
        if self.episodes and self.threshold != THRESHOLD_RULE:
            raise ValueError("episodes have no val to pick a threshold on; leave threshold out")
        # That of another adaptation, or of none, is refused here.
        _ = self.whole_recipe
        return self

    @property
    def whole_recipe(self) -> Recipe | None:
        """The adaptation's recipe with the changes, of episodes too; None for frozen encoders."""
        usual = EPISODE_RECIPE if self.episodes and self.adaptation != "frozen" else {}
        return recipe_of(self.adaptation, {**usual, **self.recipe})

    @property
    def episode_heads(self) -> tuple[str, ...]:
        """The heads that solve episodes."""
        return self.heads or EPISODE_HEADS

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.encoder} × {self.task}"

    @property
    def case(self) -> str:
        """The same with the subset."""
        return self.label if self.subset == SubsetOptions() else f"{self.label}, {self.subset.label}"

    @property
    def description(self) -> str:
        """The same with heads, adaptation and subset."""
        text = f"{self.label}: {', '.join(self.heads or ())}, {self.adaptation}"
        return text if self.subset == SubsetOptions() else f"{text}, {self.subset.label}"

    @property
    def key(self) -> str:
        """SHA-256 of what is measured, the same in every process and on every machine."""
        elsewhere = {*MachineOptions.model_fields, "out", "force"}
        return hashlib.sha256(self.model_dump_json(exclude=elsewhere).encode()).hexdigest()

    @property
    def portable_key(self) -> str:
        """Like ``key``, but the same wherever the folders lie that are named: of each path the last name counts.

        Two configurations may share it, so it decides who computes what, and never whether two results are one.
        """
        places = ("encoder", "task", "data", "test_data", "weights", "prompts")
        named = {name: text for name in places if (text := getattr(self, name)) is not None}
        return self.model_copy(
            update={name: os.path.basename(os.path.abspath(text)) for name, text in named.items()}
        ).key

    def result_address(self, head: str | None) -> str:
        """What the results of ``head`` are known by within one study, whichever of its cells computes them.

        None stands for the heads of the task, whichever they are.
        """
        heads = None if head is None else (head,)
        return self.model_copy(update={"heads": heads, "baselines": "none", "prompts": None}).key

    @property
    def own_addresses(self) -> frozenset[str]:
        """``result_address`` of all that this cell measures in its own right."""
        return frozenset(self.result_address(head) for head in self.heads or (None,))

    def on(self, machine: MachineOptions, **changes: object) -> ProbeConfig:
        """The same on ``machine``, with ``changes`` of folder and force."""
        content = {name: getattr(machine, name) for name in MachineOptions.model_fields}
        return self.model_copy(update={**content, **changes})

    def recorded(self) -> dict[str, Any]:
        """The options as a run records them, without what the machine and the folders are; no path is in it."""
        left_out = {*EncoderConfig.model_fields, "encoder", "out", "force"}
        content = self.model_dump(mode="json", exclude=left_out)
        return content | {"prompts": None if self.prompts is None else "file"}

    def key_options(self) -> dict[str, Any]:
        """The options that enter the run key as they are: all but those whose ``Option`` says ``in_key=False``.

        Those decide no result, or enter the key by what they came to: the encoder, the images, the recipe.
        """
        fields = type(self).model_fields
        return self.model_dump(mode="json", include={name for name in fields if option_of(fields[name]).in_key})
