"""Few-shot episodes as a user types them: `evalfm probe --episodes` and `evalfm study`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

QUICK = ["--shots", "1,3", "--queries", "3", "--episodes", "5"]


def evalfm(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_a_table_with_baselines_and_cautions(squares: Manifest, tmp_path: Path):
    data = ["--task", "square", "--data", squares.folder, "--out", tmp_path]
    done = evalfm("probe", "--encoder", "hog,constant", *data, *QUICK)
    assert done.exit_code == 0, done.output
    for part in ("square on squares, episodes of 3 queries", "hog (shots=1)", "hog (shots=3)", "prototypes", "overlap"):
        assert part in done.stdout, part
    again = evalfm("probe", "--encoder", "hog", "--head", "linear", "--baselines", "none", *data, *QUICK, "--json")
    (table,) = json.loads(again.stdout)
    assert [(line["head"], len(line["runs"])) for line in table["lines"]] == [("linear", 1)] * 2
    for line in table["lines"]:
        mean = line["metrics"]["macro_auroc"]
        assert f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in done.stdout
        assert f"{line['episode_sd']:.3f}" in done.stdout
    refused = evalfm("compare", tmp_path)
    assert isinstance(refused.exception, EvalfmError)
    assert "share images, so that nothing is tested between them" in str(refused.exception)
    assert evalfm("report", tmp_path, "--out", tmp_path / "r.html").exit_code == 0
    assert "against the shots of each class" in (tmp_path / "r.html").read_text()


def test_several_shots_without_episodes_are_each_a_run(squares: Manifest, tmp_path: Path):
    words = ["--task", "square", "--data", squares.folder, "--out", tmp_path, "--head", "linear", "--baselines", "none"]
    done = evalfm("probe", "--encoder", "hog", *words, "--shots", "2", "--shots", "4,2", "--json")
    assert done.exit_code == 0, done.output
    (table,) = json.loads(done.stdout)
    assert sorted(line["encoder"] for line in table["lines"]) == ["hog (4 train images)", "hog (8 train images)"]


def test_a_study_is_planned_first_and_changed_from_the_command_line(squares: Manifest, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    content: dict[str, Any] = {
        "schema": 2,
        "name": "mine",
        "title": "Squares",
        "data": str(squares.folder),
        "encoders": [{"name": "random:test_resnet", "input_size": 32}, "hog"],
        "tasks": ["square"],
        "shots": [1],
        "episodes": 20,
        "heads": ["linear"],
        "baselines": "none",
        "adaptations": ["frozen", {"name": "full", "episodes": 2, "recipe": {"epochs": 1, "least_steps": 2}}],
    }
    path.write_text(yaml.safe_dump(content))
    planned = evalfm("study", path, *QUICK, "--plan", "--json", "--out", tmp_path / "out")
    assert planned.exit_code == 0, planned.output
    found = json.loads(planned.stdout)
    keys = ("encoder", "adaptation", "shots", "episodes", "queries")
    assert [tuple(each[key] for key in keys) for each in found["cells"]] == [
        ("random:test_resnet", "frozen", 1, 5, 3),
        ("random:test_resnet", "full", 1, 2, 3),
        ("hog", "frozen", 1, 5, 3),
        ("random:test_resnet", "frozen", 3, 5, 3),
        ("random:test_resnet", "full", 3, 2, 3),
        ("hog", "frozen", 3, 5, 3),
    ]
    assert not (tmp_path / "out").exists()
    changed = ["--head", "knn,linear", "--strength", "2", "--where", "sex == 'F'", "-a", "frozen", "--encoder", "hog"]
    done = evalfm("study", path, "--shots", "1", "--queries", "2", *changed, "--json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    records = [json.loads(each.read_text())["config"] for each in sorted((tmp_path / "out").rglob("run.json"))]
    assert [(each["where"], each["episodes"], each["queries"], each["strength"]) for each in records] == [
        ("sex == 'F'", 20, 2, 2.0)
    ] * 2


def test_one_encoder_that_fails_is_status_1(squares: Manifest, tmp_path: Path):
    words = ["--task", "square", "--data", squares.folder, "--out", tmp_path / "out", "--head", "knn", "--baselines"]
    done = evalfm("probe", "--encoder", "rad-dino", "--encoder", "hog", *words, "none", *QUICK)
    assert done.exit_code == 1
    assert "Failed: rad-dino × square, 5 episodes of 1 shot" in done.stderr
    assert "hog" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shots", "few"], "1,2,5, not 'few'"),
        (["--shots", "99"], "99 shots of class"),
        (["--shots", "0"], "shots"),
        (["--shots", "1", "--queries", "1", "--queries", "3"], "--queries takes one value"),
        (["--shots", "1", "--head", "mlp"], "mlp would choose on val"),
    ],
)
def test_a_mistake_is_one_clear_refusal(squares: Manifest, tmp_path: Path, arguments: list[str], said: str):
    usual = ["--encoder", "hog", "--task", "square", "--episodes", "3", "--data", squares.folder]
    done = evalfm("probe", *usual, *arguments, "--out", tmp_path / "out")
    assert isinstance(done.exception, EvalfmError), done.output
    assert said in str(done.exception)
    assert not list((tmp_path / "out").rglob("run.json"))
