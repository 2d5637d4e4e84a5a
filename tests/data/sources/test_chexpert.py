from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_picture

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
BASE = "CheXpert-v1.0-small"


def row(path: str, side: str = "Frontal", view: str = "AP", labels: str = "," * 13, sex: str = "Female") -> str:
    return f"{BASE}/{path},{sex},68,{side},{view},{labels}\n"


def folder(tmp_path: Path) -> Path:
    place = tmp_path / BASE
    place.mkdir()
    images = [f"train/patient{number:05}/study1/view1_frontal.jpg" for number in range(1, 41)]
    more = ["train/patient00001/study2/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg"]
    for number, name in enumerate(images + more):
        write_picture(place / name, seed=number)
    # Pneumothorax 1, cardiomegaly -1, pneumonia 0, the rest blank.
    special = ",,-1.0,,,,,0.0,,1.0,,,,"
    text = row(images[0], labels=special) + row(images[0].replace("view1_frontal", "view2_lateral"), "Lateral", "")
    text += row(more[0], view="PA") + "".join(row(name, sex="Male") for name in images[1:])
    text += row("train/patient09999/study1/view1_frontal.jpg", sex="Unknown")
    (place / "train.csv").write_text(HEADER + text)
    (place / "valid.csv").write_text(HEADER + row(more[1], labels="0,0,1,0,0,0,0,0,0,0,0,0,0,0"))
    return place


def read(root: Path, **options: Any) -> Manifest:
    return read_source("chexpert", root, **options)


def test_labels_follow_the_conventions_and_the_options(tmp_path: Path) -> None:
    place = folder(tmp_path)
    data = read(place)
    data.validate()
    first = data.table.iloc[0]
    assert first["id"] == "train/patient00001/study1/view1_frontal"
    assert (first["pneumothorax"], first["pneumonia"], first["edema"]) == (1, 0, 0)
    assert np.isnan(first["cardiomegaly"])
    assert (data.info.blank, data.info.uncertain) == ("negative", "unknown")
    other = read(place, blank="unknown", uncertain="one").table.iloc[0]
    assert other["cardiomegaly"] == 1
    assert np.isnan(other["edema"])
    assert read(place, uncertain="zero").table.iloc[0]["cardiomegaly"] == 0
    assert "chest_tube" not in data.table
    assert (first["sex"], first["age"], first["view"]) == ("F", 68, "AP")


def test_side_views_and_absent_images_are_counted(tmp_path: Path) -> None:
    notes = read(folder(tmp_path)).info.notes
    assert "1 of 44 images are not frontal and were left out." in notes
    assert "1 of 43 rows have no image file and were left out." in notes


def test_patients_stay_together_and_valid_is_the_test_split(tmp_path: Path) -> None:
    data = read(folder(tmp_path))
    assert set(data.splits) == {"train", "val", "test"}
    assert data.patients[data.splits == "test"].tolist() == ["patient64541"]
    first = data.splits[data.patients == "patient00001"]
    assert len(first) == 2
    assert len(set(first)) == 1
    assert data.table["study"].tolist()[:2] == ["patient00001/study1", "patient00001/study2"]


def test_with_test_csv_the_official_splits_stand(tmp_path: Path) -> None:
    place = folder(tmp_path)
    write_picture(place / "test/patient70000/study1/view1_frontal.jpg", seed=99)
    (place / "test.csv").write_text(
        HEADER + row("test/patient70000/study1/view1_frontal.jpg", labels=",".join("0" * 14))
    )
    data = read(place)
    assert data.patients[data.splits == "test"].tolist() == ["patient70000"]
    assert data.patients[data.splits == "val"].tolist() == ["patient64541"]
    assert (data.splits == "train").sum() == 41


def test_paths_of_the_test_split_may_begin_with_it_and_say_no_side(tmp_path: Path) -> None:
    place = folder(tmp_path)
    names = [f"test/patient7000{number}/study1/view{number + 1}_frontal.jpg" for number in range(2)]
    for number, name in enumerate([*names, "test/patient70003/study1/view1_lateral.jpg"]):
        write_picture(place / name, seed=90 + number)
    labels = ",".join("0" * 14)
    lines = [f"{name},{labels}" for name in [*names, "test/patient70003/study1/view1_lateral.jpg"]]
    head = ",".join(["Path", *HEADER.split(",")[5:]])
    (place / "test.csv").write_text(head + "\n".join(lines) + "\n")
    for root in (place, tmp_path):
        data = read(root)
        data.validate()
        assert data.patients[data.splits == "test"].tolist() == ["patient70000", "patient70001"]
        assert data.patients[data.splits == "val"].tolist() == ["patient64541"]
        assert data.table["id"].tolist()[-1] == names[1].removesuffix(".jpg")
        assert data.table["sex"].tolist()[-1] is None
        assert "2 of 47 images are not frontal and were left out." in data.info.notes


def test_a_test_split_without_a_image_never_makes_valid_the_test(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "test.csv").write_text(HEADER + row("test/patient70000/study1/view1_frontal.jpg"))
    with pytest.raises(EvalfmError, match=r"No image of .*test\.csv is in .*, such as test/patient70000/study1/view1_"):
        read(place)


def test_notes_count_the_images_that_enter(tmp_path: Path) -> None:
    place = folder(tmp_path)
    absent = "".join(row(f"train/patient0800{n}/study1/view1_frontal.jpg").replace(",68,", ",168,") for n in range(5))
    (place / "train.csv").write_text((place / "train.csv").read_text() + absent)
    assert not any("ages are no years" in note for note in read(place).info.notes)


def test_the_folder_above_will_do_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path)
    data = read(tmp_path)
    data.validate()
    assert data.table["image"].iloc[0] == f"{BASE}/train/patient00001/study1/view1_frontal.jpg"
    assert data.table["id"].iloc[0] == "train/patient00001/study1/view1_frontal"
    with pytest.raises(EvalfmError, match=r"no train\.csv in .*, which holds patient00001"):
        read(place / "train")
    (place / "train.csv").write_text(HEADER.replace("Pneumothorax", "PTX") + row("train/p/x.jpg"))
    with pytest.raises(EvalfmError, match="names no patient and study"):
        read(place)
    (place / "train.csv").write_text(HEADER.replace("Pneumothorax", "PTX") + row("train/patient1/study1/x.jpg"))
    with pytest.raises(EvalfmError, match="no column 'Pneumothorax'"):
        read(place)
