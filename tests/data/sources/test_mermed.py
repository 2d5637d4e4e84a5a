from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.config import ImportOptions
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest
from evalfm.data.sources.mermed import import_source
from evalfm.errors import EvalfmError


def read(root: Path, **options: object) -> Manifest:
    imported = import_source(root, ImportOptions(**options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


CSV = (
    "image_path, label ,split,age,gender,report\n"
    "a/1.png,Viral Pneumonia,train,45,female,free words\n"
    "a/2.png,Normal,validation,413,M,free words\n"
    "./b/3.png,COVID,test,,unknown,free words\n"
    "b/4.png,,test,old,F,free words\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/4.png")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / "data" / name)
    (tmp_path / "data/cxr.csv").write_text(CSV)
    return tmp_path / "data"


def test_words_splits_and_attributes(root: Path) -> None:
    data = read(root)
    data.validate()
    assert data.table["label"].tolist() == ["Viral Pneumonia", "Normal", "COVID", None]
    assert data.splits.tolist() == ["train", "val", "test", "test"]
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]
    assert np.array_equal(data.label("age"), [45, np.nan, np.nan, np.nan], equal_nan=True)
    assert data.table["sex"].tolist() == ["F", "M", None, "F"]
    assert data.info.name == "cxr"
    assert data.info.label_kind("label") == "class"
    assert "report" not in data.table
    assert data.info.notes == [
        "2 ages are no years from 0 to 100 and were made unknown.",
        "1 sexes are neither female nor male in the set's words and were made unknown.",
    ]


def test_several_labels_are_read_from_their_list_and_never_run(root: Path, tmp_path: Path) -> None:
    text = 'image_path,label\na/1.png,"[1, 0, 0]"\na/2.png,"[0, 1, 1]"\nb/3.png,\n'
    (root / "cxr.csv").write_text(text)
    data = read(root)
    assert data.labels == ["label_0", "label_1", "label_2"]
    assert np.array_equal(
        [data.label(name) for name in data.labels], [[1, 0, np.nan], [0, 1, np.nan], [0, 1, np.nan]], equal_nan=True
    )
    (root / "cxr.csv").write_text(text.replace("label", "label_multihot,label").replace("\n", ",x\n"))
    assert read(root).labels == ["label_0", "label_1", "label_2"]
    (root / "cxr.csv").write_text(text.replace("[0, 1, 1]", "[0, 1]"))
    with pytest.raises(EvalfmError, match="lists of 2 and of 3 labels"):
        read(root)
    witness = tmp_path / "run"
    for bad in (f"[__import__('pathlib').Path('{witness}').touch()]", "[0, 2]", "[]", "['0']"):
        (root / "cxr.csv").write_text(text.replace("[0, 1, 1]", bad))
        with pytest.raises(EvalfmError, match="where a list of 0 and 1 is expected"):
            read(root)
    assert not witness.exists()


def test_numbers_are_classes_or_a_label(root: Path) -> None:
    (root / "cxr.csv").write_text("image_path,label\na/1.png,0\na/2.png,3\n")
    data = read(root)
    assert (data.label("label").tolist(), data.info.label_kind("label")) == ([0, 3], "class")
    (root / "cxr.csv").write_text("image_path,label\na/1.png,0\na/2.png,1\n")
    assert read(root).info.label_kind("label") == "binary"


def test_without_a_split_patients_are_assigned_and_stay_whole(root: Path, tmp_path: Path) -> None:
    rows = ["image_path,label,patient_id"]
    for number in range(30):
        Image.new("L", (4, 4), number).save(root / f"{number}.png")
        rows.append(f"{number}.png,{number % 2},p{number // 3}")
    (root / "cxr.csv").write_text("\n".join(rows) + "\n")
    data = import_data("mermed", root, tmp_path / "out")
    assert data.patients_known
    assert (data.table.groupby("patient")["split"].nunique() == 1).all()
    assert data.info.split is not None
    assert data.info.split.rule == "hash"


def test_a_table_elsewhere_and_one_of_several(root: Path, tmp_path: Path) -> None:
    (root / "cxr.csv").rename(tmp_path / "labels.csv")
    assert len(read(root, label_table=tmp_path / "labels.csv")) == 4
    (root / "a.csv").write_text(CSV)
    (root / "b.csv").write_text(CSV)
    with pytest.raises(EvalfmError, match=r"holds 2 sets .* --subset a\.csv"):
        read(root)
    assert read(root, subset="b").info.name == "b"


def test_what_does_not_fit_is_named(root: Path) -> None:
    file = root / "cxr.csv"
    file.write_text(CSV.replace("image_path", "path"))
    with pytest.raises(EvalfmError, match="no column 'image_path'"):
        read(root)
    file.write_text(CSV.replace(" label ", "target"))
    with pytest.raises(EvalfmError, match="no column 'label'"):
        read(root)
    file.write_text(CSV.replace("validation", "holdout"))
    with pytest.raises(EvalfmError, match="'holdout' in the column 'split'"):
        read(root)
    file.write_text(CSV.replace("a/1.png", ""))
    with pytest.raises(EvalfmError, match="1 rows without image_path"):
        read(root)
    file.write_text(CSV.replace("a/1.png", "c/1.png"))
    assert read(root).info.notes[0] == "1 of 4 rows have no image file and were left out, all of train among them."
    file.write_text(CSV.replace("a/", "x/").replace("b/", "x/"))
    with pytest.raises(EvalfmError, match=r"no x/1\.png in .* which holds a, b, cxr\.csv"):
        read(root)
