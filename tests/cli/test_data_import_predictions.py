"""evalfm data import-predictions on the command line, and the verbs that read what it makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest

from ..squares import make_squares
from .typed import evalfm


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    return make_squares(tmp_path / "squares", patients=120).folder


def test_a_table_becomes_a_run_that_every_verb_reads(folder: Path, tmp_path: Path) -> None:
    data = Manifest.read(folder)
    noise = np.random.default_rng(0).random(len(data))
    data.table[["id"]].assign(p=0.3 * data.table["square"] + 0.7 * noise).to_csv(tmp_path / "p.csv", index=False)
    call = ["data", "import-predictions", "p.csv", "--task=square", f"--data={folder}", "--name=our CNN", "--score=p"]
    shown = evalfm(*call, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "our CNN" in shown.stdout
    assert "Contamination unknown" in shown.stdout
    assert "Next: evalfm compare runs" in shown.stdout
    again = evalfm(*call, "--json", cwd=tmp_path)
    assert "is there already, returned as it is" in again.stderr
    (table,) = json.loads(again.stdout)
    value = table["lines"][0]["metrics"]["auroc"]["value"]
    assert 0.5 < value < 1
    probed = evalfm("probe", "--encoder=pixels", "--task=square", f"--data={folder}", "--head=linear", cwd=tmp_path)
    assert probed.returncode == 0, probed.stderr
    for verb in (
        ["compare", "runs"],
        ["choose", "runs", "--task=square"],
        ["bias", "runs", "--by=sex"],
        ["ls", "runs"],
        ["report", "runs", "--out=page.html"],
        ["show", "run", str(next((tmp_path / "runs" / "our-CNN").rglob("run.json")).parent)],
    ):
        read = evalfm(*verb, cwd=tmp_path)
        assert read.returncode == 0, (verb, read.stderr)
        assert "our CNN" in (read.stdout if verb[0] != "report" else (tmp_path / "page.html").read_text()), verb
    assert "nobody said which data sets our CNN was trained on" in evalfm("compare", "runs", cwd=tmp_path).stdout
    entries = json.loads(evalfm("compare", "runs", "--json", cwd=tmp_path).stdout)[0]["entries"]
    assert next(each for each in entries if each["encoder"] == "our CNN")["estimate"]["value"] == value


def test_a_faulty_table_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    Manifest.read(folder).table[["id", "age"]].head(3).to_csv(tmp_path / "p.csv", index=False)
    call = ["data", "import-predictions", "p.csv", "--task=square", f"--data={folder}", "--name=x", "--score=age"]
    shown = evalfm(*call, cwd=tmp_path)
    assert shown.returncode == 2
    assert "\nError: p.csv has no row for " in shown.stderr
    assert not (tmp_path / "runs").exists()
