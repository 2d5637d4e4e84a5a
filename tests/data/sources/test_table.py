from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.manifest import Manifest
from evalfm.data.sources import ImportOptions, TableMapping
from evalfm.data.sources.table import import_source
from evalfm.errors import EvalfmError

CSV = (
    "File,PID,Set,PTX,Grade,Ratio,Report,Sex,Age,Site\n"
    "a/1.png,007,training,1,2,0.5,free text,F,60,01\n"
    "a/2.png,7,VALID,-1,,0.25,more text,M,,02\n"
    "a/3.png,8,test,,0,,text,,5,01\n"
)
MAPPING = TableMapping(
    name="mine",
    image="File",
    patient="PID",
    split="Set",
    labels={"pneumothorax": "PTX", "grade": "Grade", "ratio": "Ratio"},
    label_kinds={"grade": "class", "ratio": "number"},
    label_source={"pneumothorax": "radiologist"},
    attributes={"sex": "Sex", "age": "Age", "site": "Site"},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/a").mkdir(parents=True)
    for number in (1, 2, 3):
        (tmp_path / f"data/a/{number}.png").touch()
    (tmp_path / "mine.csv").write_text(CSV)
    return tmp_path / "data"


def read(root: Path, mapping: TableMapping | None = None, **options: object) -> Manifest:
    if mapping is None:
        mapping = MAPPING.model_copy(update={"csv": root.parent / "mine.csv"})
    imported = import_source(root, ImportOptions(mapping=mapping, **options))  # type: ignore[arg-type]
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


def test_mapped_columns_enter_and_no_other(root: Path) -> None:
    data = read(root)
    data.validate()
    assert data.table.columns.tolist() == [
        "image", "id", "patient", "split", "pneumothorax", "grade", "ratio", "sex", "age", "site",
    ]  # fmt: skip
    assert data.table["id"].tolist() == ["a/1.png", "a/2.png", "a/3.png"]
    assert data.patients.tolist() == ["007", "7", "8"]
    assert data.splits.tolist() == ["train", "val", "test"]
    assert np.array_equal(data.label("grade"), [2, np.nan, 0], equal_nan=True)
    assert np.array_equal(data.label("ratio"), [0.5, 0.25, np.nan], equal_nan=True)
    assert data.table["site"].tolist() == ["01", "02", "01"]
    assert data.info.attributes == ["sex", "age", "site"]
    assert data.info.label_source == {
        "pneumothorax": "radiologist",
        "grade": "unstated",
        "ratio": "unstated",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, np.nan, np.nan]),
        ({"uncertain": "zero"}, [1, 0, np.nan]),
        ({"uncertain": "one"}, [1, 1, np.nan]),
        ({"blank": "negative"}, [1, np.nan, 0]),
        ({"blank": "negative", "uncertain": "one"}, [1, 1, 0]),
    ],
)
def test_blank_and_uncertain_labels(root: Path, options: dict[str, str], expected: list[float]) -> None:
    data = read(root, **options)
    assert np.array_equal(data.label("pneumothorax"), expected, equal_nan=True)
    # Numbers and classes have no uncertain value.
    assert np.array_equal(data.label("ratio"), [0.5, 0.25, np.nan], equal_nan=True)
    assert (data.info.blank, data.info.uncertain) == (
        options.get("blank", "unknown"),
        options.get("uncertain", "unknown"),
    )


def test_an_image_folder_with_metadata(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,secret\na/1.png,x\na/2.png,y\n")
    data = read(root, TableMapping())
    assert data.info.name == "data"
    assert data.table.columns.tolist() == ["image", "id"]
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png"]
    assert not data.patients_known


def test_an_image_folder_with_a_folder_per_split(tmp_path: Path) -> None:
    for name, rows in (("train", "1.png,1\n2.png,0\n"), ("validation", "3.png,1\n"), ("test", "4.png,0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.csv").write_text("file_name,label\n" + rows)
    (tmp_path / "other").mkdir()
    data = read(tmp_path, TableMapping(labels={"label": "label"}))
    assert dict(zip(data.table["image"], data.splits, strict=True)) == {
        "train/1.png": "train",
        "train/2.png": "train",
        "validation/3.png": "val",
        "test/4.png": "test",
    }
    by_image = dict(zip(data.table["image"], data.label("label"), strict=True))
    assert by_image["train/1.png"] == by_image["validation/3.png"] == 1


def test_paths_become_relative_where_they_lie_in_the_root(root: Path) -> None:
    (root / "metadata.csv").write_text(f"file_name\n{root}/a/1.png\n./a/2.png\n/elsewhere/a/3.png\n")
    data = read(root, TableMapping())
    assert data.table["image"].tolist() == ["a/1.png", "a/2.png", "/elsewhere/a/3.png"]
    with pytest.raises(EvalfmError, match=r"row 3: image '/elsewhere/a/3\.png' is absolute"):
        data.validate()


def test_masks_kept_columns_and_parquet(root: Path) -> None:
    table = pd.DataFrame({"path": ["a/1.png", "a/2.png"], "key": [1, 2], "rle": ["1 2", None], "note": ["x", "y"]})
    table.to_parquet(root.parent / "mine.parquet")
    mapping = TableMapping(
        csv=root.parent / "mine.parquet", image="path", id="key", masks={"tube": "rle"},
        mask_dialects={"tube": "absolute"}, keep=["note"],
    )  # fmt: skip
    data = read(root, mapping)
    data.validate()
    assert data.table["id"].tolist() == ["1", "2"]
    assert data.table["tube_mask"].tolist() == ["1 2", None]
    assert data.info.mask_dialects == {"tube": "absolute"}
    assert data.table["note"].tolist() == ["x", "y"]
    assert data.info.attributes == []


def test_words_as_labels_and_unknown_splits_are_named_by_the_checks(root: Path) -> None:
    text = CSV.replace("training,1", "training,yes").replace("VALID", "holdout")
    (root.parent / "mine.csv").write_text(text)
    with pytest.raises(EvalfmError) as caught:
        read(root).validate()
    assert "row 1: pneumothorax is 'yes'; write 0, 1 or nothing" in str(caught.value)
    assert "row 2: split is 'holdout'" in str(caught.value)


def test_mappings_that_do_not_fit_are_refused(root: Path) -> None:
    def mapped(**changes: object) -> Manifest:
        return read(root, MAPPING.model_copy(update={"csv": root.parent / "mine.csv", **changes}))

    with pytest.raises(EvalfmError, match=r"mine\.csv has no column 'Reports'. Did you mean 'Report'"):
        mapped(patient="Reports")
    with pytest.raises(EvalfmError, match="Two columns are mapped to 'patient'"):
        mapped(attributes={"patient": "Sex"})
    with pytest.raises(EvalfmError, match="cannot be named 'split'"):
        mapped(labels={"split": "PTX"})


def test_a_list_of_labels_keeps_their_names() -> None:
    mapping = TableMapping.model_validate({"labels": ["a", "b"], "attributes": ["sex"]})
    assert mapping.labels == {"a": "a", "b": "b"}
    assert mapping.attributes == {"sex": "sex"}
