from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalfm.data.assign_splits import assign_splits
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_table, split_keys
from evalfm.errors import EvalfmError

from .published import read_source, write_dicom


def write(path: Path, **tags: Any) -> str:
    """An image of a hospital, with all that may name somebody."""
    facts = {
        "AccessionNumber": "A1",
        "PatientID": "P1",
        "PresentationIntentType": "FOR PRESENTATION",
        "BurnedInAnnotation": "NO",
        "Manufacturer": "Acme",
    }
    return write_dicom(path, **{**facts, **tags})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    write(folder / "a/IM0001")
    write(folder / "a/IM0002", AccessionNumber="A2", ViewPosition="AP", Modality="CR", PresentationIntentType=None)
    write(folder / "b/IM0001.dcm", AccessionNumber="A3", PatientID="P2", PatientSex="M", PatientAge="018M")
    write(folder / "b/side", ViewPosition="LL")
    write(folder / "b/raw", PresentationIntentType="FOR PROCESSING")
    write(folder / "b/ct", Modality="CT")
    (folder / "notes.txt").write_text("Dear colleague")
    return folder


def read(root: Path, **options: Any) -> Manifest:
    return read_source("dicom", root, **options)


def labels(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text(text)
    return tmp_path / "labels.csv"


def test_frontal_images_enter_and_the_rest_is_counted(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["image"].tolist() == ["a/IM0001", "a/IM0002", "b/IM0001.dcm"]
    assert data.table["view"].tolist() == ["PA", "AP", "PA"]
    assert data.table["sex"].tolist() == ["F", "F", "M"]
    assert data.table["age"].tolist() == [90.0, 90.0, 1.5]
    assert data.info.notes == ["Left out: 1 modality CT, 1 not DICOM, 1 not for presentation, 1 not frontal."]
    assert float(data.image(0).pixels.max()) == pytest.approx(1.0)


def test_patients_are_kept_apart_and_nobody_is_named(root: Path) -> None:
    data = read(root)
    assert data.patients[0] == data.patients[1] != data.patients[2]
    said = data.table.to_csv() + repr(data.info)
    assert not any(word in said for word in ("Smith", "P1", "P2", "A1", "2020", "1.2.826"))
    assert len(set(data.table["id"])) == 3
    assert all(len(name) == 16 for name in data.table["id"])


def test_an_import_again_gives_the_same_hashes(root: Path, tmp_path: Path) -> None:
    first = import_data("dicom", root, tmp_path / "out")
    again = import_data("dicom", root, tmp_path / "out", force=True)
    assert again.table["id"].tolist() == first.table["id"].tolist()
    other = import_data("dicom", root, tmp_path / "other")
    assert set(other.table["id"]).isdisjoint(first.table["id"])


def test_labels_meet_by_accession_and_only_zeros_and_ones_enter(root: Path, tmp_path: Path) -> None:
    path = labels(tmp_path, "acc,Pneumothorax,MRN,report\nA1,1,77,Jane Smith\nA3,-1,78,x\nA9,0,79,y\n")
    data = read(root, label_table=path, join_on="AccessionNumber=acc")
    assert np.array_equal(data.label("pneumothorax"), [1, np.nan, np.nan], equal_nan=True)
    assert "Jane" not in data.table.to_csv()
    facts = ["sex", "age", "view", "manufacturer", "pneumothorax"]
    assert list(data.table.columns) == ["id", "image", "patient", "split_key", *facts]
    assert "2 of 3 images" not in data.info.notes[0]
    assert data.info.notes[0].startswith("5 of 6 images have a row in labels.csv; 1 of its 3 rows have no image.")
    assert data.info.notes[-1] == "2 columns of the labels did not enter."
    zero = read(root, label_table=path, join_on="AccessionNumber=acc", uncertain="zero", blank="negative")
    assert zero.label("pneumothorax").tolist() == [1, 0, 0]


def test_a_view_may_come_from_the_labels(root: Path, tmp_path: Path) -> None:
    write(root / "c/unknown", ViewPosition=None, AccessionNumber="A4", PatientID="P4")
    write(root / "c/side2", ViewPosition=None, AccessionNumber="A5", PatientID="P5")
    assert "2 view unknown" in read(root).info.notes[0]
    path = labels(tmp_path, "AccessionNumber,view,ptx\nA4,ap,1\nA5,LATERAL,0\n")
    data = read(root, label_table=path, join_on="AccessionNumber")
    assert data.table["image"].tolist()[-1] == "c/unknown"
    assert data.table["view"].tolist()[-1] == "AP"
    assert data.label("ptx")[-1] == 1


def test_names_in_the_pixels_must_be_ruled_out(root: Path) -> None:
    write(root / "a/IM0003", BurnedInAnnotation=None)
    with pytest.raises(EvalfmError, match="1 of 4 images do not rule out names in their pixels"):
        read(root)
    data = read(root, burned_in_checked=True)
    assert len(data) == 4
    assert "said to have been looked at" in data.info.notes[-1]


def test_copies_and_damage_are_counted(root: Path) -> None:
    uid = write(root / "a/IM0009")
    write(root / "z/again", SOPInstanceUID=uid)
    (root / "z/broken").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04")
    note = read(root).info.notes[0]
    assert "1 copies of an image" in note
    assert "1 damaged" in note or "1 no pixels" in note


def test_labels_that_contradict_or_meet_nothing_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="several different rows for 1 values of acc, the first in line 3"):
        read(root, label_table=labels(tmp_path, "acc,ptx\nA1,1\nA1,0\n"), join_on="AccessionNumber=acc")
    with pytest.raises(EvalfmError, match="No AccessionNumber of 6 images"):
        read(root, label_table=labels(tmp_path, "acc,ptx\nB1,1\n"), join_on="AccessionNumber=acc")
    with pytest.raises(EvalfmError, match="'AccessionNumber'"):
        read(root, label_table=labels(tmp_path, "acc,ptx\nA1,1\n"), join_on="Accession=acc")
    with pytest.raises(EvalfmError, match="no column of 0 and 1"):
        read(root, label_table=labels(tmp_path, "acc,ptx\nA1,yes\n"), join_on="AccessionNumber=acc")
    with pytest.raises(EvalfmError, match="Labels need their table"):
        read(root, join_on="AccessionNumber")


def test_an_image_without_a_patient_is_refused_where_others_have_one(root: Path) -> None:
    write(root / "a/IM0004", PatientID=None)
    with pytest.raises(EvalfmError, match="1 of 4 images have no PatientID"):
        read(root)


def test_a_wrong_root_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"no")
    with pytest.raises(EvalfmError, match=r"no \*\.dcm with pixels in .*, which holds image\.png"):
        read(tmp_path)


