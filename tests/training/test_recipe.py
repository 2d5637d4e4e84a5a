from __future__ import annotations

import pytest

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.training.recipe import ADAPTATIONS, RECIPES, EpochPlan, Recipe, recipe_of


def test_frozen_has_no_recipe_and_every_other_adaptation_has():
    assert recipe_of("frozen") is None
    assert set(RECIPES) == set(ADAPTATIONS) - {"frozen"}


def test_budget_and_augmentation_are_the_same_for_every_adaptation():
    shared = ["epochs", "least_steps", "batch_size", "patience", "warm_up", "augment", "rotation_degrees", "scale"]
    shared += ["translation", "brightness", "contrast", "flip", "positive_share", "label_smoothing"]
    for name in shared:
        assert len({getattr(recipe, name) for recipe in RECIPES.values()}) == 1, name


def test_a_heart_is_never_mirrored_by_default():
    assert not any(recipe.flip for recipe in RECIPES.values())


def test_changes_are_read_by_type_and_leave_the_rest():
    recipe = recipe_of("full", {"epochs": "3", "flip": "true", "learning_rate": "2e-5"})
    assert recipe == RECIPES["full"].model_copy(update={"epochs": 3, "flip": True, "learning_rate": 2e-5})


@pytest.mark.parametrize(
    ("adaptation", "changes", "message"),
    [
        ("ful", {}, "'full'"),
        ("full", {"epoch": 3}, "'epochs'"),
        ("frozen", {"epochs": 3}, "would do nothing"),
        ("full", {"rank": 4}, "rank would do nothing"),
        ("scratch", {"alpha": 4}, "alpha would do nothing"),
        ("lora", {"layer_decay": 0.5}, "layer_decay would do nothing"),
        ("lora", {"batch_norm": "batch"}, "batch_norm would do nothing"),
        ("full", {"epochs": 0}, "epochs"),
        ("full", {"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_what_is_refused(adaptation, changes, message):
    with pytest.raises((EvalfmError, UnknownNameError), match=message):
        recipe_of(adaptation, changes)


def test_every_setting_is_documented():
    assert Recipe.__doc__ is not None
    for name in Recipe.model_fields:
        assert name in Recipe.__doc__, name


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
