"""A cell is a pure function of its JSON, and asks ``probe`` for all that it says."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from evalfm.probing.probe import probe
from evalfm.study.cell import Cell, Machine, subset_label
from evalfm.study.config import EncoderEntry, Subset

FULL = {
    "study": "s",
    "encoder": EncoderEntry(name="vit-small", weights="w.safetensors", input_size=64, resize="squash"),
    "task": "ptx-cls",
    "heads": ("linear",),
    "adaptation": "lora",
    "recipe": {"rank": 4},
    "data": "films",
    "test_data": "others",
    "where": "sex == 'F'",
    "test_where": "age > 40",
    "folds": 3,
    "limit": 50,
    "shots": 4,
    "label_fraction": 0.5,
    "seeds": 3,
    "baselines": "all",
    "supervised": True,
}
OTHERS = {
    "study": "t",
    "encoder": EncoderEntry(name="vit-small"),
    "task": "ptx-seg",
    "heads": ("linear", "knn"),
    "adaptation": "full",
    "recipe": {"rank": 8},
    "baselines": "none",
    "supervised": False,
    "seeds": 1,
    "data": "x",
    "associate": "chest_tube=0.5",
    "val_shots": 4,
    "base_to_novel": True,
    "threshold": "f1",
    "prompts": "said.json",
}


def test_json_there_and_back():
    cell = Cell(**FULL)
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


def test_the_key_is_the_same_in_another_process():
    cell = Cell(**FULL)
    code = "import sys; from evalfm.study.cell import Cell; print(Cell.model_validate_json(sys.stdin.read()).key)"
    asked = subprocess.run(
        [sys.executable, "-c", code], input=cell.model_dump_json(), capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip() == cell.key


@pytest.mark.parametrize("name", Cell.model_fields)
def test_whatever_changes_in_a_cell_changes_its_key(name: str):
    changed = Cell(
        **{**FULL, name: OTHERS.get(name, None if name not in ("seeds", "data") else {"seeds": 1}.get(name, "x"))}
    )
    assert changed.key != Cell(**FULL).key


def test_everything_is_asked_of_probe_by_a_name_that_it_knows():
    parameters = inspect.signature(probe).parameters
    asked = Cell(**FULL).arguments()
    assert set(asked) <= set(parameters)
    expected = {name: value for name, value in FULL.items() if name in parameters and name not in ("encoder", "heads")}
    assert {name: asked[name] for name in expected} == expected
    assert (asked["encoder"], asked["heads"]) == ("vit-small", ["linear"])
    assert (asked["weights"], asked["input_size"], asked["resize"]) == ("w.safetensors", 64, "squash")


def test_defaults_are_those_of_probe():
    parameters = inspect.signature(probe).parameters
    cell = Cell(study="s", encoder=EncoderEntry(name="hog"), task="ptx-cls", heads=("linear",), data="films")
    assert cell.arguments() == {
        "encoder": "hog",
        "task": "ptx-cls",
        "data": "films",
        "heads": ["linear"],
        "adaptation": "frozen",
        "baselines": "default",
    }
    for name, field in Machine.model_fields.items():
        assert field.default == parameters[name].default, name
    for name in ("folds", "limit", "shots", "label_fraction", "where", "test_where", "test_data", "seeds"):
        assert Cell.model_fields[name].default == parameters[name].default, name


def test_from_scratch_no_weights_are_asked_and_a_frozen_encoder_has_no_processes():
    assert "weights" not in Cell(**{**FULL, "adaptation": "scratch"}).arguments()
    machine = Machine(processes=4, workers=8)
    assert machine.arguments(Cell(**FULL)) == {"processes": 4, "workers": 8}
    assert machine.arguments(Cell(**{**FULL, "adaptation": "frozen"})) == {"workers": 8}


def test_subsets_in_words():
    labels = [
        subset_label(each)
        for each in [Subset(), Subset(shots=4), Subset(label_fraction=0.1), Subset(associate="chest_tube=0.5")]
    ]
    assert labels == ["all of train", "4 shots", "0.1 of the patients", "images with chest_tube=0.5"]
