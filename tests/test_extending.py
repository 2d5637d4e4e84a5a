"""docs/extending.md: every file in it is written and every command run, in their order, in an empty folder."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.run import find_runs

PAGE = Path(__file__).parents[1] / "docs/extending.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install(folder: Path) -> None:
    """What `pip install .` would leave: the module on the path and the entry points of pyproject.toml beside it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    place = folder / f"{project['name']}-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    commands = 0
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language:
            name = re.match(r"# (\S+)\n", text)
            assert name is not None, f"a block of {language} names no file"
            (tmp_path / name[1]).write_text(text)
            continue
        for line in text.splitlines():
            commands += 1
            program, *arguments = line.split()
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
            elif program == "pip":
                install(tmp_path)
            else:
                assert program == "evalfm"
                done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
                assert done.exit_code == 0, f"{line}\n{done.output}"
    assert commands == 13
    runs = find_runs(tmp_path / "runs")
    made = {run.encoder for run in runs}
    assert made >= {"my-resnet", "stripes", "precomputed", "hog"}
    assert {run.task for run in runs if run.encoder == "hog"} == {"ptx-men"}
    assert "stripes Estimate(value=0." in capsys.readouterr().out
    # File, object and entry point are one encoder under one name, the file with its digest in the key.
    keys = {run.record.provenance.feature_key for run in runs if run.encoder == "stripes"}
    assert len(keys) == 2
    assert "stripes" in CliRunner().invoke(app, ["ls", "encoders"]).stdout
