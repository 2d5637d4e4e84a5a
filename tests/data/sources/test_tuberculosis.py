"""Montgomery and Shenzhen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.errors import EvalfmError

from .published import read_source, write_picture


def half(path: Path, *, left: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((6, 8), np.uint8)
    mask[:, :4] = 255 if left else 0
    mask[:, 4:] = 0 if left else 255
    Image.fromarray(mask).save(path)


def reading(root: Path, name: str, text: str) -> None:
    (root / "ClinicalReadings").mkdir(exist_ok=True)
    (root / f"ClinicalReadings/{name}.txt").write_text(text)


def test_montgomery(tmp_path: Path) -> None:
    for number, name in enumerate(["MCUCXR_0001_0", "MCUCXR_0104_1", "MCUCXR_0108_1"]):
        write_picture(tmp_path / f"CXR_png/{name}.png", seed=number)
    for name in ("MCUCXR_0001_0", "MCUCXR_0104_1"):
        half(tmp_path / f"ManualMask/leftMask/{name}.png", left=True)
        half(tmp_path / f"ManualMask/rightMask/{name}.png", left=False)
    reading(tmp_path, "MCUCXR_0001_0", "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n\n")
    reading(tmp_path, "MCUCXR_0104_1", "Patient's Sex: M\nPatient's Age: 008M\ninfiltrate from 2 years ago, 55Y\n")
    data = read_source("montgomery", tmp_path)
    data.validate(deep=True)
    assert data.label("tuberculosis").tolist() == [0, 1, 1]
    assert data.table["sex"].tolist() == ["F", "M", None]
    assert np.allclose(data.table["age"], [27, 8 / 12, np.nan], equal_nan=True)
    left = data.mask(0, "left_lung")
    assert left is not None
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert data.mask(2, "right_lung") is None
    assert "1 of 3 images have no sex in their reading, 1 no age." in data.info.notes
    assert "infiltrate" not in data.table.to_csv()


def test_shenzhen(tmp_path: Path) -> None:
    for number, name in enumerate(["CHNCXR_0001_0", "CHNCXR_0330_1", "CHNCXR_0331_1"]):
        write_picture(tmp_path / f"CXR_png/{name}.png", seed=number)
    half(tmp_path / "mask/CHNCXR_0001_0_mask.png", left=True)
    reading(tmp_path, "CHNCXR_0001_0", "male 45yrs\nnormal")
    reading(tmp_path, "CHNCXR_0330_1", "Female, 6 months\nPTB in the right upper field\n")
    reading(tmp_path, "CHNCXR_0331_1", "female 23 yrs\n\nSTB, 2007")
    data = read_source("shenzhen", tmp_path)
    data.validate(deep=True)
    assert data.label("tuberculosis").tolist() == [0, 1, 1]
    assert data.table["sex"].tolist() == ["M", "F", "F"]
    assert data.table["age"].tolist() == [45, 0.5, 23]
    assert data.mask(0, "lungs") is not None
    assert data.mask(1, "lungs") is None
    assert "1 images are of patients under 18." in data.info.notes


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("femal 32yrs\nnormal", "F", 32),
        ("Female, 0.5yrs\nnormal", "F", 0.5),
        ("male 5-month", "M", 5 / 12),
        ("female 64days\n", "F", 64 / 365.25),
        ("\nmale\n24yrs\nnormal", "M", 24),
        # What a report says further down is of something else.
        ("Patient's Sex: O\nPatient's Age: 033Y\nfollows a male of 20 yrs", None, 33),
        ("Patient's Sex: M\nPatient's Age: \ncough for 6 months", "M", None),
        ("normal\nfemale 20 yrs", None, None),
        ("male 245yrs", "M", None),
        ("male 1045yrs", "M", None),
        ("Patient's Sex: \nPatient's Age: 018M", None, 1.5),
    ],
)
def test_sex_and_age_are_read_where_the_set_writes_them(
    tmp_path: Path, text: str, sex: str | None, age: float | None
) -> None:
    write_picture(tmp_path / "CXR_png/CHNCXR_0001_0.png")
    reading(tmp_path, "CHNCXR_0001_0", text)
    row = read_source("shenzhen", tmp_path).table.iloc[0]
    assert row["sex"] == sex
    assert np.isnan(row["age"]) if age is None else row["age"] == pytest.approx(age)


def test_a_palette_of_greys_is_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "CXR_png/CHNCXR_0001_0.png"
    path.parent.mkdir()
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image.putpalette([level for grey in (200, 100, 0, 255) for level in (grey, grey, grey)])
    image.save(path)
    assert Image.open(path).mode == "P"
    pixels = read_source("shenzhen", tmp_path).image(0).pixels
    assert np.allclose(pixels, np.array([[[200, 100], [0, 255]]]) / 255)


def test_masks_of_shenzhen_may_lie_in_a_folder_of_either_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "CXR_png/CHNCXR_0001_0.png")
    half(tmp_path / "masks/CHNCXR_0001_0_mask.png", left=True)
    mask = read_source("shenzhen", tmp_path).mask(0, "lungs")
    assert mask is not None
    assert mask[:, :4].all()
    assert not mask[:, 4:].any()


@pytest.mark.parametrize(("source", "first"), [("montgomery", "MCUCXR"), ("shenzhen", "CHNCXR")])
def test_a_wrong_root_or_name_is_reported(tmp_path: Path, source: str, first: str) -> None:
    write_picture(tmp_path / "images/x.png")
    with pytest.raises(EvalfmError, match=rf"no CXR_png/{first}_0001_0\.png in .*, which holds images"):
        read_source(source, tmp_path)
    write_picture(tmp_path / f"CXR_png/{first}_0001_2.png")
    with pytest.raises(EvalfmError, match="is not named"):
        read_source(source, tmp_path)
