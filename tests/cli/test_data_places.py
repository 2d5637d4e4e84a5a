"""Where the images of a data set lie (links, roots, moves), and what becomes of a split that is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.dataset_info import read_dataset_info
from evalfm.data.manifest import Manifest, read_data
from evalfm.errors import EvalfmError

IMPORT = ["data", "import", "table", "--patient", "who", "--label", "lab"]
PLAIN = ["--csv", "m.csv", "--image", "file"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ``store/`` with 30 images of 15 patients, ``m.csv`` with a split of train and test alone."""
    generator = np.random.default_rng(0)
    (tmp_path / "store").mkdir()
    lines = ["file,who,lab,part"]
    for number in range(30):
        values = generator.integers(0, 255, (8, 8)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"store/{number}.png")
        lines.append(f"{number}.png,p{number // 2},{number % 3 // 2},{'test' if number < 8 else 'train'}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    with pytest.raises(EvalfmError) as refusal:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return str(refusal.value)


def root_of(folder: str) -> str:
    return read_dataset_info(Path(folder) / "dataset.yaml").root


def test_the_root_stays_as_it_was_given(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, out, written in [
        ("store", "sets/a", "../../store"),
        (str(here / "store"), "sets/b", str(here / "store")),
        ("${PLACE}/store", "sets/c", "${PLACE}/store"),
        (".", "sets/d", "../.."),
    ]:
        monkeypatch.setenv("PLACE", str(here))
        table = PLAIN
        if given == ".":
            text = (here / "m.csv").read_text().replace("file,", "path,").splitlines()
            (here / "m2.csv").write_text("\n".join([text[0], *(f"store/{line}" for line in text[1:])]) + "\n")
            table = ["--csv", "m2.csv", "--image", "path"]
        run(*IMPORT, *table, "--root", given, "--out", out)
        assert root_of(out) == written
        assert read_data(out).image(0).pixels.shape == (1, 8, 8)
    run("data", "split", "sets/a", "--force", "--seed", "1")
    run("data", "split", "sets/c", "--force", "--seed", "1")
    assert (root_of("sets/a"), root_of("sets/c")) == ("../../store", "${PLACE}/store")
    # Set and images move together.
    (here / "elsewhere").mkdir()
    (here / "sets").rename(here / "elsewhere/sets")
    (here / "store").rename(here / "elsewhere/store")
    assert len(read_data("elsewhere/sets/a")) == 30
    monkeypatch.delenv("PLACE")
    with pytest.raises(EvalfmError, match=r"PLACE, which is not set; set it, or .*data relocate"):
        read_data("elsewhere/sets/c")


def test_a_set_is_reported_where_its_images_lie_now(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*IMPORT, *PLAIN, "--root", str(here / "store"), "--out", "a")
    split = read_data("a").splits.tolist()
    (here / "moved").mkdir()
    (here / "store").rename(here / "moved/store")
    with pytest.raises(EvalfmError, match=r"data relocate"):
        read_data("a")
    before = (here / "a/dataset.yaml").read_bytes()
    assert "30 rows" in refused("data", "relocate", "a", "moved")
    assert (here / "a/dataset.yaml").read_bytes() == before
    for root, written in [("moved/store", "../moved/store"), (str(here / "moved/store"), str(here / "moved/store"))]:
        assert "30 images" in run("data", "relocate", "a", root)
        assert root_of("a") == written
        assert read_data("a").splits.tolist() == split
    monkeypatch.setenv("PLACE", str(here / "moved"))
    run("data", "relocate", "a", "${PLACE}/store")
    assert root_of("a") == "${PLACE}/store"
    assert len(read_data("a")) == 30


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("what", ["files", "folder"])
def test_links_out_of_the_root_are_one_fault_and_followed_on_request(here: Path, what: str) -> None:
    (here / "linked").mkdir()
    table = PLAIN
    if what == "files":
        for path in (here / "store").iterdir():
            (here / "linked" / path.name).symlink_to(path)
    else:
        (here / "linked/deep").symlink_to(here / "store")
        lines = (here / "m.csv").read_text().splitlines()
        (here / "deep.csv").write_text("\n".join([lines[0], *(f"deep/{line}" for line in lines[1:])]) + "\n")
        table = ["--csv", "deep.csv", "--image", "file"]
    said = refused(*IMPORT, *table, "--root", "linked", "--out", "a")
    assert len(said.splitlines()) == 2
    assert "30 rows (1, 2, 3, 4, …)" in said
    assert "--follow-links" in said
    assert not (here / "a").exists()
    run(*IMPORT, *table, "--root", "linked", "--out", "a", "--follow-links")
    data = read_data("a")
    data.validate(deep=True)
    assert data.info.follow_links
    assert data.image(3).pixels.shape == (1, 8, 8)
    assert "No fault found" in run("data", "check", "a")
    run("data", "split", "a", "--force")
    assert read_data("a").info.follow_links
    copied = ["--root", "linked", "--out", "b", "--follow-links", "--copy"]
    run(*IMPORT, *table, *copied)
    assert not read_data("b").info.follow_links
    assert not any(path.is_symlink() for path in (here / "b").rglob("*"))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_that_leads_to_where_it_lies_ends(here: Path) -> None:
    (here / "linked/deep").mkdir(parents=True)
    (here / "linked/deep/again").symlink_to(here / "linked")
    (here / "linked/other").symlink_to(here / "store")
    from evalfm.data.locators import LinkedRoot, files_below

    files = files_below(LinkedRoot(here / "linked"))
    assert files == sorted(f"other/{number}.png" for number in range(30))
    with pytest.raises(
        EvalfmError, match=r"1 folders in .* are links that lead out of it, such as other; add --follow-"
    ):
        files_below(here / "linked")


def test_a_split_is_not_overwritten_unasked(here: Path) -> None:
    run(*IMPORT, *PLAIN, "--root", "store", "--out", "a")
    before = read_data("a").splits.tolist()
    said = refused("data", "split", "a", "--seed", "5")
    assert "has a split already (train " in said
    assert "--force" in said
    assert read_data("a").splits.tolist() == before
    run("data", "split", "a", "--seed", "5", "--force")
    assert read_data("a").splits.tolist() != before
    bare = Manifest.read("a")
    Manifest(bare.info, bare.table.drop(columns="split"), bare.folder).write(bare.folder)
    assert "30 images" in run("data", "split", "a")


def test_val_is_drawn_from_train_at_the_import_or_later(here: Path) -> None:
    plain = [*IMPORT, *PLAIN, "--split", "part", "--root", "store"]
    run(*plain, "--out", "a")
    run(*plain, "--out", "b", "--val-from-train")
    run("data", "split", "a", "--val-from-train")
    a, b = read_data("a"), read_data("b")
    assert a.splits.tolist() == b.splits.tolist()
    assert set(a.splits) == {"train", "val", "test"}
    assert [split == "test" for split in a.splits] == [number < 8 for number in range(30)]
    assert a.info.split is not None
    assert a.info.split.note == "val is drawn by patient from train"
    assert "has val already" in refused("data", "split", "a", "--val-from-train")
    assert "leave the other rules out" in refused("data", "split", "a", "--val-from-train", "--stratify", "lab")
    # A split that is assigned to few patients may lack it too.
    run(*IMPORT, *PLAIN, "--root", "store", "--out", "c", "--val-from-train")
    assert "val" in read_data("c").splits


def test_what_has_no_val_is_refused_with_the_remedy(here: Path) -> None:
    run(*IMPORT, *PLAIN, "--split", "part", "--root", "store", "--out", "a")
    words = ["probe", "--encoder", "pixels", "--task", "lab", "--data", "a", "--out", "runs"]
    said = refused(*words)
    assert "has no val split" in said
    assert "`evalfm data split a --val-from-train`" in said
