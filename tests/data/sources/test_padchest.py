from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_picture

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,"
    "Report,Labels\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        "0,a.png,0,20140915,s1,p1,1930.0,F,PA,Physician,neumotorax,\"['pneumothorax ', 'Chest Drain Tube', '']\"",
        "1,b.png,0,20150101,s2,p1,1930.0,F,AP_horizontal,RNN_model,x,\"['normal']\"",
        "2,c.png,36,20150101,s3,p2,1800.0,M,AP,RNN_model,x,",
        "3,d.png,36,20150101,s4,p3,1950.0,M,L,RNN_model,x,\"['normal']\"",
        "4,e.png,36,20150101,s5,p4,1950.0,M,PA,RNN_model,x,\"['exclude']\"",
        "5,f.png,36,20150101,s6,,1950.0,M,PA,RNN_model,x,\"['normal']\"",
        "6,g.png,36,20150101,s7,p6,1950.0,O,PA,RNN_model,x,\"['laminar atelectasis', 'unchanged']\"",
        "7,h.png,36,20150101,s8,p7,1950.0,M,PA,RNN_model,x,\"['normal']\"",
    ]
    (tmp_path / TABLE).write_text(HEADER + "\n".join(rows) + "\n")
    for number, name in enumerate(["0/a", "0/b", "36/c", "36/d", "36/e", "36/f", "36/g"]):
        write_picture(tmp_path / f"{name}.png", seed=number, deep=True)
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("padchest", root)


def test_labels_ages_and_views(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["image"].tolist() == ["0/a.png", "0/b.png", "36/c.png", "36/g.png"]
    assert data.patients.tolist() == ["p1", "p1", "p2", "p6"]
    assert np.array_equal(data.label("pneumothorax"), [1, 0, np.nan, 0], equal_nan=True)
    assert np.array_equal(data.label("chest_tube"), [1, 0, np.nan, 0], equal_nan=True)
    assert data.label("atelectasis")[3] == 1
    assert data.label("no_finding")[1] == 1
    assert data.table["view"].tolist() == ["PA", "AP", "AP", "PA"]
    assert np.array_equal(data.table["age"], [84, 85, np.nan, 65], equal_nan=True)
    assert data.table["sex"].tolist() == ["F", "F", "M", None]
    assert data.table["label_method"].tolist() == ["Physician", "RNN_model", "RNN_model", "RNN_model"]
    assert {"chest_tube", "label_method"} <= set(data.info.attributes)
    assert data.image(0).bits == 16


def test_reports_dates_and_births_do_not_enter(root: Path) -> None:
    text = read(root).table.to_csv()
    assert not any(word in text for word in ("neumotorax", "2014", "1930"))


def test_what_is_left_out_is_counted(root: Path) -> None:
    assert read(root).info.notes == [
        "1 images are not PA or AP and were left out.",
        "1 images are marked to be excluded and were left out.",
        "1 images name no patient and were left out.",
        "1 of 5 rows have no image file and were left out.",
        "1 ages are not from 0 to 100 and were made unknown.",
    ]


def test_images_may_all_lie_in_the_root(root: Path) -> None:
    for path in list(root.glob("*/*.png")):
        path.rename(root / path.name)
    for folder in (root / "0", root / "36"):
        folder.rmdir()
    assert read(root).table["image"].tolist() == ["a.png", "b.png", "c.png", "g.png"]


def test_cells_that_are_no_lists_are_never_run(root: Path) -> None:
    bad = "9,z.png,0,20140915,s1,p1,1930.0,F,PA,Physician,x,\"__import__('os').getcwd()\"\n"
    (root / TABLE).write_text(HEADER + bad)
    with pytest.raises(EvalfmError, match="where a list is expected"):
        read(root)
    with pytest.raises(EvalfmError, match=r"no PADCHEST_chest.*\.csv in"):
        read(root / "0")
