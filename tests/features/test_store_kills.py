"""The store under kill −9 at every write, beside another process, and on a full disk (see child.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and limits are those of POSIX")


@pytest.fixture(scope="module")
def told():
    child = Path(__file__).with_name("child.py")
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    # In memory where there is such a disk: every write is flushed, a few thousand times.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, str(child), folder],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_kill_at_any_write_loses_only_the_chunk_in_the_making(told):
    kills = told["kills"]
    assert len(kills["signals"]) >= 60
    assert set(kills["signals"]) == {9}
    assert kills["end"] == 0
    assert kills["wrong"] == []
    # Kills before the first chunk, between the chunks and after the last one were all among them.
    assert kills["resumed"] == [0, 4, 8]


def test_two_processes_leave_one_set_of_files_and_equal_features(told):
    company = told["company"]
    assert company["codes"] == [0, 0]
    assert company["equal"]
    assert company["as_alone"]
    assert company["same_files"]
    assert company["temporary"] == 0


def test_a_full_disk_is_told_and_leaves_the_store_usable(told):
    full = told["full"]
    assert "cannot be written" in full["message"]
    assert "--maps stream" in full["message"]
    assert full["temporary"] == 0
    assert full["listed"] == 0
    assert full["pooled"]
    assert full["after"]
