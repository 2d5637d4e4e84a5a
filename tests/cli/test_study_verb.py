"""`evalfm study` as a user types it: plan, run, resume, a failure, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.study import configs

ASSUMED = ["--images", "200", "--speed", "30"]


def evalfm(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def config(tmp_path: Path, squares: Manifest) -> Path:
    path = tmp_path / "mine.yaml"
    content = {
        "schema": 1,
        "name": "mine",
        "title": "Squares",
        "data": str(squares.folder),
        "encoders": ["pixels", "hog"],
        "tasks": ["square", "size"],
        "heads": {"binary": ["linear"]},
        "label_fractions": [0.5, None],
        "baselines": "none",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_help_has_examples_and_the_options_that_a_plan_takes():
    asked = evalfm("--help")
    assert asked.exit_code == 0
    for part in ("evalfm study demo", "--plan", "--images", "--speed", "failures.json"):
        assert part in asked.stdout


def test_a_plan_writes_nothing(config: Path, tmp_path: Path):
    asked = evalfm(config, "--plan", "--out", tmp_path / "runs")
    assert asked.exit_code == 0, asked.output
    assert "8 cells, 1 seed(s) each" in asked.stdout
    assert not (tmp_path / "runs").exists()
    told = json.loads(evalfm(config, "--plan", "--json").stdout)
    assert told["total"]["cells"] == len(told["cells"]) == 8
    assert told["total"]["seconds"] == pytest.approx(sum(cell["estimate"]["seconds"] for cell in told["cells"]))


def test_it_runs_tells_each_cell_and_goes_on_where_it_stopped(config: Path, tmp_path: Path):
    out = tmp_path / "runs"
    asked = evalfm(config, "--out", out)
    assert asked.exit_code == 0, asked.output
    assert "Plan of mine" in asked.stderr
    assert re.search(r"^8/8 hog · size · ridge · frozen · all of train · mae", asked.stderr, re.MULTILINE)
    assert "trained on 0.5 of the patients" in asked.stdout
    assert "8 runs; table:" in asked.stdout
    assert len(pd.read_parquet(out / "results.parquet")["run"].unique()) == 8
    again = json.loads(evalfm(config, "--out", out, "--json", "--encoder", "hog").stdout)
    assert [(each["shots"], each["label_fraction"]) for each in again["subsets"]] == [(None, 0.5), (None, None)]
    lines = [line for each in again["subsets"] for table in each["tables"] for line in table["lines"]]
    assert {line["encoder"] for line in lines} == {"hog"}
    assert again["failures"] == []


def test_a_failed_cell_is_told_and_the_status_says_so(config: Path, tmp_path: Path):
    content = yaml.safe_load(config.read_text())
    weights = {"name": "resnet50", "weights": str(tmp_path / "nowhere.safetensors"), "input_size": 32}
    config.write_text(yaml.safe_dump({**content, "encoders": [weights, "hog"], "tasks": ["size"]}))
    asked = evalfm(config, "--out", tmp_path / "runs")
    assert asked.exit_code == 1
    assert "warning: " in asked.stderr
    assert "2 cell(s) failed" in asked.stdout
    assert "nowhere.safetensors" in asked.stdout
    assert set(pd.read_parquet(tmp_path / "runs" / "results.parquet")["encoder"]) == {"hog"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demmo"], "demo"),
        (["demo", "--encoder", "pixel"], "pixels"),
        (["demo", "--images", "100"], "--plan"),
        (["demo", "--weights", "mine.safetensors"], "YAML"),
        (["feature-quality"], "evalfm data register DIR --name siim-acr"),
        (["feature-quality", "--plan", *ASSUMED, "--recipe", "epoch=1"], "epoch"),
    ],
)
def test_a_mistake_is_one_clear_refusal(arguments: list[str], said: str, home: Path):
    asked = evalfm(*arguments)
    assert isinstance(asked.exception, EvalfmError)
    assert said in str(asked.exception)


@pytest.mark.parametrize("name", sorted(configs()))
def test_studies_that_ship_can_be_planned(name: str, monkeypatch: pytest.MonkeyPatch):
    """Without the trial of large encoders: one small one stands for all."""
    from evalfm.encoder_options import EncoderOptions
    from evalfm.study import plan

    small = plan.load_for_trial("light-cnn", EncoderOptions(), fetch=False)
    monkeypatch.setattr(plan, "load_for_trial", lambda *_, **__: small)
    asked = evalfm(name, "--plan", "--json", *ASSUMED)
    assert asked.exit_code == 0, asked.output
    told = json.loads(asked.stdout)
    assert all(cell["estimate"] is not None for cell in told["cells"])
    assert told["warnings"] == []
    if name == "feature-quality":
        kinds = {(cell["encoder"], cell["adaptation"]) for cell in told["cells"]}
        assert {("rad-dino", "frozen"), ("rad-dino", "lora"), ("rad-dino", "full")} <= kinds
        assert {("resnet34", "scratch"), ("densenet121", "scratch")} <= kinds
        pneumothorax = [cell for cell in told["cells"] if cell["task"].startswith("ptx")]
        assert {cell["test_where"] for cell in pneumothorax} == {"chest_tube is not None"}
    if name == "vlm-radiology":
        tasks = {"ptx-cls", "ptx-seg", "ptx-size", "cardiomegaly-cls", "heart-seg", "ctr"}
        assert {cell["task"] for cell in told["cells"]} == tasks


def test_random_weights_and_short_recipes_for_a_rehearsal(monkeypatch: pytest.MonkeyPatch):
    from evalfm.encoder_options import EncoderOptions
    from evalfm.study import plan

    small = plan.load_for_trial("light-cnn", EncoderOptions(), fetch=False)
    monkeypatch.setattr(plan, "load_for_trial", lambda *_, **__: small)
    options = [
        "--data",
        "phantom",
        "--limit",
        "60",
        "--weights",
        "random",
        "--recipe",
        "epochs=1",
        "--encoder",
        "resnet50",
    ]
    told = json.loads(evalfm("feature-quality", "--plan", "--json", *ASSUMED, *options).stdout)
    cells = told["cells"]
    assert {cell["weights"] for cell in cells} == {"random"}
    assert {cell["recipe"].get("epochs") for cell in cells if cell["adaptation"] != "frozen"} == {1}
    assert {(cell["data"], cell["test_where"], cell["limit"]) for cell in cells} == {("phantom", None, 60)}


def test_random_weights_are_for_fine_tuned_baselines_too(monkeypatch: pytest.MonkeyPatch):
    from evalfm.encoder_options import EncoderOptions
    from evalfm.study import plan

    small = plan.load_for_trial("light-cnn", EncoderOptions(), fetch=False)
    monkeypatch.setattr(plan, "load_for_trial", lambda *_, **__: small)
    options = ["--data", "phantom", "--weights", "random", "--recipe", "epochs=2"]
    cells = json.loads(evalfm("breast-density", "--plan", "--json", *ASSUMED, *options).stdout)["cells"]
    told = {(cell["encoder"], cell["weights"], cell["recipe"].get("epochs")) for cell in cells}
    assert told == {("chexzero", "random", None), ("convnext-base", "random", 2)}
    (tuned,) = [cell for cell in cells if cell["supervised"]]
    assert tuned["recipe"]["learning_rate"] == 1e-4
    cells = json.loads(evalfm("does-bigger-mean-better", "--plan", "--json", *ASSUMED, *options).stdout)["cells"]
    assert [cell["weights"] for cell in cells if cell["supervised"]] == ["random"], "from scratch as ever"
