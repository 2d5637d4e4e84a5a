from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evalfm.data.manifest import Manifest
from evalfm.data.phantom import Dials, make_phantom, render
from evalfm.data.phantom.radiograph import FINDINGS
from evalfm.errors import EvalfmError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_phantom(tmp_path_factory.mktemp("phantom") / "set", n=40, size=64, seed=2)


def test_the_data_set_is_valid_and_says_what_it_is(manifest: Manifest) -> None:
    manifest.validate(deep=True)
    info = manifest.info
    assert info.synthetic
    assert info.redistributable_images
    assert info.public_ids
    assert {"sex", "age", "view", "scanner", "chest_tube", "ecg_leads"} <= set(info.attributes)
    assert info.label_source["pneumothorax"] == "phantom"
    assert "pneumothorax 0.35" in info.notes[0]
    assert len(manifest) == 40
    assert manifest.patients_known


def test_rows_hold_the_image_and_its_truth(manifest: Manifest) -> None:
    for row in (0, 7, 23):
        radiograph = render(2, row, 64)
        image = manifest.image(row)
        assert image.bits == 8
        assert image.pixels[0] == pytest.approx(radiograph.pixels, abs=0.5 / 255 + 1e-6)
        for finding in FINDINGS:
            assert np.array_equal(manifest.mask(row, finding), radiograph.masks[finding]), finding
        record = manifest.table.iloc[row]
        assert record["ctr"] == pytest.approx(radiograph.ctr)
        assert record["pneumothorax"] == radiograph.pneumothorax
        assert record["chest_tube"] == radiograph.chest_tube
        assert (record["sex"], record["view"], record["age"]) == (radiograph.sex, radiograph.view, radiograph.age)


def test_patients_stay_in_one_split(manifest: Manifest) -> None:
    table = manifest.table
    assert set(table["split"]) <= {"train", "val", "test"}
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert table["patient"].nunique() == 28


def test_the_same_numbers_give_the_same_bytes_with_any_number_of_workers(manifest: Manifest, tmp_path: Path) -> None:
    again = make_phantom(tmp_path / "again", n=12, size=64, seed=2, workers=2)
    for row in range(12):
        name = manifest.locator(row)
        assert (again.root / name).read_bytes() == (manifest.root / name).read_bytes()
    assert again.table["heart_mask"].tolist() == manifest.table["heart_mask"][:12].tolist()
    assert again.table["split"].tolist() == manifest.table["split"][:12].tolist()


FROZEN = {
    "images": "7f2d64f1d1b115682fa955cbee9ea44be4cc2fc9e03324b4ff75d288153c6e88",
    "labels": "a8dffd38f392c1213479478c3ef66ace6d92ac77218165d40e498168c1e1f816",
    "masks": "9ee9b001a88f758de090e63a9ca71abad22a50ebf5cf2ebfb3e82f3b79632135",
}
"""Of ten images of seed 0 at 256 pixels, taken before the figures of ``benchmarks/acceptance/demo_seeds.md``: the
phantom is not tuned to what they show. Who changes it on purpose makes them, the demo's picture and these anew."""
LABELS = ["id", "patient", "sex", "age", "view", "scanner", "pneumothorax", "cardiomegaly", "chest_tube", "ecg_leads"]


def test_the_phantom_is_as_it_was_when_the_figures_of_the_demo_were_made(tmp_path: Path) -> None:
    manifest = make_phantom(tmp_path / "frozen", n=10, size=256, seed=0)
    rows = range(len(manifest))
    labels = manifest.table[[*LABELS, "split"]].to_csv(index=False, lineterminator="\n")
    content = {
        "images": b"".join(np.rint(manifest.image(row).pixels * 255).astype(np.uint8).tobytes() for row in rows),
        "labels": labels.encode(),
        "masks": b"".join(np.packbits(manifest.mask(row, each)).tobytes() for row in rows for each in FINDINGS),
    }
    assert {name: hashlib.sha256(each).hexdigest() for name, each in content.items()} == FROZEN


def test_dials_reach_the_images(tmp_path: Path) -> None:
    dials = Dials(pneumothorax=1, tube_given_pneumothorax=1, ecg_leads=0)
    table = make_phantom(tmp_path / "all", n=6, size=64, dials=dials).table
    assert table["pneumothorax"].tolist() == [1] * 6
    assert table["chest_tube"].tolist() == [1] * 6
    assert table["ecg_leads"].tolist() == [0] * 6


def test_what_is_wrong_is_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(EvalfmError, match=r"0 images.*32 pixels.*holds something"):
        make_phantom(taken, n=0, size=32)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine.txt"]


def test_a_pipe_is_never_replaced_and_a_link_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EvalfmError, match="holds something already"):
        make_phantom(tmp_path / "pipe", n=1, size=64)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("made")
    make_phantom(tmp_path / "link", n=1, size=64)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "made" / "manifest.parquet").is_file()


def test_a_broken_off_phantom_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalfm.data.phantom import dataset

    real = dataset.render

    def breaks(seed: int, index: int, size: int, dials: Dials) -> object:
        if index == 3:
            raise KeyboardInterrupt
        return real(seed, index, size, dials)

    monkeypatch.setattr(dataset, "render", breaks)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "set", n=6, size=64)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_loads_neither_pandas_nor_scipy() -> None:
    code = "import sys, evalfm.data.phantom; sys.exit(bool({'pandas', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
