"""The sources on the real files in ../shared/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.data.importing import import_data
from evalfm.data.manifest import read_data
from evalfm.data.privacy import public_table
from evalfm.data.report import check

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))


def test_nih_cxr14(tmp_path: Path) -> None:
    data = import_data("nih-cxr14", SHARED / "nih-cxr14-starter", tmp_path / "nih")
    assert len(data) == len(set(data.patients)) == 621
    assert {name: int(data.label(name).sum()) for name in ("pneumothorax", "cardiomegaly", "pneumonia")} == {
        "pneumothorax": 44,
        "cardiomegaly": 56,
        "pneumonia": 32,
    }
    assert data.table["sex"].value_counts().to_dict() == {"M": 326, "F": 295}
    assert data.table["view"].value_counts().to_dict() == {"PA": 518, "AP": 103}
    assert (data.label("age").min(), data.label("age").max()) == (2, 86)
    assert int((data.where("view == 'AP'") & data.where("pneumothorax == 1")).sum()) == 16
    # 2991 rows of .143 mm on 320 stored rows, 2482 columns on 320.
    row = data.table["id"].tolist().index("00000075_000")
    assert data.spacing_mm(row) == pytest.approx((2991 * 0.143 / 320, 2482 * 0.143 / 320))
    assert data.image(row).pixels.shape == (1, 320, 320)
    data.validate(deep=True)
    assert public_table(data).columns.tolist() == ["id", "patient", "split", "sex", "age", "view"]


def test_wingspan_ctr(tmp_path: Path) -> None:
    data = import_data("wingspan-ctr", SHARED / "wingspan-ctr", tmp_path / "ctr", copy_images=True)
    assert len(data) == 259
    ratios = data.label("ctr")
    assert np.isnan(ratios).sum() == 259 - 221
    assert np.nanmean(ratios) == pytest.approx(0.536, abs=5e-4)
    assert np.nansum(data.label("cardiomegaly")) == 152
    read_data(tmp_path / "ctr").validate(deep=True)
    heart = data.mask(0, "heart")
    assert heart is not None
    assert heart.shape == data.size(0) == (384, 384)
    # A heart fills a twentieth to a third of a radiograph and lies in its middle.
    assert 0.05 < heart.mean() < 0.33
    assert 0.3 < np.argwhere(heart)[:, 1].mean() / 384 < 0.7
    assert not data.patients_known
    assert "1.2." not in public_table(data).to_csv()


def test_the_real_radiographs_pass_every_check(tmp_path: Path) -> None:
    data = import_data("nih-cxr14", SHARED / "nih-cxr14-starter", tmp_path / "nih", stratify="pneumothorax")
    report = check(data)
    assert report.faults == ()
    assert report.labels["pneumothorax"].positive == 44
    positives = [int(data.label("pneumothorax")[data.splits == part].sum()) for part in ("train", "val", "test")]
    assert positives == [31, 4, 9]
