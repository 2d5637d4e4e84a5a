"""docs/extending.md: every file in it is written and every command run, in their order, in a copy of examples/."""

from __future__ import annotations

import re
import runpy
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evalfm
from evalfm.cli.app import app
from evalfm.run import find_runs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/extending.md"
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
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
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
    assert commands == 32
    runs = find_runs(tmp_path / "runs")
    made = {run.encoder for run in runs}
    assert made >= {"my-resnet", "stripes", "precomputed", "hog", "brightness"}
    assert {run.task for run in runs if run.encoder == "hog"} == {"ptx-men", "ptx-cls", "ptx-benefit"}
    assert {(run.encoder, run.task) for run in runs if run.head == "lda"} == {
        ("hog", "ptx-cls"),
        ("stripes", "ptx-men"),
    }
    (run,) = (run for run in runs if (run.encoder, run.head) == ("hog", "lda"))
    (score,) = (name for name in run.predictions().columns if name.startswith("score"))
    again = evalfm.predict(run, "small", out=tmp_path / "predicted").table.set_index("id")[score]
    of_run = run.predictions().set_index("id")[score]
    assert len(of_run) > 40
    assert again[of_run.index].to_numpy() == pytest.approx(of_run.to_numpy(), abs=1e-6)
    assert "stripes Estimate(value=0." in capsys.readouterr().out
    # File, object and entry point are one encoder under one name, the file with its digest in the key.
    keys = {run.record.provenance.feature_key for run in runs if run.encoder == "stripes" and run.head == "linear"}
    assert len(keys) == 2
    benefits = [run for run in runs if run.task == "ptx-benefit" and not run.is_baseline]
    assert {run.head for run in benefits} == {"linear", "knn"}
    assert {run.primary for run in benefits} == {"net-benefit"}
    assert all(run.metrics["net-benefit"].value is not None for run in benefits)
    assert all("net-benefit" not in run.metrics for run in runs if run.task != "ptx-benefit")
    for what, name in (
        ("encoders", "stripes"),
        ("heads", "lda"),
        ("data", "named-files"),
        ("tasks", "ptx-men"),
        ("metrics", "net-benefit"),
    ):
        listed = CliRunner().invoke(app, ["ls", what]).stdout
        assert f"Plugged in: {name}, by evalfm-examples (evalfm_examples" in listed
        assert "Broken" not in listed
