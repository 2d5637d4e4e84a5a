from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.config import ImportOptions
from evalfm.data.manifest import Manifest
from evalfm.data.sources.nih_cxr14 import FINDINGS, import_source
from evalfm.errors import EvalfmError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
ROWS = (
    "00000001_000.png,Cardiomegaly|Pleural_Thickening,0,1,58,M,PA,2500,2048,0.2,0.1\n"
    "00000001_001.png,No Finding,1,1,59,M,PA,2500,2000,0.1,0.1\n"
    "00000002_000.png,Pneumothorax,0,2,413,F,AP,2048,2500,0.171,0.171\n"
    "00000003_000.png,Hernia,0,3,3,F,AP,2048,2000,0.1,0.1\n"
    "00000004_000.png,Mass,0,4,60,F,AP,2048,2000,0.2,0.2\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(HEADER + ROWS)
    (tmp_path / "images_001/images").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    grey = Image.fromarray(np.arange(5000, dtype=np.uint16).reshape(50, 100).astype(np.uint8))
    grey.save(tmp_path / "images_001/images/00000001_000.png")
    grey.convert("RGBA").save(tmp_path / "images_001/images/00000001_001.png")
    grey.save(tmp_path / "images/00000002_000.png")
    grey.save(tmp_path / "images/00000003_000.png")
    return tmp_path


def read(root: Path) -> Manifest:
    imported = import_source(root, ImportOptions())
    return Manifest(imported.info.model_copy(update={"root": str(root)}), imported.table, root)


def test_rows_labels_and_places(root: Path) -> None:
    data = read(root)
    data.validate()
    assert data.table["id"].tolist() == ["00000001_000", "00000001_001", "00000002_000", "00000003_000"]
    assert data.patients.tolist() == ["1", "1", "2", "3"]
    assert data.locator(0) == "images_001/images/00000001_000.png"
    assert data.locator(2) == "images/00000002_000.png"
    assert len(data.labels) == len(FINDINGS) == 15
    positive = {name: np.flatnonzero(data.label(name)).tolist() for name in data.labels if data.label(name).any()}
    assert positive == {
        "cardiomegaly": [0],
        "pleural_thickening": [0],
        "no_finding": [1],
        "pneumothorax": [2],
        "hernia": [3],
    }
    assert set(data.info.label_source.values()) == {"text-mined"}
    assert data.table["sex"].tolist() == ["M", "M", "F", "F"]
    assert data.table["view"].tolist() == ["PA", "PA", "AP", "AP"]
    assert data.info.public_ids
    assert "split" not in data.table


def test_what_is_left_out_or_changed_is_reported(root: Path) -> None:
    data = read(root)
    assert np.array_equal(data.label("age"), [58, 59, np.nan, 3], equal_nan=True)
    assert [note.split(" ")[0] for note in data.info.notes] == ["1", "1", "2"]
    assert "1 of 5 rows have no image file" in data.info.notes[0]
    assert "1 ages above 100" in data.info.notes[1]


def test_spacing_is_scaled_by_each_side(root: Path) -> None:
    data = read(root)
    # 2048 and 2000 rows of .1 mm are too low for an adult, not for a child of three.
    assert data.spacing_mm(0) is None
    assert data.spacing_mm(1) is None
    assert data.spacing_mm(2) == pytest.approx((2500 * 0.171 / 50, 2048 * 0.171 / 100))
    assert data.spacing_mm(3) == pytest.approx((2000 * 0.1 / 50, 2048 * 0.1 / 100))
    assert "2 adult images would be under 250 mm high" in data.info.notes[2]


def test_row_and_column_spacing_are_not_exchanged(root: Path) -> None:
    rows = ROWS.replace("2500,2048,0.2,0.1", "2500,3000,0.2,0.1")
    (root / "Data_Entry_2017_v2020.csv").write_text(HEADER + rows)
    assert read(root).spacing_mm(0) == pytest.approx((3000 * 0.1 / 50, 2500 * 0.2 / 100))


def test_a_low_image_of_unknown_age_counts_as_an_adults(root: Path) -> None:
    rows = ROWS.replace("413,F,AP,2048,2500,0.171,0.171", "413,F,AP,2048,2500,0.09,0.09")
    (root / "Data_Entry_2017_v2020.csv").write_text(HEADER + rows)
    assert read(root).spacing_mm(2) is None


def test_the_table_of_2017(root: Path) -> None:
    table = (root / "Data_Entry_2017_v2020.csv").read_text()
    (root / "Data_Entry_2017_v2020.csv").unlink()
    old = table.replace(",58,", ",058Y,").replace(",59,", ",018M,").replace(",3,F,", ",073D,F,")
    (root / "Data_Entry_2017.csv").write_text("\n".join(f"{line}," for line in old.splitlines()))
    assert np.allclose(read(root).label("age"), [58, 1.5, np.nan, 73 / 365.25], equal_nan=True)


def test_official_lists_are_followed_and_val_is_hashed_out(root: Path) -> None:
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000003_000.png\n")
    with pytest.raises(EvalfmError, match=r"train_val_list\.txt and no test_list\.txt"):
        read(root)
    (root / "test_list.txt").write_text("00000002_000.png\n00000004_000.png\n")
    data = read(root)
    data.validate()
    assert data.splits[2] == "test"
    assert set(data.splits[[0, 1, 3]]) <= {"train", "val"}
    assert data.info.split is not None
    assert data.info.split.rule == "official"


def test_columns_are_found_by_name_and_missing_ones_named(root: Path) -> None:
    file = root / "Data_Entry_2017_v2020.csv"
    reordered = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join([*cells[1:], f" {cells[0]}"]) for cells in reordered))
    assert read(root).table["id"].tolist()[0] == "00000001_000"
    file.write_text((HEADER + ROWS).replace("Finding Labels", "Findings"))
    with pytest.raises(EvalfmError, match=r"no column 'Finding Labels'\. Did you mean 'Findings'"):
        read(root)
    file.write_text(HEADER + ROWS.replace("Hernia", "Hernie"))
    with pytest.raises(EvalfmError, match="does not know: 'Hernie'"):
        read(root)


def test_no_images_at_all(root: Path) -> None:
    for path in root.glob("images*/**/*.png"):
        path.unlink()
    with pytest.raises(EvalfmError, match=r"no images/00000001_000\.png in .* which holds Data_Entry"):
        read(root)


def test_a_broken_image_is_kept_for_the_checks_and_reported(root: Path) -> None:
    (root / "images/00000002_000.png").write_bytes(b"no image")
    data = read(root)
    assert data.spacing_mm(2) is None
    assert any("1 image files cannot be read, such as 00000002_000.png" in note for note in data.info.notes)
