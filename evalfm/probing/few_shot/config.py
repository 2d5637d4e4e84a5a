"""Every option of few-shot episodes, stated once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evalfm.cards import CardModel, Option, checked
from evalfm.config import ComputeOptions, EncoderConfig, EncoderOptions, Text
from evalfm.training.recipe import Recipe, recipe_of

Method = Literal["linear", "prototypes", "knn", "zeroshot", "fine-tune"]
ZERO_SHOT: Method = "zeroshot"
FINE_TUNE: Method = "fine-tune"
FINE_TUNED_EPISODES = 5
STRENGTH = 1.0
RECIPE: dict[str, Any] = {"probe_start": False, "epochs": 10, "least_steps": 100}
"""Of ``fine-tune``, in place of that of ``--adaptation full``: a support has no val to choose a probe on."""
DRAW = "Draw and methods"


class EpisodeOptions(CardModel):
    """How episodes are drawn and solved, the same for every encoder and task."""

    methods: Annotated[
        tuple[Method, ...],
        Field(min_length=1, description="How an episode is solved; several likewise."),
        Option(names=("--method",)),
    ] = ("linear", "prototypes", "knn")
    shots: Annotated[
        tuple[int, ...],
        Field(min_length=1, description="Images of each class to learn from, such as 1,2,5; ascending, each once."),
    ] = (1, 2, 5, 10)
    queries: Annotated[int, Field(ge=1, description="Images of each class to score."), Option(DRAW)] = 10
    episodes: Annotated[int, Field(ge=1, description="How many episodes."), Option(DRAW)] = 100
    fine_tune_episodes: Annotated[
        int, Field(ge=1, description="How many of them, the first, are fine-tuned."), Option(DRAW)
    ] = FINE_TUNED_EPISODES
    recipe: Annotated[
        dict[str, Any],
        Field(description="Change the recipe of fine-tune, e.g. epochs=5; repeat for several."),
        Option(DRAW),
    ] = Field(default_factory=dict)
    strength: Annotated[float, Field(gt=0, description="C of the linear probe."), Option(DRAW)] = STRENGTH
    where: Annotated[
        str | None, Field(description="Rows of the cohort, e.g. \"view == 'PA'\"; others are left out."), Option(DRAW)
    ] = None
    seed: Annotated[int, Field(ge=0, description="Of the draw, and of the batches of fine-tune."), Option(DRAW)] = 0

    @model_validator(mode="after")
    def _sensible(self) -> EpisodeOptions:
        if min(self.shots) < 1:
            raise ValueError("shots are 1 or more of each class")
        if list(self.shots) != sorted(set(self.shots)):
            raise ValueError("shots rise, and each number stands once")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("a method stands twice")
        if FINE_TUNE not in self.methods and (self.recipe or self.fine_tune_episodes != FINE_TUNED_EPISODES):
            raise ValueError("recipe and fine_tune_episodes are for the method fine-tune, which is not among them")
        if "linear" not in self.methods and self.strength != STRENGTH:
            raise ValueError("strength is the C of the method linear, which is not among them")
        _ = self.whole_recipe
        return self

    @property
    def whole_recipe(self) -> Recipe:
        """The recipe of ``fine-tune`` with the changes."""
        recipe = recipe_of("full", {**RECIPE, **self.recipe})
        assert recipe is not None
        return recipe

    def episodes_of(self, method: Method) -> int:
        """How many episodes ``method`` solves."""
        return min(self.episodes, self.fine_tune_episodes) if method == FINE_TUNE else self.episodes

    def shots_of(self, method: Method) -> tuple[int, ...]:
        """The numbers of shots of ``method``; what learns nothing has one result."""
        return (0,) if method == ZERO_SHOT else self.shots


class EpisodeConfig(EncoderOptions, ComputeOptions, EpisodeOptions):
    """Episodes of one encoder on one task: all that a call of ``run_episodes`` may say."""

    encoder: str
    task: str
    data: Annotated[
        Text | None, Field(description="Folder or registered name; without it CONFIG's data, or the phantom.")
    ] = None
    prompts: Annotated[
        Text | None,
        Field(description="YAML or JSON of sentences for zeroshot, in place of the task's own."),
        Option(DRAW),
    ] = None
    out: Annotated[Path, Field(description="Where results are written.")] = Path("episodes")
    force: Annotated[bool, Field(description="Compute again what is there already.")] = False

    @model_validator(mode="after")
    def _prompts_are_read(self) -> EpisodeConfig:
        if ZERO_SHOT not in self.methods and self.prompts is not None:
            raise ValueError("prompts are read by the method zeroshot, which is not among them")
        return self

    @classmethod
    def checked(cls, **options: object) -> EpisodeConfig:
        """The configuration of ``options``, or one sentence that names every fault."""
        return checked(cls, options)

    @property
    def encoder_config(self) -> EncoderConfig:
        """How the encoder is loaded and run."""
        names = (*EncoderOptions.model_fields, *ComputeOptions.model_fields)
        return EncoderConfig(**{name: getattr(self, name) for name in names})

    def recorded(self) -> dict[str, Any]:
        """The options as a result records them; no path is in it."""
        content = self.model_dump(mode="json", include=set(EpisodeOptions.model_fields))
        return content | {"prompts": None if self.prompts is None else "file"}
