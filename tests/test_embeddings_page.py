"""docs/embeddings.md: its files are written and its commands run, in their order, in an empty folder."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.features.embedding_writers import read_facts

PAGE = Path(__file__).parents[1] / "docs/embeddings.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_runs_from_top_to_bottom_and_names_every_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    commands = 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language:
            name = re.match(r"# (\S+)\n", text)
            assert name is not None
            (tmp_path / name[1]).write_text(text)
            continue
        for line in text.splitlines():
            commands += 1
            program, *arguments = line.split()
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
                continue
            assert program == "evalfm"
            done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
            assert done.exit_code == 0, f"{line}\n{done.output}"
    assert commands == 11
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("(60, 576) float32 phantom")
    assert said[1:] == ["torch.Size([20, 64, 10, 10]) 20", "(3, 64, 10, 10)"]
    parts = [pd.read_parquet(f"e-{number}-of-2.parquet") for number in (1, 2)]
    whole = pd.read_parquet("e.parquet")
    assert sorted([*parts[0]["id"], *parts[1]["id"]]) == sorted(whole["id"])
    facts = read_facts(Path("vit.safetensors"))
    assert facts is not None
    table = PAGE.read_text().partition("## What a file says of itself")[2].partition("## Ids")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(facts)
