"""Real files of sets whose layout evalfm reads: MedMNIST, a chest film in DICOM, and ratios measured on masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.importing import import_data
from evalfm.tasks.card import load_task
from evalfm.tasks.question import pose

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


def test_pneumoniamnist(tmp_path: Path) -> None:
    data = import_data("medmnist", SHARED / "medmnist", tmp_path / "mnist")
    sizes = data.table["split"].value_counts().to_dict()
    assert sizes == {"train": 4708, "val": 524, "test": 624}
    # Positives as in the archive itself.
    with np.load(SHARED / "medmnist/pneumoniamnist.npz") as arrays:
        for split in sizes:
            labels = data.label("pneumonia")[data.splits == split]
            assert np.array_equal(labels, arrays[f"{split}_labels"][:, 0])
        last = arrays["test_images"][-1] / 255
    assert data.label("pneumonia")[data.splits == "test"].sum() == 390
    assert np.allclose(data.image(len(data) - 1).pixels[0], last)
    question = pose(load_task("pneumonia-cls"), data)
    assert (len(question), question.class_names) == (5856, ("pneumonia",))


def test_ratios_from_masks_agree_with_those_of_the_set(tmp_path: Path) -> None:
    data = import_data("wingspan-ctr", SHARED / "wingspan-ctr", tmp_path / "ctr")
    given = data.label("ctr")
    measured = pose(load_task("ctr"), type(data)(data.info, data.table.drop(columns="ctr"), data.folder))
    by_row = np.full(len(data), np.nan)
    by_row[measured.rows] = measured.target
    errors = np.abs(by_row - given)[~np.isnan(given)]
    assert (len(errors), np.isnan(errors).sum()) == (221, 0)
    assert errors.mean() <= 0.003
