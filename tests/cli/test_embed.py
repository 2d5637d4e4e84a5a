"""`evalfm embed` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from ..squares import make_squares


def typed(*words: object) -> Result:
    """What the verb says; a refusal is raised."""
    return CliRunner().invoke(app, ["embed", *map(str, words)], catch_exceptions=False)


def test_two_or_three_lines_say_what_was_written(squares: Manifest, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    words = ("--encoder", "random:test_vit", "--data", squares.folder, "--out", out, "--maps", "--limit", 6)
    told = typed(*words)
    assert told.stdout.splitlines() == [
        f"random:test_vit: {out}",
        "  6 images × 64 values, 6 encoded now",
        "  maps " + ", ".join(["64×10×10"] * 5),
        "  random:test_vit has random weights: it has learnt nothing.",
    ]
    again = typed(*words)
    assert again.stdout.splitlines()[1] == "  6 images × 64 values, there already"
    assert again.stdout.splitlines()[2:] == told.stdout.splitlines()[2:]


def test_hidden_ids_are_said(home: Path, tmp_path: Path) -> None:
    hidden = make_squares(tmp_path / "hidden", patients=6, public_ids=False, salt="pepper")
    told = typed("--encoder", "pixels", "--data", hidden.folder, "--out", tmp_path / "a.parquet")
    assert "Ids are salted hashes" in told.stdout
    told = typed("--encoder", "pixels", "--data", hidden.folder, "--out", tmp_path / "b.parquet", "--plain-ids")
    assert "hashes" not in told.stdout
    assert pd.read_parquet(tmp_path / "b.parquet")["id"].tolist() == hidden.table["id"].tolist()


def test_json_holds_what_was_written(squares: Manifest, home: Path, tmp_path: Path) -> None:
    words = ("--encoder", "hog,pixels", "--data", squares.folder, "--out", tmp_path / "{encoder}.parquet")
    told = json.loads(typed(*words, "--shard", "1/2", "--json", "--profile").stdout)
    one, other = told["files"]
    assert one["file"] == str(tmp_path / "hog-1-of-2.parquet")
    assert (one["encoder"], one["dim"], one["ids"], one["existing"]) == ("hog", 576, "public", False)
    assert one["images"] == one["encoded_images"] == len(pd.read_parquet(one["file"])) == other["images"]
    assert len(one["key"]) == 64
    assert told["seconds"]
    assert set(json.loads(typed(*words, "--json").stdout)) == {"files"}


def test_similarity_prints_tables_and_writes_only_where_it_is_told(
    squares: Manifest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--similarity", "--encoder", "hog,pixels", "--data", squares.folder)
    told = typed(*words)
    assert "Effective rank" in told.stdout
    assert "How alike two encoders see" in told.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    few = typed(*words, "--limit", 30, "--out", "quality", "--where", "age > 30", "--json")
    content = json.loads(few.stdout)
    assert 20 <= content["images"] <= 30
    assert json.loads((tmp_path / "quality/features.json").read_text()) == content


@pytest.mark.parametrize(
    "words", [("--maps",), ("--shard", "1/2"), ("--plain-ids",), ("--force",), ("--executor", "local")]
)
def test_what_similarity_does_not_do_is_refused(words: tuple[str, ...], squares: Manifest) -> None:
    with pytest.raises(EvalfmError, match=f"so {words[0]} would do nothing"):
        typed("--similarity", "--encoder", "hog", "--data", squares.folder, *words)


@pytest.mark.parametrize("devices", ["cpu,cpu", "all"])
def test_similarity_is_of_one_process(devices: str, squares: Manifest) -> None:
    with pytest.raises(EvalfmError, match="name one device"):
        typed("--similarity", "--encoder", "hog", "--data", squares.folder, "--devices", devices)


def test_similarity_takes_a_folder_and_no_file(squares: Manifest) -> None:
    with pytest.raises(EvalfmError, match=r"a folder for features\.json and not e\.parquet"):
        typed("--similarity", "--encoder", "hog", "--data", squares.folder, "--out", "e.parquet")


def test_the_help_names_every_option() -> None:
    told = CliRunner().invoke(app, ["embed", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--encoder", "--data", "--out", "--maps", "--where", "--limit", "--shard", "--plain-ids", "--force",
                   "--similarity", "--weights", "--input-size", "--resize", "--batch-size", "--workers", "--devices",
                   "--precision", "--compile", "--profile", "--json"):  # fmt: skip
        assert option in told
