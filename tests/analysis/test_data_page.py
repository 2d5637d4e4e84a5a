from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from evalfm.analysis.data_page import data_page
from evalfm.cli.app import app
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.report import check, looks_inverted

pytestmark = pytest.mark.usefixtures("in_full")


def image(seed: int, *, inverted: bool = False) -> np.ndarray:
    """A bright middle between two dark fields, with a little noise."""
    grey = np.full((64, 64), 160.0)
    grey[12:50, 8:24] = grey[12:50, 40:56] = 40
    grey += np.random.default_rng(seed).normal(0, 4, grey.shape)
    return (255 - grey if inverted else grey).clip(0, 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    for row in range(24):
        Image.fromarray(image(row, inverted=row == 5)).save(folder / f"{row}.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 10:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    rows = range(24)
    table = pd.DataFrame(
        {
            "id": [f"secret-{row}" for row in rows],
            "image": [f"{row}.png" for row in rows],
            "patient": [f"Smith {row}" for row in rows],
            "split": ["train"] * 16 + ["test"] * 8,
            "ptx": [float(row % 3 == 0) for row in rows],
            "ptx_mask": ["mask.png" if row % 3 == 0 else "-1" for row in rows],
            "view": ["AP" if row % 3 == 0 or row == 1 else "PA" for row in rows],
            "diary": ["<b>private</b>"] * 24,
        }
    )
    info = DatasetInfo(
        name="toy <set>",
        salt="pepper",
        label_source={"ptx": "radiologist"},
        mask_dialects={"ptx": "file"},
        attributes=["view"],
        notes=["3 rows were left out."],
    )
    manifest = Manifest(info, table, folder)
    manifest.write(folder)
    return manifest


def test_the_page_says_what_the_set_holds_and_nothing_private(data: Manifest) -> None:
    page = data_page(data, check(data))
    assert "8 (33.3 %)" in page
    assert "3 rows were left out." in page
    assert re.search(r">ptx</td><td [^>]*>view = AP</td><td [^>]*>88.9 %</td><td [^>]*>0.0 %</td>", page)
    assert "64 × 64" in page
    assert "toy &lt;set&gt;" in page
    assert not any(word in page for word in ("Smith", "secret-", "private", str(data.folder), "<img", "://"))
    assert "--with-images shows them" in page


def test_images_are_shown_only_where_they_may_be(data: Manifest) -> None:
    report = check(data)
    shown = data_page(data, report, with_images=True)
    # One sheet of images, one of those that look inverted.
    assert report.negatives == (5,)
    assert shown.count("data:image/png;base64,") == 2
    assert "secret-" not in shown
    free = Manifest(data.info.model_copy(update={"redistributable_images": True}), data.table, data.folder)
    assert data_page(free, report).count("data:image/png") == 2


def test_an_inverted_image_is_seen_and_a_side_view_is_not_judged(data: Manifest) -> None:
    assert not looks_inverted(image(0).astype(np.float32) / 255)
    assert looks_inverted(image(0, inverted=True).astype(np.float32) / 255)
    report = check(data)
    assert any("1 of 24 grey images look inverted" in remark for remark in report.remarks)
    sideways = data.table.assign(view=["LATERAL" if row == 5 else "PA" for row in range(24)])
    assert check(Manifest(data.info, sideways, data.folder)).negatives == ()
    assert report.sizes == {(64, 64, 8): 24}


def test_the_verb_writes_the_page_whole_or_says_why_not(data: Manifest, tmp_path: Path) -> None:
    def asked(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["data", "check", str(data.folder), *map(str, arguments)])
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked("--html", tmp_path / "page.html")
    assert code == 0
    assert "page.html" in said
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert "--html" in asked("--with-images")[1]
    assert "folder that is there" in asked("--html", tmp_path / "none/page.html")[1]
    code, said = asked("--json")
    assert code == 0
    assert '"associations"' in said
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(data.folder / "3.png")
    code, _ = asked("--html", tmp_path / "page.html")
    assert code == 2
    assert "1 fault to fix" in (tmp_path / "page.html").read_text()
