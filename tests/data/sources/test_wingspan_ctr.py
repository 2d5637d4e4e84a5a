from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.config import ImportOptions
from evalfm.data.manifest import Manifest
from evalfm.data.sources.wingspan_ctr import import_source
from evalfm.errors import EvalfmError

NAMES = ("1.2.840.1.100.png", "1.2.840.1.200.png", "1.2.840.1.300.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("png", "mask/heart", "mask/left_lung", "mask/right_lung"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) + number).save(tmp_path / "png" / name)
        for finding in ("heart", "left_lung", "right_lung"):
            mask = np.zeros((3, 4), np.uint8)
            mask[number, 1] = 255
            Image.fromarray(mask).save(tmp_path / "mask" / finding / name)
    (tmp_path / "mask/heart" / NAMES[2]).unlink()
    (tmp_path / "ctr_ground_truth.csv").write_text(f"id,ctr\n{NAMES[1]},0.5001\n{NAMES[0]},0.5\n")
    return tmp_path


def read(root: Path) -> Manifest:
    imported = import_source(root, ImportOptions())
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return Manifest(info, imported.table, root)


def test_rows_ratios_and_masks(root: Path) -> None:
    data = read(root)
    data.validate()
    assert data.table["id"].tolist() == ["1.2.840.1.100", "1.2.840.1.200", "1.2.840.1.300"]
    assert np.array_equal(data.label("ctr"), [0.5, 0.5001, np.nan], equal_nan=True)
    assert np.array_equal(data.label("cardiomegaly"), [0, 1, np.nan], equal_nan=True)
    assert data.info.label_kind("ctr") == "number"
    assert data.findings == ["heart", "left_lung", "right_lung"]
    heart = data.mask(1, "heart")
    assert heart is not None
    assert np.argwhere(heart).tolist() == [[1, 1]]
    assert data.mask(2, "heart") is None
    assert data.mask(2, "left_lung") is not None
    assert data.info.notes == [
        "1 of 3 images have no cardiothoracic ratio.",
        "1 images have no heart mask.",
    ]


def test_without_the_table_there_are_masks_and_no_ratio(root: Path) -> None:
    (root / "ctr_ground_truth.csv").unlink()
    data = read(root)
    data.validate(deep=True)
    assert data.findings == ["heart", "left_lung", "right_lung"]
    assert not {"ctr", "cardiomegaly"} & set(data.table)
    assert data.info.notes[0] == "There is no ctr_ground_truth.csv, so no cardiothoracic ratio but that of the masks."


def test_patients_are_unknown_and_uids_do_not_leave(root: Path) -> None:
    data = read(root)
    assert not data.patients_known
    assert not data.info.public_ids
    assert "1.2.840" not in data.public_id(0)


def test_what_does_not_fit_is_named(root: Path) -> None:
    table = root / "ctr_ground_truth.csv"
    table.write_text("id,ctr\n1.2.9.png,0.4\n")
    with pytest.raises(EvalfmError, match=r"names 1 images that are not in png/, such as 1\.2\.9\.png"):
        read(root)
    table.write_text(f"id,ctr\n{NAMES[0]},0.4\n{NAMES[0]},0.5\n")
    with pytest.raises(EvalfmError, match="each image once"):
        read(root)
    table.write_text(f"id,ctr\n{NAMES[1]},0.5\n{NAMES[0]},large\n")
    with pytest.raises(EvalfmError, match=r"a number in `ctr` or nothing \(row 2: 'large'\)"):
        read(root)
    table.write_text("id,ratio\n")
    with pytest.raises(EvalfmError, match="no column 'ctr'"):
        read(root)
    for path in (root / "png").iterdir():
        path.unlink()
    with pytest.raises(EvalfmError, match=r"no png/\*\.png"):
        read(root)
