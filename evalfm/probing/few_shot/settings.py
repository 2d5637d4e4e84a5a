"""What few-shot episodes are asked, as plain values: enough to ask again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from evalfm.cards import CardModel, validate
from evalfm.heads import episodic
from evalfm.heads.text.zeroshot import ZeroShotHead
from evalfm.training.recipe import Recipe, recipe_of

Method = Literal["linear", "prototypes", "knn", "zeroshot", "fine-tune"]
ZERO_SHOT: Method = "zeroshot"
FINE_TUNE: Method = "fine-tune"
DEFAULT_METHODS: tuple[Method, ...] = ("linear", "prototypes", "knn")
DEFAULT_SHOTS = (1, 2, 5, 10)
QUERIES, EPISODES, FINE_TUNED_EPISODES = 10, 100, 5
RECIPE: dict[str, Any] = {"probe_start": False, "epochs": 10, "least_steps": 100}
"""Of ``fine-tune``, in place of that of ``--adaptation full``: a support has no val to choose a probe on."""


class EpisodeSettings(CardModel):
    """One call of ``run_episodes``.

    Attributes:
        task: a task card's name or path, or a label column.
        methods: how an episode is answered.
        shots: images of each class to learn from; ascending, each once.
        queries: images of each class to ask.
        episodes: how many; ``fine_tune_episodes`` of them, the first, are fine-tuned.
        recipe: changes of the fine-tuning's recipe.
        strength: C of the linear probe.
        prompts: a file of sentences for ``zeroshot``, in place of the task's own.
        where: keeps a part of the cohort.
        seed: of the draw, and of the batches of fine-tuning.
    """

    task: str
    methods: tuple[Method, ...] = Field(DEFAULT_METHODS, min_length=1)
    shots: tuple[int, ...] = Field(DEFAULT_SHOTS, min_length=1)
    queries: int = Field(QUERIES, ge=1)
    episodes: int = Field(EPISODES, ge=1)
    fine_tune_episodes: int = Field(FINE_TUNED_EPISODES, ge=1)
    recipe: dict[str, Any] = Field(default_factory=dict)
    strength: float = Field(episodic.STRENGTH, gt=0)
    prompts: str | None = None
    where: str | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sensible(self) -> EpisodeSettings:
        if min(self.shots) < 1:
            raise ValueError("shots are 1 or more of each class")
        if list(self.shots) != sorted(set(self.shots)):
            raise ValueError("shots rise, and each number stands once")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("a method stands twice")
        if FINE_TUNE not in self.methods and (self.recipe or self.fine_tune_episodes != FINE_TUNED_EPISODES):
            raise ValueError("recipe and fine_tune_episodes are for the method fine-tune, which is not asked")
        if "linear" not in self.methods and self.strength != episodic.STRENGTH:
            raise ValueError("strength is the C of the method linear, which is not asked")
        if ZERO_SHOT not in self.methods and self.prompts is not None:
            raise ValueError("prompts are read by the method zeroshot, which is not asked")
        _ = self.whole_recipe
        return self

    @property
    def whole_recipe(self) -> Recipe:
        """The recipe of ``fine-tune`` with the changes."""
        found = recipe_of("full", {**RECIPE, **self.recipe})
        assert found is not None
        return found

    def episodes_of(self, method: Method) -> int:
        """How many episodes ``method`` answers."""
        return min(self.episodes, self.fine_tune_episodes) if method == FINE_TUNE else self.episodes

    def shots_of(self, method: Method) -> tuple[int, ...]:
        """The numbers of shots that ``method`` is asked for; what learns nothing has one answer."""
        return (0,) if method == ZERO_SHOT else self.shots

    def of_method(self, method: Method) -> dict[str, Any]:
        """What decides the answer of ``method``, as plain values."""
        if method == FINE_TUNE:
            return {"head": "linear", "recipe": self.whole_recipe.model_dump(mode="json"), "chosen_on": "support"}
        if method == ZERO_SHOT:
            return dict(ZeroShotHead().grid)
        return episodic.settings_of(method, self.strength)

    @classmethod
    def checked(cls, **values: object) -> EpisodeSettings:
        """The settings of ``values``, or one sentence that names every fault."""
        return validate(cls, values, "The call")
