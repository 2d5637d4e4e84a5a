from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_picture

META = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate\n"
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    meta = (
        "aa-1,10000032,50414267,CHEST (PA AND LAT),PA,10,10,21800506\n"
        "aa-2,10000032,50414267,CHEST (PA AND LAT),LATERAL,10,10,21800506\n"
        "bb-1,10000764,57375967,CHEST (PORTABLE AP),AP,10,10,21320510\n"
        "cc-1,11000032,50000001,CHEST (PORTABLE AP),AP,10,10,21320510\n"
        "dd-1,11000033,50000002,CHEST,PA,10,10,21320510\n"
    )
    with gzip.open(tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write(META + meta)
    labels = (
        "10000032,50414267,,,,,,,,,1.0,,,,,\n10000764,57375967,,,-1.0,,,,,,,,,0.0,1.0,\n11000033,50000002" + "," * 14
    )
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv").write_text(LABELS + labels + "\n")
    (tmp_path / "mimic-cxr-2.0.0-negbio.csv").write_text(LABELS + labels.replace("1.0,\n1100", "0.0,\n1100") + "\n")
    split = "dicom_id,study_id,subject_id,split\n"
    split += "aa-1,50414267,10000032,train\naa-2,50414267,10000032,train\nbb-1,57375967,10000764,validate\n"
    split += "cc-1,50000001,11000032,test\ndd-1,50000002,11000033,test\n"
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text(split)
    for number, (subject, study, image) in enumerate(
        [("10000032", "50414267", "aa-1"), ("10000764", "57375967", "bb-1"), ("11000032", "50000001", "cc-1")]
    ):
        write_picture(tmp_path / f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg", seed=number)
    return tmp_path


def read(root: Path, **options: Any) -> Manifest:
    return read_source("mimic-cxr-jpg", root, **options)


def test_images_meet_the_labels_of_their_study(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["id"].tolist() == ["aa-1", "bb-1", "cc-1"]
    assert data.patients.tolist() == ["10000032", "10000764", "11000032"]
    assert data.splits.tolist() == ["train", "val", "test"]
    assert data.table["view"].tolist() == ["PA", "AP", "AP"]
    assert np.array_equal(data.label("pneumothorax"), [0, 1, np.nan], equal_nan=True)
    assert np.array_equal(data.label("consolidation"), [0, np.nan, np.nan], equal_nan=True)
    assert data.label("no_finding")[0] == 1
    assert not data.info.public_ids
    assert not data.info.redistributable_images
    assert "2180" not in data.table.to_csv()


def test_options_and_the_other_labeller(root: Path) -> None:
    assert read(root, uncertain="one").label("consolidation")[1] == 1
    assert np.isnan(read(root, blank="unknown").label("pneumothorax")[0])
    assert read(root, subset="negbio").label("pneumothorax")[1] == 0
    with pytest.raises(EvalfmError, match="--subset is chexpert or negbio"):
        read(root, subset="radiologist")


def test_what_is_left_out_is_counted(root: Path) -> None:
    assert read(root).info.notes == [
        "1 of 5 images are not PA or AP and were left out.",
        "1 of 4 rows have no image file and were left out.",
        "1 images are of studies without labels, which are unknown.",
    ]


def test_what_is_missing_or_double_is_named(root: Path) -> None:
    file = root / "mimic-cxr-2.0.0-chexpert.csv"
    file.write_text(file.read_text() + "10000032,50414267" + "," * 14 + "\n")
    with pytest.raises(EvalfmError, match="two rows for the study 10000032/50414267"):
        read(root)
    file.unlink()
    with pytest.raises(EvalfmError, match=r"no mimic-cxr-2\.0\.0-chexpert\.csv\.gz in"):
        read(root)


def test_a_split_of_another_version_is_refused(root: Path) -> None:
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\naa-1,1,1,train\n")
    with pytest.raises(EvalfmError, match="names no split for 4 images"):
        read(root)


def test_a_word_among_the_labels_is_named_with_its_row(root: Path) -> None:
    file = root / "mimic-cxr-2.0.0-chexpert.csv"
    file.write_text(file.read_text().replace("1.0", "seen", 1))
    with pytest.raises(EvalfmError, match=r"is 'seen'; write 0, 1 or nothing"):
        read(root).validate()
