"""What is known of a manifest's images is never older than the files."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.data import digests
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.digests import BYTES, GONE, KnownDigests, RowDigests, stamps_of
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    for number, name in enumerate(NAMES):
        Image.fromarray(np.full((4, 4), 50 * number, np.uint8)).save(tmp_path / name)
    table = pd.DataFrame(
        {"id": list("abcd"), "image": list(NAMES), "patient": list("pqrs"), "split": ["train", "train", "val", "test"]}
    )
    return Manifest(DatasetInfo(name="small", public_ids=True), table, tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Of which images the digests were looked up on disk or computed, call by call."""
    calls: list[list[str]] = []
    original = digests.image_digests

    def counted(locators: list[str], *given: object, **named: object) -> object:
        calls.append(list(locators))
        return original(locators, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(digests, "image_digests", counted)
    return calls


def of_bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(path: Path, grey: int) -> None:
    """Another image with another time of change."""
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(path)
    os.utime(path, ns=(grey, grey))


def test_what_is_known_is_asked_for_once(manifest: Manifest, asked: list[list[str]]) -> None:
    expected = [of_bytes(manifest.root / name) for name in NAMES]
    assert manifest.digests([2, 0, 2]).tolist() == [expected[2], expected[0], expected[2]]
    assert manifest.digests().tolist() == expected
    assert manifest.digests([3]).tolist() == expected[3:]
    assert manifest.digests([]).tolist() == []
    assert asked == [["c.png", "a.png", "c.png"], ["b.png", "d.png"]]


def test_a_second_deep_look_asks_for_nothing(manifest: Manifest, asked: list[list[str]]) -> None:
    for _ in range(3):
        manifest.validate(deep=True, findings=())
        manifest.digests()
    assert asked == [list(NAMES)]
    # Other rows are another manifest, which knows nothing yet.
    manifest.select([1, 2]).validate(deep=True)
    assert asked == [list(NAMES), ["b.png", "c.png"]]


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_changes_between_two_cells_is_noticed(
    manifest: Manifest, asked: list[list[str]], deep: bool
) -> None:
    before = manifest.digests()
    size = (manifest.root / "b.png").stat().st_size
    put(manifest.root / "b.png", 99)
    assert (manifest.root / "b.png").stat().st_size == size
    if deep:
        manifest.validate(deep=True, findings=())
    after = manifest.digests()
    assert after[1] == of_bytes(manifest.root / "b.png") != before[1]
    assert after[[0, 2, 3]].tolist() == before[[0, 2, 3]].tolist()
    assert asked == [list(NAMES), ["b.png"]]


def test_a_copy_made_between_two_cells_is_found_in_both_splits(manifest: Manifest) -> None:
    manifest.validate(deep=True)
    shutil.copy(manifest.root / "a.png", manifest.root / "d.png")
    with pytest.raises(EvalfmError, match="images of 'a', 'd' have identical bytes and are in test and train"):
        manifest.validate(deep=True)


def test_a_file_that_breaks_or_goes_between_two_cells_is_named(manifest: Manifest) -> None:
    manifest.validate(deep=True)
    (manifest.root / "c.png").write_bytes(b"no image")
    with pytest.raises(EvalfmError, match=r"row 3: c\.png"):
        manifest.validate(deep=True)
    (manifest.root / "c.png").unlink()
    for _ in range(2):
        with pytest.raises(EvalfmError, match=r"1 images cannot be read, the first is c\.png"):
            manifest.digests()
    with pytest.raises(EvalfmError, match=r"row 3: .*c\.png"):
        manifest.validate(deep=True)
    put(manifest.root / "c.png", 7)
    manifest.validate(deep=True)
    assert manifest.digests([2])[0] == of_bytes(manifest.root / "c.png")


def test_rows_that_are_changed_in_place_are_other_rows(manifest: Manifest) -> None:
    for name in NAMES:
        # To the clock all are one file.
        (manifest.root / name).write_bytes(name.encode())
        os.utime(manifest.root / name, ns=(5, 5))
    manifest.digests()
    manifest.table.loc[1, "image"] = "d.png"
    assert manifest.digests([1, 2]).tolist() == [of_bytes(manifest.root / name) for name in ("d.png", "c.png")]


def test_another_root_has_files_of_its_own(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    for name in NAMES:
        # To the clock the same file.
        shutil.copy2(tmp_path / name, tmp_path / "other" / name)
    monkeypatch.setenv("PLACE", str(tmp_path))
    moving = Manifest(manifest.info.model_copy(update={"root": "${PLACE}"}), manifest.table, tmp_path)
    moving.digests()
    stamp = (tmp_path / "other/a.png").stat()
    (tmp_path / "other/a.png").write_bytes((tmp_path / "a.png").read_bytes()[::-1])
    os.utime(tmp_path / "other/a.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    monkeypatch.setenv("PLACE", str(tmp_path / "other"))
    assert moving.digests([0])[0] == of_bytes(tmp_path / "other/a.png") != of_bytes(tmp_path / "a.png")


def test_members_have_the_stamp_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"abc")
    locators = np.array(["a.npz#x/0", "a.npz", "gone.npz#x/0", "gone", "a.npz#x/1"], dtype=object)
    status = (tmp_path / "a.npz").stat()
    whole = [status.st_size, status.st_mtime_ns]
    assert stamps_of(locators, tmp_path).tolist() == [whole, whole, list(GONE), list(GONE), whole]
    assert stamps_of(locators[:0], tmp_path).shape == (0, 2)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = digests.image_digests

    def meanwhile(*given: object, **named: object) -> object:
        read = original(*given, **named)  # type: ignore[arg-type]
        put(manifest.root / "a.png", 123)
        return read

    monkeypatch.setattr(digests, "image_digests", meanwhile)
    manifest.digests([0])
    monkeypatch.setattr(digests, "image_digests", original)
    assert manifest.digests([0])[0] == of_bytes(manifest.root / "a.png")


def test_another_process_begins_with_nothing(manifest: Manifest, asked: list[list[str]]) -> None:
    known = KnownDigests()
    locators = manifest.table["image"].to_numpy(dtype=object)
    first = known.of(locators, manifest.root, np.arange(4))
    there = pickle.loads(pickle.dumps(known))
    second = there.of(locators, manifest.root, np.arange(4))
    assert first.in_hex().tolist() == second.in_hex().tolist()
    assert asked == [list(NAMES), list(NAMES)]


def test_all_that_share_bytes_are_perhaps_repeated() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, BYTES)).astype(np.uint8)
    values[4] = values[1]
    values[5] = 0
    values[3] = 0
    present = np.array([True, True, True, True, True, False])
    assert RowDigests(values, present, {}).perhaps_repeated().tolist() == [False, True, False, True, True, False]
