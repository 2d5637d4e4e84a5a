from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.choose import Limits, choose
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.runs import Run
from evalfm.statistics.auroc import auroc

from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(400) < 0.4
CARDS = {
    "large": {"parameters": 300_000_000, "commercial_use": "no", "pooling": "cls", "poolings": {"cls": 1024}},
    "small": {"parameters": 20_000_000, "commercial_use": "yes", "pooling": "cls", "poolings": {"cls": 384}},
    "asked": {"parameters": 80_000_000, "commercial_use": "ask", "pooling": "cls", "poolings": {"cls": 768}},
    "poor": {"parameters": 1_000_000, "commercial_use": "yes", "pooling": "cls", "poolings": {"cls": 64}},
}
STRENGTHS = {"large": 2.0, "small": 1.9, "asked": 1.95, "poor": 0.3}


def runs(out: Path) -> list[Run]:
    made = []
    for seed, (name, strength) in enumerate(STRENGTHS.items()):
        table = binary_table(signal(TARGET, strength, seed), TARGET)
        table["view"] = np.where(np.arange(400) % 3 == 0, "AP", "PA")
        made.append(make_run(out, table, encoder=name, card=CARDS[name]))
    made.append(make_run(out, binary_table(np.full(400, 0.5), TARGET), encoder="constant", floor=True))
    return made


def test_the_smallest_of_those_that_cannot_be_told_apart_comes_first(tmp_path: Path) -> None:
    found = choose(runs(tmp_path), "ptx-cls")
    names = [each.encoder for each in found.candidates]
    assert names == [name for name in ("small", "asked", "large") if name in names]
    assert len(names) >= 2
    assert found.candidates[0].parameters == CARDS[names[0]]["parameters"]
    assert found.candidates[0].dimensions == 384
    reasons = dict(found.excluded)
    assert reasons["poor · linear · frozen"].startswith("significantly below the best (p < .001")
    assert "cannot be told apart on auroc" in found.paragraph
    assert "would have been found with 80 % power" in found.paragraph
    assert "The best floor, constant, reaches 0.500" in found.paragraph


def test_every_limit_excludes_with_its_reason(tmp_path: Path) -> None:
    made = runs(tmp_path)
    light = choose(made, "ptx-cls", Limits(most_parameters=100_000_000))
    assert dict(light.excluded)["large · linear · frozen"] == "300,000,000 parameters, more than 100,000,000"
    sold = choose(made, "ptx-cls", Limits(commercial=True))
    reasons = dict(sold.excluded)
    assert reasons["large · linear · frozen"] == "commercial use is 'no'"
    # What nobody knows is not allowed.
    assert reasons["asked · linear · frozen"] == "commercial use is 'ask'"
    assert [each.encoder for each in sold.candidates] == ["small"]
    assert "small (linear, frozen) is better than every other encoder that was asked" in sold.paragraph
    with pytest.raises(EvalfmError, match=r"No encoder is left for ptx-cls .*trained on 400 images, more than 100"):
        choose(made, "ptx-cls", Limits(most_labels=100))
    assert choose(made, "ptx-cls", Limits(most_labels=400)).candidates


def test_the_worst_stratum_and_doubts_are_told(tmp_path: Path) -> None:
    made = runs(tmp_path)
    found = choose(made, "ptx-cls")
    first = found.candidates[0]
    run = next(run for run in made if run.encoder == first.encoder)
    table = run.predictions()
    areas = {view: auroc(part["target"], part["score_ptx"]) for view, part in table.groupby("view")}
    worst = min(areas, key=lambda view: areas[view])
    assert first.worst == f"view = {worst}: AUROC {areas[worst]:.3f} on {(table['view'] == worst).sum()} images"
    asked = next(each for each in found.candidates if each.encoder == "asked")
    assert asked.flags == ("Read the licence before commercial use.",)


def test_an_encoder_that_is_no_better_than_a_floor_is_said_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(9).random(400)
    made = [
        make_run(tmp_path, binary_table(noise, TARGET), encoder="noise", card=CARDS["small"]),
        make_run(tmp_path, binary_table(np.full(400, 0.5), TARGET), encoder="constant", floor=True),
    ]
    found = choose(made, "ptx-cls")
    assert "noise is not shown to be better than that floor" in found.paragraph
    assert "noise (linear, frozen) is the only encoder that was asked: nothing was compared" in found.paragraph


def test_the_verb(tmp_path: Path) -> None:
    runs(tmp_path)

    def asked(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["choose", str(tmp_path), *map(str, arguments)], env={"COLUMNS": "220"})
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked("--task", "ptx-cls", "--max-params", "100M")
    assert code == 0, said
    assert "out: large · linear · frozen: 300,000,000 parameters" in said
    code, said = asked("--task", "ptx-cls", "--licence", "commercial", "--json")
    assert code == 0
    assert json.loads(said)["candidates"][0]["encoder"] == "small"
    assert "'commercial'" in asked("--task", "ptx-cls", "--licence", "comercial")[1]
    assert "'ptx-cls'" in asked("--task", "ptx-clz")[1]


def test_runs_on_several_data_sets_are_no_choice(tmp_path: Path) -> None:
    made = runs(tmp_path / "one")
    other = make_run(tmp_path / "two", binary_table(signal(TARGET, 1, 0), TARGET), encoder="large", test_name="else")
    with pytest.raises(EvalfmError, match=r"tested on 2 data sets \(else, toy\)"):
        choose([*made, other], "ptx-cls")
