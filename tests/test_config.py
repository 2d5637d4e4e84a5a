"""Options: stated once, the same in every place that derives from them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from evalfm.cards import takes
from evalfm.config import MachineOptions, ProbeConfig
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.probe import probe

FULL: dict[str, Any] = {
    "encoder": "vit-small",
    "task": "ptx-cls",
    "weights": "w.safetensors",
    "input_size": 64,
    "resize": "squash",
    "heads": ("linear",),
    "adaptation": "lora",
    "recipe": {"rank": 4},
    "data": "films",
    "test_data": "others",
    "where": "sex == 'F'",
    "test_where": "age > 40",
    "limit": 50,
    "shots": 4,
    "seeds": 3,
    "baselines": "all",
}
OTHER: dict[str, Any] = {
    "encoder": "resnet50",
    "task": "ptx-seg",
    "weights": "hub",
    "input_size": 32,
    "resize": "letterbox",
    "heads": ("knn",),
    "adaptation": "full",
    "recipe": {"rank": 8},
    "baselines": "none",
    "data": "x",
    "associate": "chest_tube=0.5",
    "val_shots": 4,
    "base_to_novel": True,
    "threshold": "f1",
    "prompts": "said.json",
    "folds": 3,
    "label_fraction": 0.5,
    "seeds": 1,
    "test_data": None,
    "where": None,
    "test_where": None,
    "limit": None,
    "shots": None,
    "episodes": 5,
    "queries": 4,
    "strength": 2.0,
}
"""Another value of every option that a cell may have."""
HOW = {*MachineOptions.model_fields, "out", "force"}
"""With what a cell is computed and where it is written."""


def test_json_there_and_back() -> None:
    cell = ProbeConfig(**FULL)
    assert ProbeConfig.model_validate_json(cell.model_dump_json()) == cell


def test_the_key_is_the_same_in_another_process() -> None:
    cell = ProbeConfig(**FULL)
    code = "import sys; from evalfm.config import ProbeConfig as C; print(C.model_validate_json(sys.stdin.read()).key)"
    other = subprocess.run(
        [sys.executable, "-c", code], input=cell.model_dump_json(), capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == cell.key


@pytest.mark.parametrize("name", ProbeConfig.model_fields)
def test_whatever_is_measured_changes_the_key_of_a_cell(name: str) -> None:
    cell = ProbeConfig(**FULL)
    value = {"workers": 9, "processes": 2, "maps": "store", "batch_size": 3, "device": "cpu", "precision": "float16"}
    changed = cell.model_copy(update={name: OTHER.get(name, value.get(name, "x"))})
    assert getattr(changed, name) != getattr(cell, name)
    assert (changed.key == cell.key) == (name in HOW)


def test_a_function_shows_every_option_with_its_default() -> None:
    parameters = inspect.signature(probe).parameters
    for name, field in ProbeConfig.model_fields.items():
        if name not in ("encoder", "task"):
            assert parameters[name].default == field.get_default(call_default_factory=True), name
    assert f"shots: {ProbeConfig.model_fields['shots'].description}" in str(probe.__doc__)
    assert "options" not in parameters


def test_a_parameter_of_the_functions_own_stands_as_it_is() -> None:
    @takes(MachineOptions)
    def measure(one: int, *, device: int = 3, **options: object) -> None:
        """Measure."""

    assert inspect.signature(measure).parameters["device"].default == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fold": 3}, r"There is no option 'fold'. Did you mean 'folds'\?"),
        ({"shots": 0}, r"The call is not valid: shots: Input should be greater than or equal to 1\."),
        ({"folds": 3, "test_where": "age > 1"}, "folds test every image once"),
        ({"shots": 3, "label_fraction": 0.5}, "give one"),
        ({"val_shots": 3}, "val_shots goes with shots"),
        ({"queries": 3}, "add episodes"),
        ({"episodes": 3, "shots": 1, "folds": 2}, "train and test of one split, without folds"),
        ({"episodes": 3, "shots": 1, "threshold": "f1"}, "no val to pick a threshold"),
        ({"strength": 2.0, "shots": 1}, "in episodes on frozen features"),
        ({"associate": "sex"}, "write column=strength"),
        ({"base_to_novel": True, "folds": 3}, "base_to_novel goes with one split"),
        ({"base_to_novel": True, "adaptation": "lora"}, "base_to_novel goes with a frozen encoder"),
        ({"threshold": "best"}, "unknown threshold rule 'best'"),
        ({"devices": "gpu"}, "'gpu' is no device; write auto, all, cpu, or numbers of GPUs such as 0,1"),
        ({"executor": "slurm"}, "'local' or 'ray'"),
        ({"adaptation": "scratch", "weights": "w.pt"}, "leave --weights out"),
        ({"recipe": {"epochs": 3}}, "would do nothing"),
    ],
    ids=str,
)
def test_what_is_not_valid_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        ProbeConfig.checked(encoder="hog", task="ptx-cls", **options)


def test_an_unknown_option_of_a_call_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'shots'"):
        probe("hog", "ptx-cls", shot=3)


def test_from_scratch_weights_are_drawn_and_an_alias_is_written_out() -> None:
    assert ProbeConfig(**{**FULL, "adaptation": "scratch", "recipe": {}, "weights": "hub"}).weights == "random"
    unet = ProbeConfig(encoder="unet-resnet34", task="ptx-seg")
    assert (unet.encoder, unet.heads, unet.adaptation) == ("resnet34", ("unet",), "scratch")
    assert (unet.weights, unet.resize) == ("random", "squash")
    assert ProbeConfig(encoder="unet-resnet34", task="ptx-seg", resize="letterbox").resize == "letterbox"
    with pytest.raises(EvalfmError, match="stands for --encoder resnet34 --head unet"):
        ProbeConfig(encoder="unet-resnet34", task="ptx-seg", heads="linear")


def test_a_machine_changes_how_a_cell_is_computed_and_not_which_it_is() -> None:
    machine = MachineOptions(devices="0,1", workers=8)
    trained = ProbeConfig(**FULL)
    assert (trained.on(machine).devices, trained.on(machine).workers) == ("cuda:0,cuda:1", 8)
    assert trained.on(machine, out="x").key == trained.key


def test_no_path_is_in_what_a_run_records() -> None:
    config = ProbeConfig(
        **{**FULL, "prompts": "/home/anna/said.json", "out": "/home/anna/runs", "weights": "/home/anna/w"}
    )
    assert "anna" not in str(config.recorded())


def test_the_recipe_of_episodes_is_their_own_and_can_be_changed() -> None:
    few = ProbeConfig(encoder="hog", task="ptx-cls", adaptation="full", shots=1, episodes=2, recipe={"epochs": 3})
    assert few.whole_recipe is not None
    assert (few.whole_recipe.probe_start, few.whole_recipe.epochs, few.whole_recipe.least_steps) == (False, 3, 100)
    plain = ProbeConfig(encoder="hog", task="ptx-cls", adaptation="full", shots=1)
    assert plain.whole_recipe is not None
    assert (plain.whole_recipe.probe_start, plain.whole_recipe.epochs) == (True, 30)
    assert ProbeConfig(encoder="hog", task="ptx-cls", shots=1, episodes=2).whole_recipe is None
