"""`evalfm episodes` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

QUICK = ["--shots", "1,3", "--queries", "3", "--episodes", "5"]


def evalfm(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["episodes", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_table_with_baselines_and_cautions(squares: Manifest, tmp_path: Path):
    data = ["--data", squares.folder, "--out", tmp_path]
    told = evalfm("--encoder", "hog", "--encoder", "constant", "--task", "square", *data, *QUICK)
    assert told.exit_code == 0, told.output
    for part in ("square on squares", "1 shot", "3 shots", "prototypes", "0.500 ± 0.000", "0.5 is chance", "overlap"):
        assert part in told.stdout, part
    again = evalfm("--encoder", "hog", "--task", "square", "--method", "linear", *data, *QUICK, "--json")
    (result,) = json.loads(again.stdout)["results"]
    assert result["method"]["name"] == "linear"
    assert [each["shots"] for each in result["results"]] == [1, 3]
    mean = result["results"][1]["mean"]
    assert f"{mean['value']:.3f} ± {result['results'][1]['sd']:.3f}" in told.stdout
    assert f"[{mean['low']:.3f}, {mean['high']:.3f}]" in told.stdout


def test_a_plan_writes_nothing_and_fine_tuning_is_costed_first(squares: Manifest, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    content = {
        "schema": 1,
        "protocol": "episodes",
        "name": "mine",
        "title": "Squares",
        "data": str(squares.folder),
        "encoders": [{"name": "random:test_resnet", "input_size": 32}, "hog"],
        "tasks": ["square"],
        "methods": ["linear", "fine-tune"],
        "recipe": {"epochs": 1, "least_steps": 2},
        "fine_tune_episodes": 2,
    }
    path.write_text(yaml.safe_dump(content))
    planned = evalfm(path, *QUICK, "--plan", "--json", "--out", tmp_path / "out")
    assert planned.exit_code == 0, planned.output
    told = json.loads(planned.stdout)
    assert [(each["encoder"], each["method"], each["shots"]) for each in told["costs"]] == [
        ("random:test_resnet", "features", None),
        ("random:test_resnet", "fine-tune", 1),
        ("random:test_resnet", "fine-tune", 3),
        ("hog", "features", None),
    ]
    assert told["left_out"] == ["hog by fine-tune: it has no weights to train"]
    assert not (tmp_path / "out").exists()
    one_shot = ["1" if each == "1,3" else each for each in QUICK]
    done = evalfm(path, *one_shot, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "Plan: Squares" in done.stderr
    assert "left out: hog by fine-tune" in done.stderr
    assert "2 or 5 episodes" in " ".join(done.stdout.split()) or "5 or 2 episodes" in " ".join(done.stdout.split())
    part = evalfm(path, *QUICK, "--method", "knn", "--json", "--out", tmp_path / "out")
    assert [each["method"]["name"] for each in json.loads(part.stdout)["results"]] == ["knn", "knn"]
    idle = evalfm(path, *QUICK, "--method", "knn", "--recipe", "epochs=2", "--out", tmp_path / "out")
    assert isinstance(idle.exception, EvalfmError)
    assert "recipe" in str(idle.exception)


def test_one_encoder_that_fails_is_status_1(squares: Manifest, tmp_path: Path):
    data = ["--data", squares.folder, "--out", tmp_path / "out", "--method", "knn"]
    done = evalfm("--encoder", "rad-dino", "--encoder", "hog", "--task", "square", *data, *QUICK)
    assert done.exit_code == 1
    assert "Failed: rad-dino × square" in done.stdout
    assert "hog" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name --encoder and --task"),
        (["data-scarce"], "data-scarcity"),
        (["demo"], "evalfm study demo"),
        (["--encoder", "hog", "--task", "square", "--shots", "few"], "1,2,5, not 'few'"),
        (["--encoder", "hog", "--task", "square", "--shots", "99"], "99 shots of class"),
        (["--encoder", "hog", "--task", "squaer"], "square"),
        (["--encoder", "hogg", "--task", "square"], "hog"),
        (["--encoder", "hog", "--task", "square", "--weights", "random"], "takes no weights"),
        (["--encoder", "hog", "--task", "square", "--queries", "1", "--queries", "3"], "--queries takes one value"),
    ],
)
def test_a_mistake_is_one_clear_refusal(squares: Manifest, tmp_path: Path, arguments: list[str], said: str):
    asked = evalfm(*arguments, "--data", squares.folder, "--out", tmp_path / "out")
    assert isinstance(asked.exception, EvalfmError), asked.output
    assert said in str(asked.exception)
    assert not (tmp_path / "out").exists()
