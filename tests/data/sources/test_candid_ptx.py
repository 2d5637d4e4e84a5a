from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_dicom

REPORTS = "SOPInstanceUID,StudyInstanceUID,EncodedPixels,Report,filename\n"
ROWS = (
    '1.2.1,9.1,10 3,"Large pneumothorax, Mr Smith",P007_1.dcm\n'
    "1.2.1,9.1,20 2,again,P007_1.dcm\n"
    "1.2.2,9.2,-1,normal,7_2.dcm\n"
    "1.2.3,9.3,,no reading,P12_1.dcm\n"
    "1.2.4,9.4,-1,normal,P13_1.dcm\n"
    "1.2.4,9.4,-1,normal,P14_1.dcm\n"
    "1.2.5,9.5,-1,no file,P15_1.dcm\n"
)
TUBES = "anon_SOPUID,anon_StudyUID,mask_rle\n1.2.1,9.1,1024 2\n1.2.2,9.2,-1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "Pneumothorax_reports.csv").write_text(REPORTS + ROWS)
    (tmp_path / "chest_tube.csv").write_text(TUBES)
    for name in ("1.2.1.dcm", "1.2.2", "1.2.3.dcm", "1.2.4.dcm"):
        write_dicom(tmp_path / "dataset" / name, side=(1024, 1024), PatientAge="061Y")
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("candid-ptx", root)


def test_labels_patients_and_masks(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["id"].tolist() == ["1.2.1", "1.2.2", "1.2.3"]
    assert data.table["image"].tolist() == ["dataset/1.2.1.dcm", "dataset/1.2.2", "dataset/1.2.3.dcm"]
    # P007 and 7 are one patient.
    assert data.patients.tolist() == ["7", "7", "12"]
    assert np.array_equal(data.label("pneumothorax"), [1, 0, np.nan], equal_nan=True)
    assert data.label("chest_tube").tolist() == [1, 0, 0]
    mask = data.mask(0, "pneumothorax")
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[10, 0], [11, 0], [12, 0], [20, 0], [21, 0]]
    tube = data.mask(0, "chest_tube")
    assert tube is not None
    assert np.argwhere(tube).tolist() == [[0, 1], [1, 1]]
    assert data.mask(2, "pneumothorax") is None
    assert "chest_tube" in data.info.attributes


def test_nothing_private_enters(root: Path) -> None:
    data = read(root)
    text = data.table.to_csv()
    assert not any(word in text for word in ("Smith", "normal", "2020", "9.1"))
    assert not data.info.public_ids


def test_what_is_left_out_is_counted(root: Path) -> None:
    notes = read(root).info.notes
    assert "1 rows of Pneumothorax_reports.csv have no name or no runs and say nothing." in notes
    assert "1 images belong to two patients or to none in some row, and were left out." in notes
    assert "1 of 4 images of the table have no file and were left out." in notes


def test_notes_count_the_images_that_are_there(root: Path) -> None:
    with (root / "Pneumothorax_reports.csv").open("a") as table:
        for number in range(20):
            table.write(f"5.{number},9.9,{number} 2,x,P20_1.dcm\n5.{number},9.9,{number + 50} 2,x,P20_1.dcm\n")
            table.write(f"6.{number},9.9,-1,x,P21_1.dcm\n6.{number},9.9,-1,x,P22_1.dcm\n7.{number},9.9,-1,x,Pxx.dcm\n")
    with (root / "chest_tube.csv").open("a") as table:
        table.write("".join(f"5.{number},9.9,\n" for number in range(20)))
    notes = read(root).info.notes
    assert "1 images have several regions, which were united." in notes
    assert "1 images belong to two patients or to none in some row, and were left out." in notes
    assert "21 of 24 images of the table have no file and were left out." in notes
    assert not any("no patient in their filename" in note or "without runs" in note for note in notes)


def test_an_image_without_a_patient_and_strange_tube_rows_are_reported(root: Path) -> None:
    with (root / "Pneumothorax_reports.csv").open("a") as table:
        table.write("1.2.6,9.6,-1,normal,Pxx_1.dcm\n")
    write_dicom(root / "dataset/1.2.6.dcm", side=(1024, 1024))
    (root / "chest_tube.csv").write_text(TUBES + "1.2.3,9.3,\n1.2.999,9.9,5 2\n")
    data = read(root)
    assert data.table["id"].tolist() == ["1.2.1", "1.2.2", "1.2.3"]
    # A tube that was listed and not drawn is neither there nor absent.
    assert np.array_equal(data.label("chest_tube"), [1, 0, np.nan], equal_nan=True)
    assert data.mask(2, "chest_tube") is None
    assert "1 images have no patient in their filename and were left out." in data.info.notes
    assert "1 images of chest_tube.csv have no row in Pneumothorax_reports.csv and were left out." in data.info.notes
    assert "1 images have a row in chest_tube.csv without runs; whether they show a tube is unknown." in data.info.notes


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "chest_tube.csv").unlink()
    with pytest.raises(EvalfmError, match=r"no chest_tube\.csv"):
        read(root)
    with pytest.raises(EvalfmError, match=r"no Pneumothorax_reports\.csv in .*dataset"):
        read(root / "dataset")
