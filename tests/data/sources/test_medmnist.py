from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evalfm.data.config import ImportOptions
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.sources.medmnist import import_source
from evalfm.errors import EvalfmError

SIZES = {"train": 4, "val": 2, "test": 3}


def write(path: Path, labels: dict[str, NDArray[np.generic]], tail: tuple[int, ...] = (5, 6), **more: object) -> None:
    """An NPZ in the layout of MedMNIST; every pixel of image i is 10 × split + i."""
    arrays: dict[str, object] = {}
    for number, (split, size) in enumerate(SIZES.items()):
        values = np.arange(size, dtype=np.uint8) + 10 * number
        arrays[f"{split}_images"] = np.broadcast_to(values.reshape(-1, *[1] * len(tail)), (size, *tail))
        arrays[f"{split}_labels"] = labels[split]
    np.savez_compressed(path, **arrays | more)  # type: ignore[arg-type]


def column(*values: int) -> NDArray[np.uint8]:
    return np.array(values, dtype=np.uint8)[:, None]


BINARY = {"train": column(1, 0, 0, 1), "val": column(0, 1), "test": column(1, 1, 0)}
CLASSES = {"train": column(0, 1, 2, 6), "val": column(5, 4), "test": column(3, 3, 0)}


def read(root: Path, **options: object) -> Manifest:
    imported = import_source(root, ImportOptions(**options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


def test_every_image_keeps_its_label_and_split(tmp_path: Path) -> None:
    write(tmp_path / "pneumoniamnist.npz", BINARY)
    data = read(tmp_path)
    data.validate(deep=True)
    assert data.splits.tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert data.label("pneumonia").tolist() == [1, 0, 0, 1, 0, 1, 1, 1, 0]
    stored = [round(float(data.image(row).pixels.mean()) * 255) for row in range(len(data))]
    assert stored == [0, 1, 2, 3, 10, 11, 20, 21, 22]
    assert data.locator(8) == "pneumoniamnist.npz#test_images/2"
    assert data.image(0).pixels.shape == (1, 5, 6)
    assert data.table["id"].iloc[[3, 4]].tolist() == ["train_3", "val_0"]
    assert not data.patients_known
    assert (data.info.licence, data.info.derived_from) == ("CC BY 4.0", ["kermany-cxr"])


def test_an_image_in_two_splits_stays_in_one(tmp_path: Path) -> None:
    arrays: dict[str, object] = {}
    for split, values in {"train": [1, 2, 2, 3], "val": [2, 4], "test": [3, 5, 4]}.items():
        arrays[f"{split}_images"] = np.array(values, np.uint8)[:, None, None] * np.ones((5, 6), np.uint8)
        arrays[f"{split}_labels"] = BINARY[split]
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)  # type: ignore[arg-type]
    data = read(tmp_path)
    data.validate(deep=True)
    # Test is whole; twins inside one part stay, and labels go with their images.
    assert data.table["id"].tolist() == ["train_0", "train_1", "train_2", "test_0", "test_1", "test_2"]
    assert data.label("pneumonia").tolist() == [1, 0, 0, 1, 1, 0]
    note = "The file has images in two splits with identical bytes; left out: 2 of val, 1 of train."
    assert data.info.notes[1] == note


def test_malignant_is_zero_in_breastmnist_and_one_here(tmp_path: Path) -> None:
    write(tmp_path / "breastmnist_64.npz", BINARY)
    data = read(tmp_path)
    assert data.info.name == "breastmnist_64"
    assert data.label("malignant").tolist() == [0, 1, 1, 0, 1, 0, 0, 0, 1]


def test_classes_have_their_words_and_colour_stays(tmp_path: Path) -> None:
    write(tmp_path / "dermamnist.npz", CLASSES, (5, 6, 3))
    data = read(tmp_path)
    data.validate()
    assert data.table["lesion"].tolist()[:5] == [
        "actinic_keratosis", "basal_cell_carcinoma", "benign_keratosis", "vascular_lesion", "melanocytic_nevus",
    ]  # fmt: skip
    assert data.info.label_kind("lesion") == "class"
    assert data.size(0) == (5, 6)
    assert data.info.licence == "CC BY-NC 4.0"


def test_several_labels_are_a_column_each(tmp_path: Path) -> None:
    labels = {split: np.zeros((size, 14), dtype=np.uint8) for split, size in SIZES.items()}
    labels["train"][1, [0, 12]] = 1
    labels["test"][2, 13] = 1
    write(tmp_path / "chestmnist.npz", labels)
    data = read(tmp_path)
    data.validate()
    positive = {name: np.flatnonzero(data.label(name)).tolist() for name in data.labels if data.label(name).any()}
    assert positive == {"atelectasis": [1], "pleural_thickening": [1], "hernia": [8]}
    assert len(data.labels) == 14
    assert set(data.info.label_source.values()) == {"text-mined"}
    assert data.info.derived_from == ["nih-cxr14"]


def test_a_set_of_ones_own_in_this_layout(tmp_path: Path) -> None:
    flat = {split: values[:, 0] for split, values in CLASSES.items()}
    write(tmp_path / "mine.npz", flat)
    data = read(tmp_path)
    assert data.label("label").tolist() == [0, 1, 2, 6, 5, 4, 3, 3, 0]
    assert (data.info.label_kind("label"), data.info.public_ids, data.info.licence) == ("class", False, "unknown")
    pairs = {split: np.repeat(values, 2, axis=1) for split, values in BINARY.items()}
    write(tmp_path / "mine.npz", pairs)
    assert read(tmp_path).labels == ["label_0", "label_1"]


def test_one_of_several_files_is_chosen_by_name(tmp_path: Path) -> None:
    write(tmp_path / "pneumoniamnist.npz", BINARY)
    write(tmp_path / "pneumoniamnist_64.npz", BINARY)
    with pytest.raises(EvalfmError, match=r"holds 2 sets .* choose one with --subset pneumoniamnist\.npz"):
        read(tmp_path)
    assert read(tmp_path, subset="pneumoniamnist_64").locator(0).startswith("pneumoniamnist_64.npz#")
    with pytest.raises(EvalfmError, match="Did you mean 'pneumoniamnist"):
        read(tmp_path, subset="pneumoniamnist_46")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pneumoniamnist.npz"
    np.savez(file, train_images=np.zeros((1, 2, 2)), imgs=np.zeros(1))
    with pytest.raises(EvalfmError, match="no array 'train_labels', it holds imgs, train_images"):
        read(tmp_path)
    write(file, {**BINARY, "val": column(0, 1, 1)})
    with pytest.raises(EvalfmError, match=r"2 val images and val_labels of shape \[3, 1\]"):
        read(tmp_path)
    write(file, BINARY, (5, 5, 5))
    with pytest.raises(EvalfmError, match=r"shape \[4, 5, 5, 5\]; only 2-D"):
        read(tmp_path)
    write(file, {**BINARY, "val": np.array([[0.5], [1]])})
    with pytest.raises(EvalfmError, match="no class numbers"):
        read(tmp_path)
    write(file, {**BINARY, "val": np.array([["a"], ["b"]])})
    with pytest.raises(EvalfmError, match="row of numbers"):
        read(tmp_path)
    write(file, {split: np.repeat(values, 2, axis=1) for split, values in BINARY.items()})
    with pytest.raises(EvalfmError, match="2 labels an image where pneumoniamnist has 1"):
        read(tmp_path)
    write(tmp_path / "octmnist.npz", CLASSES)
    with pytest.raises(EvalfmError, match="class 6 where octmnist has 4"):
        read(tmp_path, subset="octmnist")
    file.write_bytes(b"no zip")
    with pytest.raises(EvalfmError, match="cannot be read as NPZ"):
        read(tmp_path, subset="pneumoniamnist")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    write(tmp_path / "pneumoniamnist.npz", {**BINARY, "val": np.array([[0], [{}]], dtype=object)})
    with pytest.raises(EvalfmError, match="cannot be read as NPZ"):
        read(tmp_path)


def test_import_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    write(tmp_path / "root/pneumoniamnist.npz", BINARY)
    data = import_data("medmnist", tmp_path / "root", tmp_path / "out", subset="pneumoniamnist", copy_images=True)
    data.validate(deep=True)
    assert data.info.split is not None
    assert data.info.split.rule == "source"
