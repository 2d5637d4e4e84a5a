"""The demo in small: what it writes, that it names the shortcut by what was found, and what a second call does."""

from __future__ import annotations

import json
import os
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

import evalfm.study
from evalfm.cli.app import app
from evalfm.data.phantom import BUILT_IN
from evalfm.probing import cohort
from evalfm.progress import SILENT
from evalfm.study import Study, load_study

IMAGES = 160
TIE = {"pneumothorax": 0.5, "tube_given_pneumothorax": 0.8, "tube_given_none": 0.2}
NO_TIE = TIE | {"tube_given_pneumothorax": 0.4, "tube_given_none": 0.4}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Fewer and smaller radiographs."""
    monkeypatch.setattr(cohort, "PHANTOM_SIZE", 64)
    for name, dials in (("phantom-tied", TIE), ("phantom-untied", NO_TIE)):
        monkeypatch.setitem(BUILT_IN, name, (IMAGES, dials))
    return monkeypatch


def ask_of_tubes(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """The demo's study of pneumothorax alone, of features that hold the tube and, less well, the pneumothorax."""
    table = cohort.built_in_phantom("phantom-tied", SILENT).table
    noise = np.random.default_rng(0).normal(size=(len(table), 2))
    tube, finding = table["chest_tube"] + 0.3 * noise[:, 0], table["pneumothorax"] + 1.5 * noise[:, 1]
    features = {"id": table["id"], "f0": tube, "f1": finding}
    pd.DataFrame(features).to_parquet(folder / "tubes.parquet")
    study = load_study("demo")
    tasks = [task.model_dump() | {"folds": 2} for task in study.tasks if task.name == "ptx-cls"]
    changes = {"supervised": [], "baselines": "none", "refits": 0}
    reduced = study.changed(tasks=tasks, encoders=[f"precomputed:{folder / 'tubes.parquet'}"], **changes)
    patch.setattr(evalfm.study, "load_study", lambda name: {"demo": reduced}[name], raising=False)


def demo(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_the_shortcut_is_named_where_it_was_planted(small: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    ask_of_tubes(small, tmp_path)
    out = tmp_path / "out"
    said = demo("--out", str(out)).stdout
    assert "phantom-tied: A shortcut: where chest_tube and the finding disagree the score follows chest_tube." in said
    assert "phantom-untied: No shortcut was found." in said
    assert "tube in 80 % with and 20 % without pneumothorax" in said.replace("\n", " ")
    lines = said.splitlines()
    assert f"Wrote 2 runs under {out}, the picture {out / 'demo.png'} and the report {out / 'report.html'}" in lines
    assert lines[-1].startswith(f"Next: evalfm counterfactual {out / 'precomputed' / 'ptx-cls'}")
    assert "Phantom data: synthetic radiographs, no figure says anything about patients." in lines
    page = (out / "report.html").read_text()
    assert "precomputed · linear: A shortcut: where chest_tube and the finding disagree" in page
    assert "Synthetic data: these figures say nothing about patients." in page
    assert "on phantom-tied" in page
    # Made again where a run is newer, and not else.
    picture, report = out / "demo.png", out / "report.html"
    for each in (picture, report):
        each.write_bytes(b"as it was")
    found: dict[str, Any] = json.loads(demo("--out", str(out), "--json").stdout)
    assert picture.read_bytes() == report.read_bytes() == b"as it was"
    tied, untied = found["shortcut"]
    assert (tied["data"], untied["data"]) == ("phantom-tied", "phantom-untied")
    assert tied["shortcut"].startswith("A shortcut")
    assert untied["shortcut"] is None
    assert tied["conflicting_pairs"]["high"] < 0.5 < tied["auroc"]["low"]
    assert {table["data"] for table in found["tables"]} == {"phantom-tied", "phantom-untied"}
    assert (found["picture"], found["report"]) == (str(picture), str(report))
    os.utime(report, (1, 1))
    demo("--out", str(out))
    assert report.read_text() == page
    assert picture.read_bytes() == b"as it was"


def test_no_shortcut_is_named_where_none_was_planted(small: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    small.setitem(BUILT_IN, "phantom-tied", (IMAGES, NO_TIE))
    ask_of_tubes(small, tmp_path)
    said = demo("--out", str(tmp_path / "out")).stdout
    assert said.count("No shortcut was found.") == 2
    assert "A shortcut" not in said
    assert "A shortcut" not in (tmp_path / "out" / "report.html").read_text()
    assert "tube in 40 % with and 40 % without pneumothorax" in said.replace("\n", " ")


def test_too_few_patients_are_no_verdict(small: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    small.setitem(BUILT_IN, "phantom-tied", (IMAGES, TIE | {"tube_given_none": 0.02}))
    ask_of_tubes(small, tmp_path)
    found = json.loads(demo("--out", str(tmp_path / "out"), "--json").stdout)["shortcut"][0]
    assert (found["data"], found["shortcut"], found["tested"]) == ("phantom-tied", None, False)
    assert found["verdict"].startswith("Cannot be said for chest_tube = 1")
    said = demo("--out", str(tmp_path / "out")).stdout
    assert "phantom-tied: Cannot be said for chest_tube = 1" in said
    assert "phantom-tied: No shortcut" not in said


@pytest.mark.parametrize("screen", [False, True])
def test_a_browser_is_opened_where_there_is_a_screen_alone(
    small: pytest.MonkeyPatch, tmp_path: Path, screen: bool
) -> None:
    from evalfm.cli import demo as verb
    from evalfm.cli.console import Bars

    asked: list[str] = []
    small.setattr(webbrowser, "open", lambda address: asked.append(address) is None)
    small.setattr("sys.platform", "linux")
    small.delenv("WAYLAND_DISPLAY", raising=False)
    small.setenv("DISPLAY", ":0") if screen else small.delenv("DISPLAY", raising=False)
    page = tmp_path / "a page.html"
    verb.show_page(page, Bars())
    assert asked == ([page.as_uri()] if screen else [])


def test_the_study_that_ships_asks_what_the_demo_shows() -> None:
    study = load_study("demo")
    assert isinstance(study, Study)
    assert [each.name for each in study.encoders] == ["squeezenet1-0.caffe"]
    assert study.baselines == "all"
    asked = [study.images_of(task)["data"] for task in study.tasks if task.name == "ptx-cls"]
    assert sorted(asked) == ["phantom-tied", "phantom-untied"]
    assert not {study.images_of(task)["data"] for task in study.tasks} - set(BUILT_IN)
