"""Extraction that is killed, interrupted or has company: what was committed stays, and the next call goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evalfm.features.encoded import EncodedSource
from evalfm.features.memory import MemoryBudget
from evalfm.features.store import FeatureStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills are those of POSIX")


IMAGES = 24
"""Of the child too."""


@pytest.fixture
def source(make_encoder, make_radiographs):
    def open_(folder: Path) -> EncodedSource:
        images, memory = make_radiographs(range(IMAGES)), MemoryBudget({"host": 10**7})
        return EncodedSource(make_encoder(), images, FeatureStore(folder), maps="store", batch_size=2, memory=memory)

    return open_


def started(folder: Path, seconds: float) -> subprocess.Popen[str]:
    child = Path(__file__).with_name("encoded_child.py")
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, str(child), str(folder), str(seconds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def undisturbed(source, tmp_path_factory):
    with source(tmp_path_factory.mktemp("undisturbed")) as opened:
        return opened.features(range(IMAGES), maps=True)


def assert_same(one, other) -> None:
    for left, right in zip((one.pooled, *one.maps), (other.pooled, *other.maps), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("kind", "batches"), [(signal.SIGKILL, 1), (signal.SIGKILL, 8), (signal.SIGINT, 5)])
def test_what_was_committed_stays_and_the_next_call_goes_on(source, tmp_path, undisturbed, kind, batches):
    child = started(tmp_path, 0.1)
    for line in child.stdout:
        if int(line) >= 2 * batches:
            break
    child.send_signal(kind)
    _, said = child.communicate(timeout=60)
    assert child.returncode != 0
    assert kind == signal.SIGKILL or "KeyboardInterrupt" in said
    with source(tmp_path) as again:
        assert_same(again.features(range(IMAGES), maps=True), undisturbed)
        assert again.encoded_images <= IMAGES - 2 * (batches - 1) + 4
        assert again.encoded_images > 0
    with source(tmp_path) as once_more:
        once_more.features(range(IMAGES), maps=True)
        assert once_more.encoded_images == 0


def test_two_processes_leave_equal_features(source, tmp_path, undisturbed):
    children = [started(tmp_path, 0.05) for _ in range(2)]
    said = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    with source(tmp_path) as opened:
        assert_same(opened.features(range(IMAGES), maps=True), undisturbed)
        assert opened.encoded_images == 0
