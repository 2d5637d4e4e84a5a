"""docs/prompts.md: its files are written and its commands run, in their order, in an empty folder."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.probing import session
from evalfm.run import find_runs
from evalfm.tasks.prompts import Own, PromptCard, prompt_set

PAGE = Path(__file__).parents[1] / "docs/prompts.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    once = functools.cache(session.load_encoder)
    # Drawing 240 million random numbers three times is not what is tested.
    monkeypatch.setattr(session, "load_encoder", once)
    commands = 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "yaml":
            name = re.match(r"# (\S+)\n", text)
            assert name is not None
            (tmp_path / name[1]).write_text(text)
        elif language == "json":
            (tmp_path / "mapping.json").write_text(text)
        for line in text.splitlines() if not language else []:
            commands += 1
            program, *arguments = line.split()
            assert program == "evalfm"
            done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
            assert done.exit_code == 0, f"{line}\n{done.output}"
    assert commands == 4
    runs = [run for run in find_runs(tmp_path / "runs") if run.head == "zeroshot"]
    prompts = {tuple(row["prompts"][0][0] for row in run.record.prompts.rows) for run in runs if run.record.prompts}
    assert prompts == {
        ("no pneumothorax", "pneumothorax"),
        ("a chest X-ray showing a heart of normal size", "a chest X-ray showing an enlarged heart"),
        ("Both lungs are fully expanded.", "Air lies beside the lung."),
    }
    # Random towers: said in the run, and they may rank images either way.
    assert all(run.record.provenance.random_weights for run in runs)
    assert all("Random weights" in " ".join(map(str, run.record.cautions)) for run in runs)
    absent, present = prompt_set("ptx-cls", "binary", ("pneumothorax",), Own(), tmp_path / "mapping.json").rows
    assert present.sentences == tuple(json.loads((tmp_path / "mapping.json").read_text())["pneumothorax"])
    assert absent.sentences == ("Lung markings reach the chest wall.",)


def test_every_key_of_a_card_is_explained() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert listed == {field.alias or name for name, field in PromptCard.model_fields.items()}
