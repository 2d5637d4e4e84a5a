"""Montgomery and Shenzhen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.errors import EvalfmError

from .films import imported, write_picture


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
    data = imported("montgomery", tmp_path)
    data.validate(deep=True)
    assert data.label("tuberculosis").tolist() == [0, 1, 1]
    assert data.table["sex"].tolist() == ["F", "M", None]
    assert np.allclose(data.table["age"], [27, 8 / 12, np.nan], equal_nan=True)
    left = data.mask(0, "left_lung")
    assert left is not None
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert data.mask(2, "right_lung") is None
    assert "1 of 3 films have no reading with sex or age." in data.info.notes
    assert "infiltrate" not in data.table.to_csv()


def test_shenzhen(tmp_path: Path) -> None:
    for number, name in enumerate(["CHNCXR_0001_0", "CHNCXR_0330_1", "CHNCXR_0331_1"]):
        write_picture(tmp_path / f"CXR_png/{name}.png", seed=number)
    half(tmp_path / "mask/CHNCXR_0001_0_mask.png", left=True)
    reading(tmp_path, "CHNCXR_0001_0", "male 45yrs\nnormal")
    reading(tmp_path, "CHNCXR_0330_1", "Female, 6 months\nPTB in the right upper field\n")
    reading(tmp_path, "CHNCXR_0331_1", "female 23 yrs\n\nSTB, 2007")
    data = imported("shenzhen", tmp_path)
    data.validate(deep=True)
    assert data.label("tuberculosis").tolist() == [0, 1, 1]
    assert data.table["sex"].tolist() == ["M", "F", "F"]
    assert data.table["age"].tolist() == [45, 0.5, 23]
    assert data.mask(0, "lungs") is not None
    assert data.mask(1, "lungs") is None
    assert "1 films are of patients under 18." in data.info.notes


@pytest.mark.parametrize(("source", "first"), [("montgomery", "MCUCXR"), ("shenzhen", "CHNCXR")])
def test_a_wrong_root_or_name_is_told(tmp_path: Path, source: str, first: str) -> None:
    write_picture(tmp_path / "images/x.png")
    with pytest.raises(EvalfmError, match=rf"no CXR_png/{first}_0001_0\.png in .*, which holds images"):
        imported(source, tmp_path)
    write_picture(tmp_path / f"CXR_png/{first}_0001_2.png")
    with pytest.raises(EvalfmError, match="is not named"):
        imported(source, tmp_path)
