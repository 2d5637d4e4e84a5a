"""`evalfm probe --head zeroshot` as a user types it: operating points side by side, and which sentences are taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.run import find_runs

from .. import readers

CARD = """
schema: 1
name: mine
templates: ["{}", "grey {}"]
classes: {square: {names: [bright]}}
absent: {square: {names: [dark]}}
"""


def evalfm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "220"})


def unfolded(printed: str) -> list[list[str]]:
    """The rows of a printed table, cells that were folded put together."""
    rows: list[list[str]] = []
    for line in (line for line in printed.splitlines() if line.startswith("│")):
        cells = [cell.strip() for cell in line.strip().strip("│").split("│")]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{before} {after}".strip() for before, after in zip(rows[-1], cells, strict=True)]
    return rows


@pytest.fixture(scope="module")
def asked(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("zeroshot")
    (folder / "card.yaml").write_text(CARD)
    encoder = f"{Path(readers.__file__)}:build"
    call: list[object] = ["probe", "--encoder", encoder, "--task", "square", "--data", squares.folder]
    return [*call, "--head", "zeroshot", "--prompts", folder / "card.yaml", "--out", folder / "runs"]


def test_default_and_calibrated_stand_side_by_side_with_the_constant_answer(asked: list[object]):
    told = evalfm(*asked, "--threshold", "f1")
    assert told.exit_code == 0, told.output
    run = next(each for each in find_runs(Path(str(asked[-1]))) if each.head == "zeroshot")
    after = told.stdout[told.stdout.index(": default and calibrated") :]
    lines = {cells[2]: cells for cells in unfolded(after)}
    chosen = next(words for words in lines if words.startswith("f1 on val, "))
    assert "temperature" in chosen
    for words, name in (
        ("default, .5", "f1_default"),
        (chosen, "f1"),
        ("every image called positive", "f1_all_positive"),
    ):
        value = run.metrics[name].value
        assert value is not None
        assert lines[words][3].startswith(f"{value:.3f}")
    # AUROC is the last column: the same before and after, and none for a constant answer.
    assert lines["default, .5"][-1] == lines[chosen][-1] != "–"
    assert lines["every image called positive"][-1] == "–"
    assert "AUROC is moved by neither" in after
    assert "auroc by each template alone" in after


def test_json_holds_the_points_too(asked: list[object]):
    (table,) = json.loads(evalfm(*asked, "--threshold", "f1", "--json").stdout)
    default, chosen, constant = table["operating_points"][-3:]
    assert (default["threshold"], constant["encoder"]) == ("default, .5", "constant")
    assert default["auroc"] == chosen["auroc"]
    assert default["f1"] != chosen["f1"]
    (plain,) = json.loads(evalfm(*asked[:5], *asked[5:7], "--head", "linear", "--out", asked[-1], "--json").stdout)
    assert plain["operating_points"] == []


def test_heads_list_the_one_that_reads_text():
    told = evalfm("ls", "heads")
    (line,) = [line for line in told.stdout.splitlines() if "zeroshot" in line]
    assert "text" in line


@pytest.mark.parametrize(
    ("head", "words"), [("linear", "read by text heads alone"), ("zeroshot", "reads names and templates")]
)
def test_sentences_that_nobody_would_read_are_refused(asked: list[object], tmp_path: Path, head: str, words: str):
    (tmp_path / "mine.json").write_text(json.dumps({"square": ["It is bright."]}))
    told = evalfm(*asked[:7], "--head", head, "--prompts", tmp_path / "mine.json", "--out", tmp_path / "runs")
    assert isinstance(told.exception, EvalfmError)
    assert words in str(told.exception)
    assert not (tmp_path / "runs").exists()
