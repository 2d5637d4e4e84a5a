"""One cell of a study: all that a call of ``probe`` is asked, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from evalfm.cards import CardModel
from evalfm.run import content_key
from evalfm.study.config import EncoderEntry, Subset
from evalfm.tasks.metrics.binary import THRESHOLD_RULE
from evalfm.training.recipe import Adaptation


class Cell(CardModel):
    """An encoder × task × adaptation × subset, with the heads that share its work and all its seeds.

    It is a pure function of its JSON (``model_dump_json``, ``model_validate_json``), so that it can be sent to another
    process or machine. Heads on a frozen encoder go together, for they share one pass of the encoder; a trained encoder
    has one head. Seeds stay inside: ``probe`` deals and trains them one after the other.

    Attributes:
        study: name of the study.
        adaptation, recipe: what of the encoder is trained, and changes of its recipe.
        baseline: whether it stands beside the grid.
    """

    study: str
    encoder: EncoderEntry
    task: str
    heads: tuple[str, ...] = Field(min_length=1)
    adaptation: Adaptation = "frozen"
    recipe: dict[str, Any] = Field(default_factory=dict)
    data: str
    test_data: str | None = None
    where: str | None = None
    test_where: str | None = None
    folds: int | None = None
    limit: int | None = None
    shots: int | None = None
    label_fraction: float | None = None
    associate: str | None = None
    val_shots: int | None = None
    base_to_novel: bool = False
    threshold: str = THRESHOLD_RULE
    prompts: str | None = None
    seeds: int = 1
    baselines: Literal["default", "none", "all"] = "default"
    supervised: bool = False

    @property
    def key(self) -> str:
        """SHA-256 of its JSON, the same in every process."""
        return content_key(self.model_dump(mode="json"))

    @property
    def subset(self) -> Subset:
        """What of train is learnt from."""
        return Subset(self.shots, self.label_fraction, self.associate, self.base_to_novel)

    @property
    def label(self) -> str:
        """What a person calls it."""
        heads = ", ".join(self.heads)
        told = f"{self.encoder.name} × {self.task}: {heads}, {self.adaptation}"
        return told if self.subset == Subset() else f"{told}, {subset_label(self.subset)}"

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``probe``, as far as they differ from its defaults."""
        encoder = self.encoder
        asked = {
            "encoder": encoder.name,
            "task": self.task,
            "data": self.data,
            "heads": list(self.heads),
            "adaptation": self.adaptation,
            "baselines": self.baselines,
        }
        optional: Mapping[str, Any] = {
            "test_data": self.test_data,
            # From scratch every weight is drawn, whatever the encoder could start from.
            "weights": encoder.weights if encoder.weights != "hub" and self.adaptation != "scratch" else None,
            "input_size": encoder.input_size,
            "resize": encoder.resize,
            "shots": self.shots,
            "label_fraction": self.label_fraction,
            "associate": self.associate,
            "val_shots": self.val_shots if self.shots is not None else None,
            "base_to_novel": self.base_to_novel or None,
            "threshold": self.threshold if self.threshold != THRESHOLD_RULE else None,
            "prompts": self.prompts,
            "folds": self.folds,
            "seeds": self.seeds if self.seeds > 1 else None,
            "where": self.where,
            "test_where": self.test_where,
            "limit": self.limit,
            "recipe": dict(self.recipe) or None,
        }
        return asked | {name: value for name, value in optional.items() if value is not None}


class Machine(CardModel):
    """With what cells are run; nothing that decides a result but precision.

    The attributes are those of ``evalfm probe``; ``processes`` applies where the encoder is trained.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    maps: Literal["auto", "store", "stream"] = "auto"
    batch_size: int | None = Field(None, ge=1)
    workers: int = Field(2, ge=1)
    processes: int = Field(1, ge=1)
    cache_images: bool = False
    force: bool = False

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """Keyword arguments of ``probe`` for ``cell``, as far as they differ from its defaults."""
        changed = self.model_dump(exclude_defaults=True)
        if cell.adaptation == "frozen":
            changed.pop("processes", None)
        return changed


def subset_label(subset: Subset) -> str:
    """What of train is learnt from, in words."""
    shots, fraction, associate, halves = subset
    if shots is not None:
        return f"{shots} shots of base classes" if halves else f"{shots} shots"
    if associate is not None:
        return f"images with {associate}"
    return "all of train" if fraction is None else f"{fraction:g} of the patients"
