"""evalfm data overlap: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pil
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import render
from evalfm.errors import EvalfmError


def made(folder: Path, images: list[np.ndarray], **columns: list[str]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Pil.fromarray(np.round(image * 255).astype(np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(len(images))]
    table = pd.DataFrame({"id": [f"{folder.name}{n}" for n in range(len(images))], "image": names, **columns})
    Manifest(DatasetInfo(name=folder.name, public_ids=True), table, folder).write(folder)
    return folder


@pytest.fixture
def sets(tmp_path: Path, home: Path) -> tuple[Path, Path]:
    images = [render(0, number, 128).pixels for number in range(5)]
    one = made(tmp_path / "siim", [1 - images[0], images[4]], split=["train", "train"])
    return one, made(tmp_path / "nih", images[:4], patient=["a", "b", "c", "c"], split=["test", "train", "val", "val"])


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["data", "overlap", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_pairs_are_counted_and_written(sets: tuple[Path, Path], tmp_path: Path) -> None:
    said = run(*sets, "--out", tmp_path / "pairs.csv")
    assert "siim and nih: 0 exact and 1 near copies; 0 unreadable images." in said
    written = pd.read_csv(tmp_path / "pairs.csv")
    assert written[["one", "other", "inverted", "one_split", "other_split"]].values.tolist() == [
        ["siim0", "nih0", True, "train", "test"]
    ]
    assert json.loads(run(*sets, "--json"))["pairs"][0]["other"] == "nih0"
    assert "0 exact and 0 near copies" in run(sets[1])


def test_train_gives_way(sets: tuple[Path, Path]) -> None:
    assert "Dropped 1 images" in run(*sets, "--drop-from-train")
    assert Manifest.read(sets[0]).table["id"].tolist() == ["siim1"]


def test_patients_are_taken(sets: tuple[Path, Path]) -> None:
    assert "1 of 2 images" in run(*sets, "--take-patients")
    taken = Manifest.read(sets[0])
    assert taken.patients.tolist() == ["nih:a", "siim1"]
    assert taken.splits[0] == "test"


def test_both_at_once_are_refused_and_nothing_is_written(sets: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(path.read_bytes() for path in sets[0].glob("*"))
    words = ["data", "overlap", *map(str, sets), "--drop-from-train", "--take-patients", "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert sorted(path.read_bytes() for path in sets[0].glob("*")) == before
    assert not (tmp_path / "p").exists()


def test_where_the_pairs_cannot_go_is_refused_before_any_image_is_read(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfm.data.overlap.find_overlap", lambda *_: pytest.fail("the images were read"))
    for place in (tmp_path, tmp_path / "nowhere" / "pairs.csv"):
        result = CliRunner().invoke(app, ["data", "overlap", *map(str, sets), "--out", str(place)])
        assert isinstance(result.exception, EvalfmError)
        assert "no file that can be written" in str(result.exception)


def test_an_id_that_is_a_formula_is_written_as_a_word(tmp_path: Path, home: Path) -> None:
    images = [render(0, number, 128).pixels for number in range(2)]
    one = made(tmp_path / "one", images)
    other = made(tmp_path / "other", images, patient=["=HYPERLINK(1)", "-1.5"])
    manifest = Manifest.read(one)
    table = manifest.table.assign(id=['=cmd|"x"', "@SUM(1)"])
    Manifest(manifest.info, table, one).write(one)
    run(one, other, "--out", tmp_path / "pairs.csv")
    text = (tmp_path / "pairs.csv").read_text()
    assert '"\'=cmd|""x"""' in text
    assert "'@SUM(1)" in text
    assert [path.name for path in tmp_path.glob("*pairs*")] == ["pairs.csv"]
    # What is read again is written as it is.
    (one / "manifest.parquet").unlink()
    (one / "manifest.csv").touch()
    Manifest(manifest.info, table, one).write(one)
    assert Manifest.read(one).table["id"].tolist() == ['=cmd|"x"', "@SUM(1)"]
