"""Runs as one file: whole, the same bytes each time, and with digests that tell a change."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.archive import DIGESTS, write_archive
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.run import ENCODER, Run, find_runs
from tests.analysis.made import binary_table, make_run


@pytest.fixture
def made(tmp_path: Path) -> list[Run]:
    generator, target = np.random.default_rng(0), np.arange(60) % 2
    tables = [binary_table(generator.uniform(0.1, 0.9, 60), target) for _ in range(2)]
    return [make_run(tmp_path / "runs", table, encoder=name) for table, name in zip(tables, "ab", strict=True)]


def test_what_is_unpacked_are_the_runs_and_their_digests(made: list[Run], tmp_path: Path) -> None:
    (made[0].folder / ENCODER).write_bytes(b"weights")
    count = write_archive(made, tmp_path / "a.zip", {"results.csv": b"x"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "un")
        names = archive.namelist()
    assert len(names) == count
    assert not any(ENCODER in name for name in names)
    sums = dict(reversed(line.split("  ")) for line in (tmp_path / "un" / DIGESTS).read_text().splitlines())
    assert set(sums) == set(names) - {DIGESTS}
    assert all(hashlib.sha256((tmp_path / "un" / name).read_bytes()).hexdigest() == sums[name] for name in sums)
    found = {run.encoder: run for run in find_runs(tmp_path / "un" / "runs")}
    for run in made:
        assert found[run.encoder].record == run.record
        assert found[run.encoder].predictions().equals(run.predictions())


def test_the_same_runs_are_the_same_bytes(made: list[Run], tmp_path: Path) -> None:
    write_archive(made, tmp_path / "a.zip", {})
    write_archive(made[::-1], tmp_path / "b.zip", {})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nothing_is_written_over(made: list[Run], tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"mine")
    for name in ("a.zip", "a.tar"):
        words = ["export", str(tmp_path / "runs"), "--out", str(tmp_path / "paper"), "--archive", str(tmp_path / name)]
        assert isinstance(CliRunner().invoke(app, words).exception, EvalfmError)
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
    assert not (tmp_path / "paper").exists()


def test_the_verb_puts_results_beside_the_runs(made: list[Run], tmp_path: Path) -> None:
    words = ["export", str(tmp_path / "runs"), "--out", str(tmp_path / "paper"), "--archive", str(tmp_path / "a.zip")]
    done = CliRunner().invoke(app, [*words, "--format", "csv", "--figures", "none"])
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {"results.csv", "methods.md", "checklist.md", "README.txt"} <= set(archive.namelist())
        assert archive.read("results.csv") == (tmp_path / "paper" / "results.csv").read_bytes()
