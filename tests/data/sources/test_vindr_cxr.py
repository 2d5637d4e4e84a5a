from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_dicom, write_picture

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
ROWS = (
    "f1,Pneumothorax,12,R1,1,1,4,4\n"
    "f1,Pneumothorax,12,R2,1,1,4,4\n"
    "f1,Pneumothorax,12,R2,5,5,6,6\n"
    "f1,Cardiomegaly,3,R3,1,1,4,4\n"
    "f2,No finding,14,R1,,,,\n"
    "f2,No finding,14,R2,,,,\n"
    "f2,Pleural effusion,10,R3,1,1,2,2\n"
    "f3,No finding,14,R1,,,,\n"
)
TEST = "image_id,class_name,x_min,y_min,x_max,y_max\nt1,Pleural effusion,1,1,2,2\nt2,No finding,,,,\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    for name, age in (("f1", "061Y"), ("f2", "000Y")):
        write_dicom(tmp_path / f"train/{name}.dicom", PatientAge=age, PatientSex="M", ViewPosition=None)
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("vindr-cxr", root)


def test_a_finding_needs_more_than_half_of_its_readers(root: Path) -> None:
    data = read(root)
    assert data.table["id"].tolist() == ["f1", "f2"]
    assert data.label("pneumothorax").tolist() == [1, 0]
    assert data.label("cardiomegaly").tolist() == [0, 0]
    assert data.label("pleural_effusion").tolist() == [0, 0]
    assert data.label("no_finding").tolist() == [0, 1]
    assert data.table["age"].tolist() == [61, 0]
    assert data.table["sex"].tolist() == ["M", "M"]
    assert "view" not in data.table
    assert "split" not in data.table
    assert data.info.notes == ["1 of 3 images of the tables have no file and were left out."]


def test_the_consensus_is_the_test_split(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "train.csv").rename(root / "annotations/annotations_train.csv")
    (root / "annotations/annotations_test.csv").write_text(TEST)
    for name in ("t1", "t2"):
        write_dicom(root / f"test/{name}.dicom")
    data = read(root)
    data.validate()
    assert data.table["id"].tolist() == ["f1", "f2", "t1", "t2"]
    assert data.splits[2:].tolist() == ["test", "test"]
    assert "test" not in data.splits[:2].tolist()
    assert data.label("pleural_effusion").tolist() == [0, 0, 1, 0]
    assert data.label("no_finding").tolist() == [0, 1, 0, 1]


def test_copies_as_png_have_no_headers(root: Path) -> None:
    for path in list((root / "train").iterdir()):
        path.unlink()
    write_picture(root / "train/f1.png")
    data = read(root)
    assert data.table["image"].tolist() == ["train/f1.png"]
    assert "age" not in data.table
    assert data.info.attributes == []


def test_a_wrong_root_is_named(root: Path) -> None:
    with pytest.raises(EvalfmError, match=r"no annotations/annotations_train\.csv in .*train, which holds"):
        read(root / "train")
    (root / "train.csv").write_text("image_id,class\nf1,x\n")
    with pytest.raises(EvalfmError, match="no column 'class_name'"):
        read(root)
