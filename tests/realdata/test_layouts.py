"""Real files of sets whose layout evalfm reads: MedMNIST, a chest radiograph in DICOM, and ratios measured on masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.importing import import_data
from evalfm.data.report import check
from evalfm.data.table_one import associations
from evalfm.errors import EvalfmError
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.task import load_task

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


def test_pneumoniamnist(tmp_path: Path) -> None:
    data = import_data("medmnist", SHARED / "medmnist", tmp_path / "mnist")
    sizes = data.table["split"].value_counts().to_dict()
    # Eight of the 524 val images of the archive stand in its train as well.
    assert sizes == {"train": 4708, "val": 516, "test": 624}
    data.validate(deep=True)
    # Positives as in the archive itself.
    with np.load(SHARED / "medmnist/pneumoniamnist.npz") as arrays:
        for split in sizes:
            inside = data.splits == split
            places = [int(name.rpartition("_")[2]) for name in data.table["id"][inside]]
            assert np.array_equal(data.label("pneumonia")[inside], arrays[f"{split}_labels"][places, 0])
        last = arrays["test_images"][-1] / 255
    assert data.label("pneumonia")[data.splits == "test"].sum() == 390
    assert np.allclose(data.image(len(data) - 1).pixels[0], last)
    cohort = select_cohort(load_task("pneumonia-cls"), data)
    assert (len(cohort), cohort.class_names) == (5848, ("pneumonia",))


def test_ratios_from_masks_agree_with_those_of_the_set(tmp_path: Path) -> None:
    data = import_data("wingspan-ctr", SHARED / "wingspan-ctr", tmp_path / "ctr")
    given = data.label("ctr")
    measured = select_cohort(load_task("ctr"), type(data)(data.info, data.table.drop(columns="ctr"), data.folder))
    by_row = np.full(len(data), np.nan)
    by_row[measured.rows] = measured.target
    errors = np.abs(by_row - given)[~np.isnan(given)]
    assert (len(errors), np.isnan(errors).sum()) == (221, 0)
    assert errors.mean() <= 0.003


def test_nih_and_the_shortcut_that_its_views_offer(tmp_path: Path) -> None:
    data = import_data("nih-cxr14", SHARED / "nih-cxr14-starter", tmp_path / "nih")
    assert len(data) == 621
    counts = {name: int(data.label(name).sum()) for name in ("pneumothorax", "cardiomegaly", "pneumonia")}
    assert counts == {"pneumothorax": 44, "cardiomegaly": 56, "pneumonia": 32}
    assert data.table["sex"].value_counts().to_dict() == {"M": 326, "F": 295}
    assert data.table["view"].value_counts().to_dict() == {"PA": 518, "AP": 103}
    view = next(each for each in associations(data) if (each.label, each.attribute) == ("pneumothorax", "view"))
    assert (view.level, view.share_with, view.share_without) == ("AP", 16 / 103, 28 / 518)
    # By hand: (16 x 490) / (87 x 28), and Woolf's interval of its logarithm.
    assert view.odds.value == pytest.approx(16 * 490 / (87 * 28))
    assert view.odds.low == pytest.approx(1.671, abs=1e-3)
    assert view.p is not None
    assert view.p < 0.05
    report = check(data)
    assert report.passed
    # Seen by eye, two of them are inverted in truth.
    assert len(report.negatives) == 4


def test_wingspan_has_its_masks_and_ratios(tmp_path: Path) -> None:
    data = import_data("wingspan-ctr", SHARED / "wingspan-ctr", tmp_path / "ctr")
    assert len(data) == 259
    assert all(data.table[f"{finding}_mask"].notna().all() for finding in ("heart", "left_lung", "right_lung"))
    ratios = data.label("ctr")
    assert (int(np.isfinite(ratios).sum()), int((ratios > 0.5).sum())) == (221, 152)


def test_a_hospitals_radiograph_has_dark_air_and_must_be_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match=r"view unknown|do not rule out names"):
        import_data("dicom", SHARED / "dicom", tmp_path / "films")
    (tmp_path / "labels.csv").write_text("Modality,view\nx,PA\n")
    import pydicom

    name = str(pydicom.dcmread(SHARED / "dicom/RG1_J2KI.dcm", stop_before_pixels=True).SOPInstanceUID)
    (tmp_path / "labels.csv").write_text(f"SOPInstanceUID,view,pneumothorax\n{name},PA,0\n")
    data = import_data(
        "dicom", SHARED / "dicom", tmp_path / "films", label_table=tmp_path / "labels.csv", burned_in_checked=True
    )
    assert len(data) == 1
    radiograph = data.image(0)
    assert radiograph.pixels.shape == (1, 1955, 1841)
    corners = np.concatenate([radiograph.pixels[0, :40, :40].ravel(), radiograph.pixels[0, :40, -40:].ravel()])
    assert float(np.median(corners)) < float(np.median(radiograph.pixels))
    assert name not in data.table.to_csv()