def test_another_salt_gives_other_names_and_the_same_split(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for number in range(40):
        write(folder / f"IM{number:04d}", AccessionNumber=f"A{number}", PatientID=f"P{number % 25}")
    kept = {}
    for out in ("one", "two"):
        data = import_data("dicom", folder, tmp_path / out, seed=3, burned_in_checked=True)
        kept[out] = Manifest.read(tmp_path / out)
        assert kept[out].splits.tolist() == data.splits.tolist()
        assert not any(f"P{number}" in kept[out].table.to_csv() for number in range(25))
    one, two = kept["one"], kept["two"]
    assert set(one.patients).isdisjoint(two.patients)
    # A plain hash of a patient's number could be found by trying numbers out.
    assert set(one.table["split_key"]).isdisjoint(two.table["split_key"])
    assert set(one.table["split_key"]).isdisjoint(split_keys([f"P{number}" for number in range(25)]))
    assert one.split_keys.tolist() == two.split_keys.tolist()
    assert set(one.split_keys) == set(split_keys([f"P{number}" for number in range(25)]))
    assert len(set(one.splits)) == 3
    assert one.splits.tolist() == two.splits.tolist()
    again = [assign_splits(each, seed=8).splits.tolist() for each in (one, two)]
    assert again[0] == again[1] != one.splits.tolist()
    assert "split_key" not in public_table(one)


def test_without_patients_the_images_themselves_keep_their_split_under_any_salt(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for number in range(20):
        write(folder / f"IM{number:04d}", PatientID="")
    one, two = (import_data("dicom", folder, tmp_path / out, burned_in_checked=True) for out in ("one", "two"))
    assert set(one.patients).isdisjoint(two.patients)
    assert one.splits.tolist() == two.splits.tolist()
    assert len(set(one.splits)) > 1
