from __future__ import annotations

import pytest

from evalfm.errors import EvalfmError
from evalfm.training.plan import EpochPlan
from evalfm.training.recipe import RECIPES


@pytest.mark.parametrize(
    ("images", "changes", "plan"),
    [
        (100, {"least_steps": 0}, (30, 7, 16)),
        (100, {}, (30, 10, 16)),
        (5, {"least_steps": 0}, (30, 1, 5)),
        (16, {"epochs": 7, "least_steps": 50}, (7, 8, 16)),
    ],
)
def test_every_image_comes_in_an_epoch_and_all_epochs_have_the_least_steps(images, changes, plan):
    found = EpochPlan.of(RECIPES["full"].model_copy(update=changes), images)
    assert (found.epochs, found.steps, found.batch_size) == plan
    assert found.total == plan[0] * plan[1]
    assert found.looks == plan[0] + 1


def test_processes_take_the_same_number_of_images():
    recipe = RECIPES["full"].model_copy(update={"least_steps": 0})
    assert EpochPlan.of(recipe, 7, processes=2).batch_size == 6
    with pytest.raises(EvalfmError, match="batch of 16 cannot be shared by 3 processes; say --recipe batch_size=18"):
        EpochPlan.of(recipe, 100, processes=3)
