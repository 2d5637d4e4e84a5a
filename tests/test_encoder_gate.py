"""The example workflow for continuous integration: it parses, and its commands do what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from evalfm.data.manifest import Manifest

from .cli.typed import Shown, evalfm

WORKFLOW = Path(__file__).parents[1] / "examples" / "encoder-gate.yml"
PROBE, ENOUGH, NO_WORSE = ("Probe the checkpoint", "Good enough by itself", "No worse than the last release")


@pytest.fixture(scope="module")
def steps() -> dict[str, str]:
    content = yaml.safe_load(WORKFLOW.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert content[True] == ["push"]
    (job,) = content["jobs"].values()
    return {each["name"]: each["run"] for each in job["steps"] if "run" in each}


def environment() -> set[str]:
    content = yaml.safe_load(WORKFLOW.read_text())
    return set(content["jobs"]["gate"]["env"])


def run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: object) -> Shown:
    assert set(given) <= environment()
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    words = [os.path.expandvars(word) for word in shlex.split(command)]
    assert words[0] == "evalfm"
    assert "$" not in " ".join(words)
    return evalfm(*words[1:], cwd=folder)


def test_its_commands_pass_a_good_encoder_and_stop_a_worse_one(
    steps: dict[str, str], squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"TASK": "square", "DATA": squares.folder, "WEIGHTS": "hub", "RELEASED": "released"}
    good, poor = tmp_path / "good", tmp_path / "poor"
    for folder, encoder in ((good, "pixels"), (poor, "constant")):
        folder.mkdir()
        made = run(steps[PROBE], folder, monkeypatch, ENCODER=encoder, **task)
        assert made.returncode == 0, made.stderr
    assert run(steps[ENOUGH], good, monkeypatch).returncode == 0
    shutil.copytree(good / "runs" / "pixels", good / "released" / "pixels")
    again = run(steps[NO_WORSE], good, monkeypatch)
    assert again.returncode == 0, again.stderr
    assert "is the same run as released" in again.stdout
    failed = run(steps[ENOUGH], poor, monkeypatch)
    assert failed.returncode == 1, failed.stdout
    assert "Gate failed: constant · linear · frozen" in failed.stdout
    shutil.copytree(good / "released", poor / "released")
    worse = run(steps[NO_WORSE], poor, monkeypatch)
    assert worse.returncode == 1, worse.stdout
    assert "not inside the margin 0.05" in worse.stdout


def test_it_installs_what_it_is_told_and_names_no_registry(steps: dict[str, str]) -> None:
    assert steps["Install"] == 'python -m pip install "$EVALFM"'
    assert not re.search(r"https?:|index-url|\.(com|org|io)\b", WORKFLOW.read_text())
