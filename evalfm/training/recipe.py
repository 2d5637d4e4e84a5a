"""How an encoder is trained together with a head: every number that decides the result, per adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from evalfm.cards import CardModel, validate
from evalfm.errors import EvalfmError, UnknownNameError

Adaptation = Literal["frozen", "lora", "full", "scratch"]
Trained = Literal["lora", "full", "scratch"]
ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)


class Recipe(CardModel):
    """One way of training an encoder with its head; defaults are those of ``full``.

    Attributes:
        epochs: passes over train, each followed by a validation.
        least_steps: an epoch is as long as it takes for all epochs together to have so many steps.
        batch_size: images a step over all processes and micro-batches together: the effective batch.
        learning_rate: of the encoder's last layer (``layer_decay``), of the LoRA matrices, or of the whole network.
        head_learning_rate: of the head.
        weight_decay: AdamW's; none on biases, norms, class tokens and positions.
        layer_decay: the learning rate of each layer is that of the one above times this (1 = all the same).
        warm_up: share of the steps in which learning rates rise; then they fall to 0 as half a cosine.
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights that val and test see (0 = none); it starts faster:
            min(ema, (1 + step) / (10 + step)).
        patience: stop after so many epochs without a better validation.
        probe_start: start from the head fitted on frozen features (Kumar et al. 2022).
        drop_path: largest rate of stochastic depth, rising linearly with depth.
        label_smoothing: of labels and classes; masks and values have none.
        positive_share: for masks, at least this share of each batch shows a lesion.
        batch_norm: ``held``: running statistics are used and stay as they are, so that training starts where frozen
            features ended; ``batch``: every batch is normalised by itself. LoRA always holds them.
        rank, alpha: of LoRA; the update is scaled by alpha / rank.
        augment: change images (and masks alike) at random while training.
        rotation_degrees, scale, translation: bounds of the affine change: degrees either way, size by a factor of
            1 ± scale, place by a share of the input's side.
        brightness, contrast: bounds of the change of grey values, as shares of the range.
        flip: also mirror left and right; never by default: a mirrored heart is a disease (dextrocardia).
    """

    epochs: int = Field(30, ge=1)
    least_steps: int = Field(300, ge=0)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    head_learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    warm_up: float = Field(0.1, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.99, ge=0, lt=1)
    patience: int = Field(8, ge=1)
    probe_start: bool = True
    drop_path: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    positive_share: float = Field(0.25, ge=0, le=1)
    batch_norm: Literal["held", "batch"] = "held"
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    augment: bool = True
    rotation_degrees: float = Field(10.0, ge=0, le=180)
    scale: float = Field(0.1, ge=0, lt=1)
    translation: float = Field(0.05, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.1, ge=0, lt=1)
    flip: bool = False


RECIPES: dict[Trained, Recipe] = {
    "lora": Recipe(learning_rate=1e-3, weight_decay=0.01, layer_decay=1.0, ema=0.0),
    "full": Recipe(),
    "scratch": Recipe(learning_rate=1e-3, weight_decay=0.01, layer_decay=1.0, probe_start=False, batch_norm="batch"),
}
"""The default recipe of each adaptation; epochs, batches and augmentation are the same for all."""
LORA_ONLY = frozenset({"rank", "alpha"})


def recipe_of(adaptation: str, changes: Mapping[str, object] | None = None) -> Recipe | None:
    """The recipe of ``adaptation`` with ``changes``; None for ``frozen``, which has none.

    Raises:
        EvalfmError: there is no such adaptation or setting, or a value is out of bounds or would do nothing.
    """
    changes = dict(changes or {})
    if adaptation not in ADAPTATIONS:
        raise UnknownNameError("adaptation", adaptation, ADAPTATIONS)
    if adaptation == "frozen":
        if changes:
            raise EvalfmError(
                f"A frozen encoder is not trained, so {', '.join(sorted(changes))} would do nothing; "
                "say --adaptation lora, full or scratch."
            )
        return None
    for name in changes:
        if name not in Recipe.model_fields:
            raise UnknownNameError("setting of a recipe", name, Recipe.model_fields)
    base = RECIPES[adaptation]
    idle = sorted(LORA_ONLY & set(changes)) if adaptation != "lora" else []
    if adaptation == "lora":
        idle = sorted({"layer_decay", "batch_norm"} & set(changes))
    if idle:
        raise EvalfmError(f"{', '.join(idle)} would do nothing with --adaptation {adaptation}; leave it out.")
    return validate(Recipe, {**base.model_dump(), **changes}, "The recipe")


@dataclass(frozen=True)
class EpochPlan:
    """How many epochs of how many steps, of how many images each.

    >>> from evalfm.training.recipe import RECIPES
    >>> EpochPlan.of(RECIPES["full"], images=100)
    EpochPlan(epochs=30, steps=10, batch_size=16)
    """

    epochs: int
    steps: int
    batch_size: int

    @classmethod
    def of(cls, recipe: Recipe, images: int, processes: int = 1) -> EpochPlan:
        """The plan of a training on ``images``, of whose batches every process takes the same number.

        Raises:
            EvalfmError: the batch cannot be shared evenly.
        """
        if recipe.batch_size % processes:
            raise EvalfmError(
                f"A batch of {recipe.batch_size} cannot be shared by {processes} processes; "
                f"say --recipe batch_size={processes * math.ceil(recipe.batch_size / processes)}."
            )
        size = min(recipe.batch_size, max(processes, images // processes * processes))
        steps = max(math.ceil(images / size), math.ceil(recipe.least_steps / recipe.epochs))
        return cls(recipe.epochs, steps, size)

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps

    @property
    def looks(self) -> int:
        """At val: one before the first epoch and one after each."""
        return self.epochs + 1
