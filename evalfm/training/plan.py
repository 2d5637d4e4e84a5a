"""How long a training is: epochs of steps, each of so many images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalfm.errors import EvalfmError
from evalfm.training.recipe import Recipe


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
