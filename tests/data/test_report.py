from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.report import LabelCounts, check, looks_inverted

INFO = DatasetInfo(name="toy", public_ids=True, label_source={"ptx": "radiologist"})


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))


def manifest(folder: Path, pixels: list[np.ndarray], info: DatasetInfo = INFO) -> Manifest:
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(folder / f"{number}.png")
    rows = range(len(pixels))
    table = pd.DataFrame(
        {
            "id": [str(row) for row in rows],
            "image": [f"{row}.png" for row in rows],
            "patient": [str(row // 2) for row in rows],
            "split": ["train" if row < 2 else "test" for row in rows],
            "ptx": [1.0 if row == 0 else 0.0 if row == 1 else np.nan for row in rows],
        }
    )
    return Manifest(info, table, folder)


def test_a_sound_set_is_counted(tmp_path: Path) -> None:
    report = check(manifest(tmp_path, [np.arange(12, dtype=np.uint8).reshape(3, 4) + row for row in range(4)]))
    assert report.passed
    assert (report.rows, report.patients) == (4, 2)
    assert report.splits == {"test": 2, "train": 2}
    assert report.labels == {"ptx": LabelCounts(positive=1, negative=1, unknown=2)}
    assert report.remarks == ()


def test_every_fault_is_reported_and_none_raised(tmp_path: Path) -> None:
    data = manifest(tmp_path, [np.arange(12, dtype=np.uint8).reshape(3, 4) + row for row in range(5)])
    (tmp_path / "0.png").write_bytes(b"no image")
    Image.fromarray(np.full((3, 4), 7, np.uint8)).save(tmp_path / "1.png")
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes())
    report = check(Manifest(data.info, data.table.assign(ptx=[3.0, 0, 0, 0, 0]), tmp_path))
    lines = [str(fault) for fault in report.faults]
    assert sum(line.startswith("row 1: ptx is 3") for line in lines) == 1
    assert sum(line.startswith("row 1: the image cannot be decoded") for line in lines) == 1
    assert sum(line.startswith("row 2: all pixels of the image have the value") for line in lines) == 1
    assert [line for line in lines if line.startswith("row 3:")] == [
        f"row 3: image '2.png' is not there (root {tmp_path})"
    ]
    assert sum("'1', '3' have identical bytes and are in test and train" in line for line in lines) == 1
    assert not any(line.startswith("row 5") for line in lines)


def test_sixteen_bits_that_are_twelve_must_be_declared(tmp_path: Path) -> None:
    pixels = [np.arange(12, dtype=np.uint16).reshape(3, 4) * 300 + row for row in range(2)]
    (fault,) = check(manifest(tmp_path, pixels)).faults
    assert "fewer bits are significant" in str(fault)
    assert check(manifest(tmp_path, pixels, INFO.model_copy(update={"bits": 12}))).passed
    assert check(manifest(tmp_path, [values * 15 for values in pixels])).passed


def test_a_missing_root_ends_the_look(tmp_path: Path) -> None:
    data = manifest(tmp_path, [np.arange(4, dtype=np.uint8).reshape(2, 2)], INFO.model_copy(update={"root": "gone"}))
    report = check(data)
    assert [str(fault).startswith("the root") for fault in report.faults] == [True]


def test_unknown_patients_and_no_split_are_remarks(tmp_path: Path) -> None:
    data = manifest(tmp_path, [np.arange(4, dtype=np.uint8).reshape(2, 2) + row for row in range(2)])
    report = check(Manifest(INFO, data.table.drop(columns=["patient", "split"]), tmp_path))
    assert report.passed
    assert report.patients is None
    assert [remark.split(":")[0] for remark in report.remarks] == ["Patients unknown", "No split yet"]


def frontal(height: int = 300, width: int = 260) -> np.ndarray:
    """A frontal image in blocks: air, body, dark lungs, a bright middle and a white abdomen."""
    rows, columns = np.mgrid[0:height, 0:width]
    across, down = columns / width, rows / height
    image = np.where((across > 0.04) & (across < 0.96), 0.5, 0.0)
    image[((abs(across - 0.27) < 0.13) | (abs(across - 0.73) < 0.13)) & (down > 0.15) & (down < 0.75)] = 0.2
    image[(abs(across - 0.5) < 0.09) & (down > 0.1)] = 0.7
    image[(down > 0.8) & (across > 0.04) & (across < 0.96)] = 0.8
    return image.astype(np.float32)


BORDERS = {
    "none": ((0, 0), (0, 0)),
    "all round": ((40, 60), (50, 30)),
    "at the sides": ((0, 0), (150, 150)),
    "above and below": ((200, 200), (0, 0)),
    "above": ((150, 0), (0, 0)),
    "below": ((0, 150), (0, 0)),
    "at the left": ((0, 0), (160, 0)),
}


@pytest.mark.parametrize("where", BORDERS)
@pytest.mark.parametrize("shade", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("inverted", [False, True])
def test_borders_make_no_image_look_inverted_and_hide_none(where: str, shade: float, inverted: bool) -> None:
    image = 1 - frontal() if inverted else frontal()
    assert looks_inverted(np.pad(image, BORDERS[where], constant_values=shade).astype(np.float32)) is inverted


@pytest.mark.parametrize("shade", [0.0, 1.0])
@pytest.mark.parametrize("inverted", [False, True])
def test_slanting_collimation_is_no_image(shade: float, inverted: bool) -> None:
    image = 1 - frontal() if inverted else frontal()
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    image[columns + rows * 0.15 < 50] = shade
    image[columns + rows * 0.15 > 270] = shade
    image[rows - columns * 0.15 < 10] = shade
    assert looks_inverted(image) is inverted


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_image_of_one_value_looks_like_nothing(value: float) -> None:
    assert not looks_inverted(np.full((90, 90), value, np.float32))
