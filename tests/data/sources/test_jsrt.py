from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data.images import image_size, read_image
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError

from .published import read_source


def write_image(path: Path, top: int = 4095) -> None:
    """Rows from dark (a large number, as JSRT has it) to bright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.repeat(np.linspace(top, 0, 2048).round().astype(">u2")[:, None], 2048, axis=1)
    values.tofile(path)


def outline(path: Path, left: int, right: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((1024, 1024), np.uint8)
    mask[400:600, left:right] = 255
    Image.fromarray(mask).convert("P").save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path / "All247images/JPCLN001.IMG")
    write_image(tmp_path / "All247images/JPCNN001.IMG")
    for fold, name, heart in (("fold1", "JPCLN001", (400, 700)), ("fold2", "JPCNN001", (450, 600))):
        outline(tmp_path / f"scr/{fold}/masks/heart/{name}.gif", *heart)
        outline(tmp_path / f"scr/{fold}/masks/left lung/{name}.gif", 550, 800)
        outline(tmp_path / f"scr/{fold}/masks/right lung/{name}.gif", 300, 500)
    (tmp_path / "jsrt_metadata.csv").write_text("Img,Age,Sex\nJPCNN001.IMG,61,Female\nJPCLN001.IMG,?,Male\n")
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("jsrt", root)


def test_images_are_read_with_air_dark(root: Path) -> None:
    image = read_image("All247images/JPCLN001.IMG", root)
    assert image_size("All247images/JPCLN001.IMG", root) == (2048, 2048)
    assert image.pixels.shape == (1, 2048, 2048)
    assert image.bits == 12
    # 4095 is stored where the image is black.
    assert image.pixels[0, 0, 0] == 0
    assert image.pixels[0, -1, 0] == 1
    assert image.pixels[0, 1024, 5] == pytest.approx(1024 / 2047, abs=1e-3)


def test_another_file_of_that_name_is_refused(root: Path) -> None:
    write_image(root / "All247images/JPCLN001.IMG", top=60000)
    with pytest.raises(EvalfmError, match="values up to 60000, where JSRT's images have 12 bits"):
        read_image("All247images/JPCLN001.IMG", root)


def test_labels_outlines_and_ratio(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.table["id"].tolist() == ["JPCLN001", "JPCNN001"]
    assert data.label("nodule").tolist() == [1, 0]
    # Both lungs reach from column 300 to 800; the heart is 300 and 150 wide.
    assert data.label("ctr").tolist() == [pytest.approx(0.6), pytest.approx(0.3)]
    assert data.label("cardiomegaly").tolist() == [1, 0]
    heart = data.mask(0, "heart")
    assert heart is not None
    assert heart.shape == (2048, 2048)
    assert np.flatnonzero(heart.any(axis=0))[[0, -1]].tolist() == [800, 1399]
    left = data.mask(0, "left_lung")
    assert left is not None
    # The left lung is the patient's, on the right of the image.
    assert np.flatnonzero(left.any(axis=0))[[0, -1]].tolist() == [1100, 1599]
    assert data.spacing_mm(0) == (0.175, 0.175)
    assert data.table["sex"].tolist() == ["M", "F"]
    assert np.array_equal(data.table["age"], [np.nan, 61], equal_nan=True)
    assert data.info.notes == [
        "1 ages are no years from 0 to 100 and were made unknown.",
        "SCR's two folds are the images of odd and of even numbers; the split here is another.",
    ]


@pytest.mark.parametrize(
    ("side", "kind", "value", "bits", "seen"),
    [
        (1024, np.uint8, 200, None, 200 / 255),
        (2048, np.uint16, 200, 12, 200 / 4095),
        (512, np.uint16, 40000, None, 40000 / 65535),
    ],
)
def test_copies_as_png_are_read(root: Path, side: int, kind: type, value: int, bits: int | None, seen: float) -> None:
    for path in list(root.rglob("*.IMG")):
        path.unlink()
        image = np.full((side, side), value, kind)
        image[0, 0] = 0
        (root / "png").mkdir(exist_ok=True)
        Image.fromarray(image).save(root / f"png/{path.stem}.png")
    for path in list(root.rglob("*.gif")):
        folder = path.parent.with_name(path.parent.name.replace(" ", "_"))
        folder.mkdir(exist_ok=True)
        Image.open(path).convert("L").save(folder / f"{path.stem}.png")
        path.unlink()
    data = read(root)
    data.validate(deep=True)
    assert data.table["image"].tolist() == ["png/JPCLN001.png", "png/JPCNN001.png"]
    assert data.label("nodule").tolist() == [1, 0]
    assert data.label("ctr").tolist() == [pytest.approx(0.6), pytest.approx(0.3)]
    assert data.spacing_mm(0) == pytest.approx((0.175 * 2048 / side, 0.175 * 2048 / side))
    assert data.info.bits == bits
    assert data.image(0).pixels[0, 5, 5] == pytest.approx(seen)
    assert any("The images are copies" in note for note in data.info.notes)


def test_without_outlines_there_is_no_ratio(root: Path) -> None:
    for path in list(root.rglob("*.gif")):
        path.unlink()
    data = read(root)
    assert "ctr" not in data.table
    assert data.findings == []
    assert "no cardiothoracic ratio" in data.info.notes[0]


def test_a_wrong_root_is_named(root: Path) -> None:
    with pytest.raises(EvalfmError, match=r"no All247images/JPCLN001\.IMG in .*scr, which holds fold1, fold2"):
        read(root / "scr")
