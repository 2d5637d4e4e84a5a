"""Probes side by side, on a full disk, twice over, in other batches and on damaged features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.predictions import PREDICTIONS
from evalfm.probing.probe import probe
from evalfm.run import HEAD, Run


@pytest.fixture(scope="module")
def told():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("child.py")), folder, "company", "full"],
            env=os.environ | {"EVALFM_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["full"]["codes"] == [0] * 17, done.stderr
    return json.loads(done.stdout)


posix = pytest.mark.skipif(sys.platform != "linux", reason="the child forks and sets limits")


@posix
@pytest.mark.parametrize("start", ["new", "forced"])
def test_two_probes_that_publish_one_run_at_once_leave_one_run(told, start):
    assert told["company"]["codes"] == [0] * 5
    assert told["company"][start] == {"met": 2, "as_alone": True, "whole": [True], "left": []}


@posix
def test_a_full_disk_is_told_lists_nothing_and_the_next_call_works(told):
    scenes = told["full"]["scenes"]
    assert [scene["start"] for scene in scenes] == ["stored"] * 5 + ["empty"] * 3
    for scene in scenes:
        what = "run could not be written" if scene["start"] == "stored" else "cannot be written"
        assert what in scene["message"], scene
        assert "free" in scene["message"], scene
        assert scene["listed"] == 0, scene
        assert scene["left"] == [], scene
        assert scene["after"], scene


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twenty-four noisy radiographs, the positives a little brighter."""
    folder = tmp_path_factory.mktemp("films")
    generator = np.random.default_rng(0)
    lines = []
    for radiograph in range(24):
        pixels = generator.normal(100 + 6 * (radiograph % 2), 30, (48, 48)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{radiograph}.png")
        split = "train" if radiograph < 12 else "val" if radiograph < 18 else "test"
        lines.append(
            {
                "id": f"f{radiograph}",
                "image": f"{radiograph}.png",
                "patient": f"p{radiograph}",
                "split": split,
                "sign": radiograph % 2,
            }
        )
    info = DatasetInfo(name="films", public_ids=True, label_source={"sign": "mask"})
    Manifest(info, pd.DataFrame(lines), folder).write(folder)
    return Manifest.read(folder)


def probed(radiographs: Manifest, out: Path, monkeypatch: pytest.MonkeyPatch, home: Path, **options: object) -> Run:
    monkeypatch.setenv("EVALFM_HOME", str(home))
    asked = {"encoder": "random:resnet18", "input_size": 32, "heads": ["linear"], "baselines": "none", **options}
    (run,) = probe(task="sign", data=radiographs, out=out, **asked)  # type: ignore[arg-type]
    return run


def stored(run: Run) -> tuple[bytes, ...]:
    return (run.folder / PREDICTIONS).read_bytes(), (run.folder / HEAD).read_bytes()


@pytest.fixture
def first(radiographs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return probed(radiographs, tmp_path / "first", monkeypatch, tmp_path / "home")


def test_the_same_command_twice_gives_the_same_bytes(
    first: Run, radiographs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, scores = stored(first), first.predictions()["score_sign"]
    assert scores.nunique() > 6
    # Over the run itself with its features stored, and from nothing.
    again = probed(radiographs, tmp_path / "first", monkeypatch, tmp_path / "home", force=True)
    assert again.folder == first.folder
    assert again.record.provenance != first.record.provenance
    assert stored(again) == before
    assert stored(probed(radiographs, tmp_path / "second", monkeypatch, tmp_path / "other-home")) == before


def test_another_batch_size_changes_no_prediction_by_more_than_rounding(
    first: Run, radiographs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = probed(radiographs, tmp_path / "second", monkeypatch, tmp_path / "other-home", batch_size=5)
    assert other.record.key == first.record.key
    ours, theirs = (run.predictions() for run in (other, first))
    assert ours["id"].tolist() == theirs["id"].tolist()
    np.testing.assert_allclose(ours["score_sign"], theirs["score_sign"], rtol=0, atol=1e-5)


def test_a_flipped_byte_in_stored_features_is_told_and_computed_again(
    first: Run, radiographs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (data,) = (tmp_path / "home" / "cache" / "features").rglob("pooled/*.data")
    before = data.read_bytes()
    # The exponent of the last value, so that unnoticed it would change the result.
    data.write_bytes(before[:-1] + bytes([before[-1] ^ 0x40]))
    with pytest.warns(UserWarning, match="damaged"):
        again = probed(radiographs, tmp_path / "second", monkeypatch, tmp_path / "home")
    # The damaged row goes through the encoder by itself, which rounds otherwise than the batch it was in.
    mended, before_it = (run.predictions()["score_sign"] for run in (again, first))
    np.testing.assert_allclose(mended, before_it, rtol=0, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert stored(probed(radiographs, tmp_path / "third", monkeypatch, tmp_path / "home")) == stored(again)
    # That row alone was written again.
    assert len(data.read_bytes()) == len(before) * 25 // 24
