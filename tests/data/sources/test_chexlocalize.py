from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.data.masks import encode
from evalfm.errors import EvalfmError

from .published import read_source, write_picture

SIDE = (10, 7)
FINDINGS = (
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Lesion,Lung Opacity,Edema,Consolidation,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Support Devices"
)


def square() -> np.ndarray:
    mask = np.zeros(SIDE, dtype=bool)
    mask[2:5, 3:6] = True
    return mask


def coco(mask: np.ndarray) -> dict[str, Any]:
    text = encode("coco", mask)
    counts = json.loads(text)["counts"] if text.startswith("{") else text
    return {"size": list(SIDE), "counts": counts}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "CheXlocalize").mkdir()
    nothing = np.zeros(SIDE, dtype=bool)
    outlines = {
        "patient64541_study1_view1_frontal": {
            "Pneumothorax": coco(square()),
            "Airspace Opacity": coco(square()),
            "Consolidation": coco(nothing),
        },
        "patient64541_study1_view2_lateral": {"Pneumothorax": coco(square())},
        "patient64542_study1_view1_frontal": {"Edema": coco(square())},
    }
    (tmp_path / "CheXlocalize/gt_segmentations_test.json").write_text(json.dumps(outlines))
    for number, name in enumerate(["patient64541", "patient64542", "patient64543"]):
        write_picture(tmp_path / f"CheXpert/test/{name}/study1/view1_frontal.jpg", SIDE, seed=number)
    labels = "Path,Pathologies," + FINDINGS + "\n"
    labels += "test/patient64541/study1/view1_frontal.jpg,,0,1,0,1,0,0,0,1,0,0\n"
    labels += "test/patient64542/study1/view1_frontal.jpg,,0,0,0,0,0,0,0,0,0,0\n"
    labels += "test/patient64543/study1/view1_frontal.jpg,,0,0,0,0,0,0,0,0,0,0\n"
    (tmp_path / "CheXpert/test_labels.csv").write_text(labels)
    return tmp_path


def read(root: Path) -> Manifest:
    return read_source("chexlocalize", root)


def test_outlines_labels_and_what_neither_says(root: Path) -> None:
    data = read(root)
    data.validate(deep=True)
    assert data.patients.tolist() == ["patient64541", "patient64542", "patient64543"]
    assert set(data.splits) == {"test"}
    assert data.label("pneumothorax").tolist() == [1, 0, 0]
    mask = data.mask(0, "pneumothorax")
    assert mask is not None
    assert np.array_equal(mask, square())
    # Labelled positive, not outlined: nobody knows where.
    assert data.label("cardiomegaly")[0] == 1
    assert data.mask(0, "cardiomegaly") is None
    # Airspace opacity is lung opacity, and an outline of nothing is none.
    opacity = data.mask(0, "lung_opacity")
    assert opacity is not None
    assert np.array_equal(opacity, square())
    assert data.label("lung_opacity").tolist() == [1, 0, 0]
    assert data.table["consolidation_mask"].tolist() == ["-1", "-1", "-1"]
    # An outline counts against the label.
    assert data.label("edema").tolist() == [0, 1, 0]
    assert any("1 test images have Edema outlined though labelled negative" in note for note in data.info.notes)
    assert "1 test images are not frontal and were left out." in data.info.notes


def test_without_labels_a_finding_is_where_it_is_outlined(root: Path) -> None:
    (root / "CheXpert/test_labels.csv").unlink()
    data = read(root)
    assert data.table["id"].tolist() == [
        "test/patient64541_study1_view1_frontal",
        "test/patient64542_study1_view1_frontal",
    ]
    assert data.label("pneumothorax").tolist() == [1, 0]
    assert data.label("cardiomegaly").tolist() == [0, 0]


def test_the_validation_split_is_val(root: Path) -> None:
    write_picture(root / "CheXpert/val/patient1/study1/view1_frontal.jpg", SIDE, seed=9)
    outlines = {"patient1_study1_view1_frontal": {"Edema": coco(square())}}
    (root / "CheXlocalize/gt_segmentations_val.json").write_text(json.dumps(outlines))
    data = read(root)
    assert data.splits.tolist() == ["val", "test", "test", "test"]


def test_a_swapped_size_or_unknown_finding_is_refused(root: Path) -> None:
    file = root / "CheXlocalize/gt_segmentations_test.json"
    content = json.loads(file.read_text())
    content["patient64541_study1_view1_frontal"]["Hernia"] = coco(square())
    file.write_text(json.dumps(content))
    with pytest.raises(EvalfmError, match="'Hernia', which CheXlocalize does not have"):
        read(root)
    file.write_text("[]")
    with pytest.raises(EvalfmError, match="no mapping"):
        read(root)
    file.unlink()
    with pytest.raises(EvalfmError, match=r"no CheXlocalize/gt_segmentations_test\.json"):
        read(root)


def test_masks_of_another_size_than_the_image_are_a_fault(root: Path) -> None:
    write_picture(root / "CheXpert/test/patient64541/study1/view1_frontal.jpg", SIDE[::-1])
    data = read(root)
    with pytest.raises(EvalfmError, match=r"size \[10, 7\], its image \[7, 10\]"):
        data.validate(deep=True)
