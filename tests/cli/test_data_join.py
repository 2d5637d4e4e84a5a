"""evalfm data join on the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest


@pytest.fixture
def folder(squares: Manifest, tmp_path: Path, home: Path) -> Path:
    info = squares.info.model_copy(update={"root": str(squares.root)})
    Manifest(info, squares.table, tmp_path / "mine").write(tmp_path / "mine")
    return tmp_path / "mine"


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", "join", *map(str, words)])
    assert (result.exit_code == 0) == (code == 0), result.output
    return result.output + str(result.exception or "")


def test_a_table_is_joined_and_reported(folder: Path, tmp_path: Path) -> None:
    before = Manifest.read(folder)
    ids = before.table["id"].tolist()
    pd.DataFrame({"image": [*ids[:5], "zzz"], "edema": [1, 0, 1, 0, 1, 1]}).to_csv(tmp_path / "e.csv", index=False)
    said = run(folder, "--with", tmp_path / "e.csv", "--join-on", "id=image", "--label", "edema", "--source", "reader")
    assert f"5 of {len(ids)} images met a row of e.csv" in said
    assert "1 rows of e.csv met no image, such as 'zzz'" in said
    after = Manifest.read(folder)
    assert after.label("edema").tolist()[:5] == [1, 0, 1, 0, 1]
    assert after.info.label_source["edema"] == "reader"


def test_a_refused_join_leaves_the_folder_alone(folder: Path, tmp_path: Path) -> None:
    label = Manifest.read(folder).labels[0]
    ids = Manifest.read(folder).table["id"].tolist()
    flipped = 1 - Manifest.read(folder).label(label)
    pd.DataFrame({"id": ids, label: flipped}).to_csv(tmp_path / "e.csv", index=False)
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    assert "would change known values" in run(
        folder, "--with", tmp_path / "e.csv", "--join-on", "id", "--label", label, code=2
    )
    assert "--join-on MINE=THEIRS" in run(folder, "--with", tmp_path / "e.csv", code=2)
    assert "leave --join-on" in run(folder, "--with", tmp_path / "e.csv", "--as", "tubes", "--join-on", "id", code=2)
    assert "Known: " in run(folder, "--with", tmp_path / "e.csv", "--as", "quite-other", code=2)
    assert "no file" in run(folder, "--with", tmp_path / "no.csv", "--join-on", "id", "--label", "x", code=2)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before
