from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evalfm.data.config import ImportOptions
from evalfm.data.manifest import Manifest
from evalfm.data.sources.coop import import_source
from evalfm.errors import EvalfmError


def read(root: Path, **options: object) -> Manifest:
    imported = import_source(root, ImportOptions(**options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


SPLIT: dict[str, Any] = {
    "train": [["glioma_tumor/G 1.jpg", 0, "glioma tumor"], ["normal_brain/N_1.jpg", 2, "normal brain"]],
    "val": [["meningioma_tumor/M_1.jpg", 1, "meningioma tumor"]],
    "test": [["glioma_tumor/G_2.jpg", 0, "glioma tumor"], ["normal_brain/N_2.jpg", 2, "normal brain"]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, SPLIT)
    for number, (path, _, _) in enumerate(row for rows in SPLIT.values() for row in rows):
        file = tmp_path / "BTMRI" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (number, 2 * number, 255)).save(file)
    return tmp_path


def write(root: Path, content: object, name: str = "split_BTMRI.json") -> None:
    (root / name).write_text(json.dumps(content))


def test_split_and_words_are_those_of_the_file(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["image"].tolist()[0] == "BTMRI/glioma_tumor/G 1.jpg"
    assert data.table["id"].tolist()[0] == "glioma_tumor/G 1.jpg"
    assert data.splits.tolist() == ["train", "train", "val", "test", "test"]
    assert data.table["label"].tolist() == [
        "glioma tumor", "normal brain", "meningioma tumor", "glioma tumor", "normal brain",
    ]  # fmt: skip
    assert data.info.label_kind("label") == "class"
    assert data.info.name == "BTMRI"
    assert not data.patients_known
    assert data.image(1).pixels.shape == (3, 5, 6)


@pytest.mark.parametrize("folder", ["images", ""])
def test_images_beside_the_file_or_in_images(root: Path, folder: str) -> None:
    if folder:
        (root / "BTMRI").rename(root / folder)
    else:
        for path in list((root / "BTMRI").iterdir()):
            path.rename(root / path.name)
    data = read(root)
    data.validate()
    assert data.locator(2) == (f"{folder}/" if folder else "") + "meningioma_tumor/M_1.jpg"


def test_rows_without_a_file_and_repeated_rows_are_counted(root: Path) -> None:
    (root / "BTMRI/glioma_tumor/G 1.jpg").unlink()
    write(root, {**SPLIT, "test": [*SPLIT["test"], SPLIT["test"][0]]})
    data = read(root)
    data.validate()
    assert data.splits.tolist() == ["train", "val", "test", "test"]
    assert data.info.notes == [
        "1 of 6 rows have no image file and were left out.",
        "1 rows say what an earlier row said of the same image and were left out.",
    ]


def test_an_image_in_two_splits_is_a_fault(root: Path) -> None:
    write(root, {**SPLIT, "val": [*SPLIT["val"], SPLIT["test"][0]]})
    with pytest.raises(EvalfmError, match="is in test and val"):
        read(root).validate()


def test_a_class_has_one_word_and_a_word_one_class(root: Path) -> None:
    write(root, {**SPLIT, "val": [["meningioma_tumor/M_1.jpg", 0, "meningioma tumor"]]})
    with pytest.raises(EvalfmError, match="calls class 0 both 'glioma tumor' and 'meningioma tumor'"):
        read(root)
    write(root, {**SPLIT, "val": [["meningioma_tumor/M_1.jpg", 1, "glioma tumor"]]})
    with pytest.raises(EvalfmError, match="calls class 'glioma tumor' both 0 and 1"):
        read(root)


def test_names_of_a_private_set_are_hashed(root: Path) -> None:
    (root / "BTMRI").rename(root / "ours")
    (root / "split_BTMRI.json").rename(root / "split_ours.json")
    data = read(root)
    assert (data.info.public_ids, data.info.derived_from) == (False, [])
    assert "glioma" not in data.public_id(0)


def test_what_does_not_fit_is_named(root: Path) -> None:
    write(root, SPLIT, "split_zhou.json")
    with pytest.raises(EvalfmError, match=r"holds 2 sets .* --subset split_BTMRI\.json"):
        read(root)
    assert len(read(root, subset="split_BTMRI")) == 5
    (root / "split_zhou.json").unlink()
    write(root, {"train": [], "test": []})
    with pytest.raises(EvalfmError, match="no list 'val'"):
        read(root)
    write(root, {"train": [["a.jpg", "0", "x"]], "val": [], "test": []})
    with pytest.raises(EvalfmError, match=r"where \[path, label, class\] is expected"):
        read(root)
    write(root, {"train": [], "val": [], "test": []})
    with pytest.raises(EvalfmError, match="lists no image"):
        read(root)
    (root / "split_BTMRI.json").write_text("{")
    with pytest.raises(EvalfmError, match="is not JSON"):
        read(root)
    write(root, {"train": [["../../etc/passwd", 0, "x"]], "val": [], "test": []})
    with pytest.raises(EvalfmError, match="There is no BTMRI/"):
        read(root)
