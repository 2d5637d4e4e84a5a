"""Planted copies are found and other images are not; train gives way, patients come over."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image as Pil

from evalfm.data import fingerprints as module
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.fingerprints import fingerprints
from evalfm.data.manifest import Manifest
from evalfm.data.overlap import drop_from_train, find_overlap, with_patients
from evalfm.data.phantom import render
from evalfm.errors import EvalfmError

Pixels = NDArray[np.float32]


def resized(image: Pixels, height: int, width: int) -> Pixels:
    return np.clip(np.asarray(Pil.fromarray(image).resize((width, height), Pil.Resampling.BICUBIC)), 0, 1)


def recompressed(image: Pixels, quality: int = 40) -> Pixels:
    stream = io.BytesIO()
    Pil.fromarray(np.round(image * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Pil.open(stream), dtype=np.float32) / 255


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "rescaled": lambda image: resized(image, 150, 190),
    "recompressed": recompressed,
    "inverted": lambda image: 1 - image,
    "brighter": lambda image: 0.7 * image + 0.25,
    "gamma": lambda image: image**1.6,
    "everything": lambda image: recompressed(1 - resized(image**0.8, 128, 128)),
}


def images(count: int, first: int = 0) -> list[Pixels]:
    return [render(0, number, 256).pixels for number in range(first, first + count)]


def written(folder: Path, pixels: list[Pixels], name: str, **columns: list[object]) -> Manifest:
    folder.mkdir(parents=True)
    for number, image in enumerate(pixels):
        Pil.fromarray(np.round(image * 255).astype(np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(len(pixels))]
    table = pd.DataFrame({"id": [f"{name}{number}" for number in range(len(pixels))], "image": names, **columns})
    return Manifest(DatasetInfo(name=name, root=str(folder), public_ids=True), table, folder).write(folder)


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    pass


@pytest.fixture(scope="module")
def drawn() -> list[Pixels]:
    return images(24)


@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_copy_is_found_and_nothing_else(change: str, drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "one", drawn[:12], "one")
    other = written(tmp_path / "other", [*drawn[12:], CHANGES[change](drawn[5])], "other")
    overlap = find_overlap(one, other)
    assert [(pair.one, pair.other, pair.kind) for pair in overlap.pairs] == [(5, 12, "near")]
    assert overlap.pairs[0].inverted == (change in ("inverted", "everything"))
    assert overlap.pairs[0].correlation > 0.95
    assert find_overlap(one, written(tmp_path / "third", drawn[12:], "third")).pairs == ()


def test_the_same_bytes_are_exact(drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "one", [*drawn[:4], drawn[1]], "one", split=["train", "test", "val", "train", "train"])
    overlap = find_overlap(one)
    assert [(pair.one, pair.other, pair.kind) for pair in overlap.pairs] == [(1, 4, "exact")]
    table = overlap.table()
    assert table.to_dict("records") == [
        {
            "one": "one1",
            "other": "one4",
            "kind": "exact",
            "correlation": 1.0,
            "inverted": False,
            "one_split": "test",
            "other_split": "train",
        }
    ]
    kept, dropped = drop_from_train(overlap)
    assert dropped == 1
    assert kept.table["id"].tolist() == ["one0", "one1", "one2", "one3"]
    assert "1 images of train were dropped: one holds them in val or test." in kept.info.notes


def test_only_train_gives_way(drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "one", drawn[:4], "one", split=["train", "train", "test", "val"])
    copies = [drawn[0] ** 1.3, drawn[1] ** 1.3, drawn[2] ** 1.3]
    other = written(tmp_path / "other", copies, "other", split=["train", "test", "test"])
    kept, dropped = drop_from_train(find_overlap(one, other))
    assert (dropped, kept.table["id"].tolist()) == (1, ["one0", "one2", "one3"])
    with pytest.raises(EvalfmError, match="bare has no split yet"):
        drop_from_train(find_overlap(written(tmp_path / "bare", drawn[:1], "bare"), other))


def test_patients_and_splits_come_over_with_the_images(drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "siim", [1 - drawn[2], drawn[9], resized(drawn[0], 100, 100)], "siim")
    nih = written(
        tmp_path / "nih", drawn[:4], "nih", patient=["a", "b", "a", "c"], split=["test", "train", "test", "val"]
    )
    taken, matched = with_patients(find_overlap(one, nih))
    assert matched == 2
    assert taken.patients.tolist() == ["nih:a", "siim1", "nih:a"]
    assert taken.splits.tolist()[0] == taken.splits.tolist()[2] == "test"
    assert taken.splits[1] in ("train", "val", "test")
    assert taken.info.derived_from == ["nih"]
    taken.validate()
    with pytest.raises(EvalfmError, match="second data set that knows them"):
        with_patients(find_overlap(nih, one))


def test_one_image_of_two_patients_is_refused(drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "one", drawn[:1], "one")
    two = written(tmp_path / "two", [drawn[0] ** 1.2, drawn[0] ** 0.8], "two", patient=["a", "b"])
    with pytest.raises(EvalfmError, match="images of two patients of two"):
        with_patients(find_overlap(one, two))


def test_a_file_that_cannot_be_read_is_passed_by(drawn: list[Pixels], tmp_path: Path) -> None:
    one = written(tmp_path / "one", drawn[:3], "one")
    (tmp_path / "one" / "1.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "one" / "2.png").unlink()
    overlap = find_overlap(one, written(tmp_path / "two", drawn[:1], "two"))
    assert overlap.failed == 2
    assert [(pair.one, pair.other) for pair in overlap.pairs] == [(0, 0)]


def test_fingerprints_are_kept_until_the_file_changes(
    drawn: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = written(tmp_path / "one", drawn[:3], "one")
    first = fingerprints(one)
    made: list[int] = []
    true = module.fingerprint
    monkeypatch.setattr(module, "fingerprint", lambda pixels: (made.append(1), true(pixels))[1])
    again = fingerprints(one)
    assert made == []
    assert np.array_equal(first.thumbs, again.thumbs)
    assert all(np.array_equal(*pair) for pair in zip(first.details, again.details, strict=True))
    Pil.fromarray(np.zeros((300, 300), np.uint8) + np.arange(300, dtype=np.uint8)).save(tmp_path / "one" / "1.png")
    changed = fingerprints(one)
    assert made == [1]
    assert np.array_equal(changed.thumbs[0], first.thumbs[0])
    assert not np.array_equal(changed.thumbs[1], first.thumbs[1])


def test_a_killed_pass_goes_on(drawn: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path / "one", drawn[:6], "one")
    monkeypatch.setattr(module, "CHUNK", 2)
    true, made = module.fingerprint, []

    def killed(pixels: Pixels) -> module.Print:
        made.append(1)
        if len(made) > 4:
            raise KeyboardInterrupt
        return true(pixels)

    monkeypatch.setattr(module, "fingerprint", killed)
    with pytest.raises(KeyboardInterrupt):
        fingerprints(one)
    made.clear()
    monkeypatch.setattr(module, "fingerprint", lambda pixels: (made.append(1), true(pixels))[1])
    assert len(fingerprints(one).rows) == 6
    assert len(made) < 6


def test_a_damaged_shelf_is_as_good_as_none(drawn: list[Pixels], tmp_path: Path, home: Path) -> None:
    one = written(tmp_path / "one", drawn[:2], "one")
    before = fingerprints(one)
    for path in (home / "fingerprints").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    assert np.array_equal(fingerprints(one).thumbs, before.thumbs)
