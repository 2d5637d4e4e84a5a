from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source, write_dicom

SIDE = (1024, 1024)
HEADER = "ImageId, EncodedPixels\n"


def gaps(*runs: tuple[int, int]) -> str:
    """(start, length) in column-major pixels as SIIM writes them: gap and length by turns."""
    words, position = [], 0
    for start, length in runs:
        words += [start - position, length]
        position = start + length
    return " ".join(map(str, words))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, age, sex in (("a", "28", "F"), ("b", "081", "M"), ("c", "055Y", "F"), ("extra", "1", "M")):
        path = tmp_path / "dicom-images-train" / f"study.{name}" / f"series.{name}" / f"1.2.276.{name}.dcm"
        write_dicom(path, side=SIDE, PatientAge=age, PatientSex=sex, PatientID=f"own-{name}", ViewPosition="AP")
    rows = [
        f"1.2.276.a, {gaps((10, 3), (1024 * 5 + 100, 4))}",
        "1.2.276.b, -1",
        f"1.2.276.c,{gaps((0, 2))}",
        f"1.2.276.c, {gaps((1, 5), (2000, 1))}",
        "1.2.276.gone, -1",
    ]
    (tmp_path / "train-rle.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("siim-acr", root)


def test_rows_labels_and_headers(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["id"].tolist() == ["1.2.276.a", "1.2.276.b", "1.2.276.c"]
    assert data.label("pneumothorax").tolist() == [1, 0, 1]
    assert data.table["age"].tolist() == [28, 81, 55]
    assert data.table["sex"].tolist() == ["F", "M", "F"]
    assert data.table["view"].tolist() == ["AP"] * 3
    assert not data.patients_known
    assert data.info.derived_from == ["nih-cxr14"]
    assert not data.info.redistributable_images


def test_ages_beyond_any_life_are_unknown_and_a_child_keeps_no_spacing(root: Path) -> None:
    folder = root / "dicom-images-train/more/series"
    # As in the set: 148 and 413, and spacings of the image of some 2500 pixels that became 1024.
    for name, age in (("a", "413"), ("b", "148"), ("c", "5"), ("d", "12")):
        write_dicom(folder / f"9.9.{name}.dcm", side=SIDE, PatientAge=age, PixelSpacing=[0.143, 0.143])
    with (root / "train-rle.csv").open("a") as table:
        table.write("".join(f"9.9.{name}, -1\n" for name in "abcd"))
    data = read(root)
    assert np.array_equal(data.table["age"][3:], [np.nan, np.nan, 5, 12], equal_nan=True)
    # 12 years and .143 mm would be an image 146 mm high.
    assert [data.spacing_mm(row) for row in range(3, 7)] == [None] * 4
    assert data.image(6).spacing_mm is None
    assert "2 of 7 images have no age in their header, or one beyond 120 years." in data.info.notes


def test_regions_are_counted_in_the_images_that_are_there(root: Path) -> None:
    with (root / "train-rle.csv").open("a") as table:
        table.write("".join(f"1.2.276.absent{n}, {start} 5\n" for n in range(30) for start in (0, 50)))
    notes = read(root).info.notes
    assert "1 images have several regions, which were united." in notes
    assert "31 of 34 images of the table have no file and were left out." in notes


def test_masks_run_down_the_columns_and_regions_are_united(root: Path) -> None:
    data = read(root)
    first = data.mask(0, "pneumothorax")
    assert first is not None
    # Pixel 10 of the first column is row 10; 5 x 1024 + 100 is row 100 of column 5.
    assert np.argwhere(first).tolist() == [[10, 0], [11, 0], [12, 0], [100, 5], [101, 5], [102, 5], [103, 5]]
    empty = data.mask(1, "pneumothorax")
    assert empty is not None
    assert not empty.any()
    both = data.mask(2, "pneumothorax")
    assert both is not None
    assert np.argwhere(both).tolist() == [[row, 0] for row in range(6)] + [[2000 - 1024, 1]]


def test_what_is_left_out_is_counted(root: Path) -> None:
    notes = read(root).info.notes
    assert "1 images have several regions, which were united." in notes
    assert "1 of 4 images of the table have no file and were left out." in notes
    assert "1 images have no row in train-rle.csv and were left out." in notes


def test_contradictions_and_runs_of_another_size_are_refused(root: Path) -> None:
    table = root / "train-rle.csv"
    text = table.read_text()
    table.write_text(text + "1.2.276.c, -1\n")
    with pytest.raises(EvalfmError, match=r"says of 1\.2\.276\.c that it is empty and that it is marked"):
        read(root)
    table.write_text(text + f"1.2.276.c, {1024 * 1024} 5\n")
    with pytest.raises(EvalfmError, match=r"1\.2\.276\.c: A run-length mask leaves its image of 1024 × 1024"):
        read(root)


def test_a_wrong_root_or_table_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match=r"no train-rle\.csv in .*, which holds"):
        read(root / "dicom-images-train")
    (root / "train-rle.csv").write_text("ImageId,Pixels\n1.2.276.a,-1\n")
    with pytest.raises(EvalfmError, match="no column 'EncodedPixels'"):
        read(root)
    (root / "train-rle.csv").write_text(HEADER + "1.2.9,-1\n")
    with pytest.raises(EvalfmError, match=r"no dicom-images-train/\*/\*/1\.2\.9\.dcm"):
        read(root)
