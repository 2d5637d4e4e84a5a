from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.config import ImportOptions
from evalfm.data.manifest import Manifest
from evalfm.data.sources.medimeta import import_source
from evalfm.errors import EvalfmError
from tests.data.sources.published import drawn


def read(root: Path, **options: object) -> Manifest:
    imported = import_source(root, ImportOptions(**options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return drawn(Manifest(info, imported.table, root), imported)


INFO = """
id: cxr
name: Chest X-ray Multi-disease
tasks:
  - task_name: "disease labels"
    task_target: MULTILABEL_CLASSIFICATION
    labels: {1: Pneumothorax, 2: Pleural_Thickening}
  - task_name: "patient gender"
    task_target: BINARY_CLASSIFICATION
    labels: {0: M, 1: F}
  - task_name: "organ"
    task_target: MULTICLASS_CLASSIFICATION
    labels: {0: "heart", 1: "left lung", 2: "liver"}
  - task_name: "grade"
    task_target: ORDINAL_REGRESSION
    labels: {0: "none", 1: "mild", 2: "severe"}
license: "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)"
"""
LABELS = {
    "disease labels": [[0, 1], [1, 0], [0, 0], [1, 1]],
    "patient gender": [0, 1, 1, 0],
    "organ": [2, 0, 1, -1],
    "grade": [0, 2, 1, 1],
}
TABLE = (
    "filepath,tasks/disease labels,tasks/patient gender,tasks/organ,original_filepath,patient_id,patient_age,"
    "view_position\n"
    'images/000000.tiff,"[0, 1]",0,2,a.png,7,58,PA\n'
    'images/000001.tiff,"[1, 0]",1,0,b.png,8,413,AP\n'
    'images/000002.tiff,"[0, 0]",1,1,c.png,8,60,AP\n'
    'images/000003.tiff,"[1, 1]",0,-1,d.png,9,61,PA\n'
)
SPLITS = {"train": [1, 2], "val": [0], "test": [3]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cxr"
    for name in ("images", "task_labels", "splits"):
        (folder / name).mkdir(parents=True)
    (folder / "info.yaml").write_text(INFO)
    (folder / "annotations.csv").write_text(TABLE)
    for number in range(4):
        Image.new("L", (4, 4), 10 * number).save(folder / f"images/{number:06d}.tiff")
    for task, values in LABELS.items():
        np.save(folder / f"task_labels/{task}.npy", np.array(values))
    for split, numbers in SPLITS.items():
        (folder / f"splits/{split}.txt").write_text("\n".join(f"images/{number:06d}.tiff" for number in numbers))
    return tmp_path


def test_tasks_are_columns_under_their_own_words(root: Path) -> None:
    data = read(root, subset="cxr")
    data.validate(deep=True)
    assert data.table["id"].tolist() == ["000000", "000001", "000002", "000003"]
    assert data.locator(3) == "cxr/images/000003.tiff"
    assert data.label("pneumothorax").tolist() == [0, 1, 0, 1]
    assert data.label("pleural_thickening").tolist() == [1, 0, 0, 1]
    assert data.label("patient_gender").tolist() == [0, 1, 1, 0]
    assert data.table["organ"].tolist() == ["liver", "heart", "left lung", None]
    assert data.label("grade").tolist() == [0, 2, 1, 1]
    assert [data.info.label_kind(name) for name in ("patient_gender", "organ", "grade")] == ["binary", "class", "class"]
    assert data.splits.tolist() == ["val", "train", "train", "test"]
    assert data.patients.tolist() == ["7", "8", "8", "9"]
    assert np.array_equal(data.label("age"), [58, np.nan, 60, 61], equal_nan=True)
    assert data.table["view"].tolist() == ["PA", "AP", "AP", "PA"]
    assert data.info.derived_from == ["nih-cxr14"]
    assert "patient_gender is 0 M, 1 F." in data.info.notes
    assert "original_filepath" not in data.table


def test_the_folder_of_the_set_itself_is_a_root_too(root: Path) -> None:
    data = read(root / "cxr")
    data.validate()
    assert data.locator(0) == "images/000000.tiff"


def test_rows_of_the_table_may_stand_in_another_order_than_the_arrays(root: Path) -> None:
    header, *rows = TABLE.splitlines()
    (root / "cxr/annotations.csv").write_text("\n".join([header, *reversed(rows)]))
    data = read(root, subset="cxr")
    assert data.table["id"].tolist() == ["000003", "000002", "000001", "000000"]
    assert data.label("pleural_thickening").tolist() == [1, 0, 0, 1]
    assert data.label("patient_gender").tolist() == [0, 1, 1, 0]
    assert data.splits.tolist() == ["test", "train", "train", "val"]


def test_arrays_that_are_not_of_this_table_are_refused(root: Path) -> None:
    np.save(root / "cxr/task_labels/patient gender.npy", np.array([0, 1, 0, 0]))
    with pytest.raises(EvalfmError, match=r"and the column tasks/patient gender of annotations\.csv differ"):
        read(root, subset="cxr")
    np.save(root / "cxr/task_labels/patient gender.npy", np.array([0, 1, 0]))
    with pytest.raises(EvalfmError, match=r"holds labels of 3 images where annotations\.csv has 4"):
        read(root, subset="cxr")
    np.save(root / "cxr/task_labels/patient gender.npy", np.array([0, 1, 1, {}], dtype=object))
    with pytest.raises(EvalfmError, match="cannot be read"):
        read(root, subset="cxr")
    np.save(root / "cxr/task_labels/patient gender.npy", np.array(LABELS["patient gender"]))
    np.save(root / "cxr/task_labels/grade.npy", np.array([0, 3, 1, 1]))
    with pytest.raises(EvalfmError, match=r"grade\.npy of .* holds 3, which info\.yaml does not name"):
        read(root, subset="cxr")


def test_original_lists_serve_where_there_are_no_others_and_val_is_assigned(root: Path) -> None:
    (root / "cxr/splits").rename(root / "cxr/original_splits")
    (root / "cxr/original_splits/val.txt").unlink()
    (root / "cxr/original_splits/train.txt").write_text("images/000000.tiff\nimages/000001.tiff\nimages/000002.tiff\n")
    data = read(root, subset="cxr")
    data.validate()
    assert data.splits[3] == "test"
    assert set(data.splits[:3]) <= {"train", "val"}
    assert data.info.split is not None
    assert data.info.split.note == "lists of original_splits/; val is drawn by patient from train"


def test_a_patient_in_two_lists_is_a_fault(root: Path) -> None:
    (root / "cxr/splits/val.txt").write_text("images/000002.tiff\n")
    (root / "cxr/splits/train.txt").write_text("images/000000.tiff\nimages/000001.tiff\n")
    with pytest.raises(EvalfmError, match="patient '8' is in train and val"):
        read(root, subset="cxr").validate()


def test_what_does_not_fit_is_named(root: Path) -> None:
    (root / "oct").mkdir()
    (root / "oct/info.yaml").write_text(INFO)
    with pytest.raises(EvalfmError, match=r"holds 2 sets .cxr, oct.; choose one with --subset cxr"):
        read(root)
    with pytest.raises(EvalfmError, match=r"no annotations\.csv in .*oct, which holds info\.yaml"):
        read(root, subset="oct")
    (root / "cxr/splits/train.txt").write_text("images/000001.tiff\n")
    with pytest.raises(EvalfmError, match="1 images are in no list"):
        read(root, subset="cxr")
    (root / "cxr/splits/train.txt").write_text("images/000001.tiff\nimages/000002.tiff\nimages/000003.tiff\n")
    with pytest.raises(EvalfmError, match=r"000003\.tiff is in test\.txt and train\.txt"):
        read(root, subset="cxr")
    (root / "cxr/splits/train.txt").write_text("images/000001.tiff\nimages/000002.tiff\n")
    (root / "cxr/images.hdf5").touch()
    for path in (root / "cxr/images").iterdir():
        path.unlink()
    with pytest.raises(
        EvalfmError, match=r"no cxr/images/000000\.tiff in .*unpack the images, which images\.hdf5 holds"
    ):
        read(root, subset="cxr")
    (root / "cxr/info.yaml").write_text(INFO.replace("ORDINAL_REGRESSION", "SEGMENTATION"))
    with pytest.raises(EvalfmError, match="the task 'grade' of kind 'SEGMENTATION'"):
        read(root, subset="cxr")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("info.yaml", INFO.replace("{0: M, 1: F}", "{male: M, female: F}"), "names no tasks"),
        ("info.yaml", "id: cxr\ntasks: 3\n", "names no tasks"),
        ("info.yaml", INFO.replace('"organ"', '"../../organ"'), "names no tasks"),
        ("splits/train.txt", b"\xff\xfe", r"train\.txt cannot be read as text"),
        ("annotations.csv", TABLE.splitlines()[0] + "\n", r"a filepath that is no images/000000\.tiff"),
        ("annotations.csv", TABLE.replace("000000.tiff", "9" * 30 + ".tiff"), r"that is no images/000000\.tiff"),
        ("task_labels/organ.npy", 3.0, r"organ\.npy holds labels of 0 images"),
    ],
)
def test_files_of_another_shape_are_reported(root: Path, file: str, content: object, message: str) -> None:
    path = root / "cxr" / file
    if isinstance(content, float):
        np.save(path, np.float64(content))
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(EvalfmError, match=message):
        read(root)
