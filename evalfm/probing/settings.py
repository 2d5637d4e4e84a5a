"""What a probe is asked to do, as plain values: enough to ask again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from evalfm.cards import CardModel, validate
from evalfm.probing.associating import Association
from evalfm.statistics.classification import choose_threshold
from evalfm.tasks.metrics.binary import THRESHOLD_RULE
from evalfm.training.recipe import Adaptation, Recipe, recipe_of

Baselines = Literal["default", "none", "all"]


class Settings(CardModel):
    """One call of ``probe``.

    Attributes:
        task: a task card's name or path, or a label column.
        data: folder, registered name or ``phantom``; None takes the task's registered set, else the phantom.
        test_data: another data set whose every image is a test image.
        heads: names of heads; None takes the task's linear and stronger head.
        shots: training images per class, from nested subsets.
        val_shots: with shots, at most so many val images of each class, never more than shots; None keeps val whole.
        base_to_novel: text heads learn on the first half of the classes and are tried on both halves.
        label_fraction: fraction of the training patients, from nested subsets.
        associate: training images in which an attribute goes with the label, ``chest_tube=0.5``, tested where it
            does not.
        folds: out-of-fold predictions by patient, each image tested once.
        seeds: how many seeds of the subset, initialisation and batch order (never of the split).
        where: keeps a part of the cohort; test_where deals the patients of matching images to test.
        limit: at most so many images, drawn evenly over splits and classes.
        adaptation: what of the encoder is trained: ``frozen``, ``lora``, ``full``, or ``scratch`` (all of it,
            from random weights).
        recipe: changes of the adaptation's recipe, such as ``{"epochs": 10}``.
        baselines: ``default`` adds what knows nothing, ``all`` adds random weights of the same architecture too.
        threshold: how val chooses the operating point of a yes-or-no label: ``youden``, ``f1``, ``sensitivity=.9`` or
            ``specificity=.9``.
        prompts: a file of sentences for text heads, in place of the task's own.
    """

    task: str
    data: str | None = None
    test_data: str | None = None
    heads: tuple[str, ...] | None = None
    shots: int | None = Field(None, ge=1)
    val_shots: int | None = Field(None, ge=1)
    base_to_novel: bool = False
    label_fraction: float | None = Field(None, gt=0, le=1)
    associate: str | None = None
    folds: int | None = Field(None, ge=2)
    seeds: int = Field(1, ge=1)
    where: str | None = None
    test_where: str | None = None
    limit: int | None = Field(None, ge=1)
    adaptation: Adaptation = "frozen"
    recipe: dict[str, Any] = Field(default_factory=dict)
    baselines: Baselines = "default"
    threshold: str = THRESHOLD_RULE
    prompts: str | None = None

    @model_validator(mode="after")
    def _compatible(self) -> Settings:
        if self.folds and (self.test_where or self.test_data):
            raise ValueError("folds test every image once, so they do not go with test_where or test_data")
        if self.shots and self.label_fraction:
            raise ValueError("shots and label_fraction both choose the training images; give one")
        if self.base_to_novel and (self.folds or self.test_data or self.associate or self.adaptation != "frozen"):
            raise ValueError(
                "base_to_novel goes with a frozen encoder and one split, without folds, test_data and associate"
            )
        if self.val_shots and not self.shots:
            raise ValueError("val_shots goes with shots; without them val stays whole")
        if self.associate is not None:
            if self.shots or self.label_fraction:
                raise ValueError("associate chooses the training images, as shots and label_fraction do; give one")
            if self.test_data:
                raise ValueError("associate tests on images of the same data; leave test_data out")
            Association.parse(self.associate)
        recipe_of(self.adaptation, self.recipe)
        choose_threshold([0, 1], [0, 1], self.threshold)
        return self

    @property
    def whole_recipe(self) -> Recipe | None:
        """The adaptation's recipe with the changes; None for frozen encoders."""
        return recipe_of(self.adaptation, self.recipe)

    @classmethod
    def checked(cls, **values: object) -> Settings:
        """The settings of ``values``, or one sentence that names every fault."""
        return validate(cls, values, "The call")

    @property
    def draws_subsets(self) -> bool:
        """True where a seed draws other training images, so that even a deterministic head differs."""
        return any(each is not None for each in (self.shots, self.label_fraction, self.associate))

    def subset(self) -> dict[str, object]:
        """What decides which rows are trained on and tested, for the run key."""
        named = {"shots", "label_fraction", "folds", "where", "test_where", "limit"}
        named |= {name for name in ("associate", "val_shots", "base_to_novel") if getattr(self, name)}
        # Only where it is asked, so that the keys of older runs stay.
        named |= {"threshold"} if self.threshold != THRESHOLD_RULE else set()
        return self.model_dump(include=named)


class EncoderSettings(CardModel):
    """How an encoder is loaded and run.

    Attributes:
        name: a card's name, a path of a card or ``file.py:build``, a baseline, or ``precomputed:FILE``.
        weights: ``hub``, ``random`` or the path of a checkpoint.
        input_size, resize: override the card, recorded and part of the feature key.
        device, precision: ``auto`` takes the GPU with bfloat16 where there is one, else the CPU with float32.
        workers: threads that decode images.
        processes: how many train together, where the encoder is trained.
        cache_images: keep prepared films on disk, so that streamed maps decode each film once.
        maps: keep maps on disk (``store``), run the encoder in every epoch (``stream``), or decide by the budget.
    """

    name: str
    weights: str = "hub"
    input_size: int | None = Field(None, ge=8)
    resize: Literal["squash", "shortest-edge-crop", "letterbox"] | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    maps: Literal["auto", "store", "stream"] = "auto"
    batch_size: int | None = Field(None, ge=1)
    workers: int = Field(2, ge=1)
    processes: int = Field(1, ge=1)
    cache_images: bool = False

    @classmethod
    def checked(cls, **values: object) -> EncoderSettings:
        """The settings of ``values``, or one sentence that names every fault."""
        return validate(cls, values, "The call")
