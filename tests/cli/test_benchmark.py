"""`evalfm benchmark` as a user types it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from evalfm.data.manifest import Manifest
from evalfm.study import benchmark_design as designs
from evalfm.study import trials
from evalfm.study.config import load_study

from ..squares import make_squares
from .typed import Shown, evalfm


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = load_study("benchmark")
    monkeypatch.setattr(designs, "load_study", lambda name: shipped.changed(shots=[4, None], seeds=1, refits=0))
    monkeypatch.setattr(trials, "robustness", partial(trials.robustness, perturbations=["gamma=2"]))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """More of them than elsewhere, so that every fold has enough."""
    return make_squares(tmp_path_factory.mktemp("hundred"), patients=100)


def benchmark(data: Manifest, *arguments: object) -> Shown:
    return evalfm("benchmark", *arguments, "--data", data.folder, "--task", "square", "--folds", "2")


def test_a_plan_says_what_runs_and_writes_nothing(squares: Manifest, tmp_path: Path) -> None:
    shown = benchmark(squares, "hog", "--plan", "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert "Plan of benchmark" in shown.stdout
    assert "Plan of few-labels" in shown.stdout
    assert "then: robustness" in shown.stdout
    assert "left out: counterfactual on squares: squares has no outlines of a chest_tube" in shown.stdout
    assert "together: at most about" in shown.stdout
    assert not (tmp_path / "out").exists()
    told = json.loads(benchmark(squares, "hog", "--plan", "--json").stdout)
    assert [len(part["cells"]) for part in told["parts"]] == [1, 1]
    assert told["then"][0]["on"] == "hog × square on squares"
    assert told["left_out"][0]["what"] == "counterfactual on squares"


def test_it_ends_with_what_the_encoder_is_good_for_and_where_the_page_lies(squares: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = benchmark(squares, "hog", "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "What it is good for, against the baselines" in shown.stdout
    assert "hog · " in shown.stdout
    assert shown.stdout.splitlines()[-1] == f"Page: {out / 'report.html'}"
    assert (out / "report.html").is_file()
    told = json.loads(benchmark(squares, "hog", "--out", out, "--json").stdout)
    assert told == json.loads((out / "benchmark.json").read_text())
    assert [each["task"] for each in told["standings"]] == ["square"]


def test_what_fails_leaves_the_rest_and_the_status_says_so(
    squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(trials, "robustness", fail)
    shown = benchmark(squares, "hog", "--out", tmp_path / "out")
    assert shown.returncode == 1
    assert "Failed: robustness of hog × square on squares: no memory" in shown.stderr
    assert "Page: " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hogg"], "Did you mean 'hog'"),
        (["hog,pixels", "--weights", "mine.pt"], "the file of one encoder, and 2 are named"),
        (["hog", "--data", "nowhere"], "nowhere"),
        (["hog", "--task", "tb-cls"], "squares holds no tuberculosis"),
        (["hog", "--folds", "0"], "folds"),
    ],
)
def test_mistakes_are_a_sentence(squares: Manifest, arguments: list[str], said: str) -> None:
    shown = evalfm("benchmark", *arguments, *([] if "--data" in arguments else ["--data", squares.folder]))
    assert shown.returncode == 2, shown.stdout
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr
