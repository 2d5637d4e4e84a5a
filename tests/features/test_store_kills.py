"""The store under kill −9 at every write, beside other processes, and on a full disk (see child.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the child forks, kills and sets limits")
ROWS = 6


@pytest.fixture(scope="module")
def answers():
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


@pytest.mark.parametrize("scene", ["new", "taken"])
def test_a_kill_at_any_write_loses_only_what_was_not_committed(answers, scene):
    kills = answers["kills"][scene]
    assert kills["wrong"] == []
    met = set(kills["boundaries"])
    # Between data and index, inside a record and inside a block of the index.
    assert {"half of data", "after data", "before index", "half of index", "after index", "after fdatasync"} <= met
    if scene == "new":
        assert {"after mkdir", "after open", "before rename", "after rename"} <= met
        # Five: in the middle of the last write lies the border of two blocks.
        assert kills["resumed"] == [0, 2, 4, 5, 6]
    else:
        # Taking over cuts both files.
        assert kills["boundaries"].count("before truncate") == 2
        assert kills["resumed"] == [2, 4, 5, 6]
    assert len(kills["boundaries"]) >= 30
    assert kills["ends"] == [-9] * 5


def test_the_segment_that_is_taken_over_was_torn(answers):
    assert answers["kills"]["torn"] == [2, True]


def test_two_processes_and_a_reader_see_whole_rows_of_either(answers):
    company = answers["company"]
    assert company["codes"] == [0] * 6
    assert company["stored"] == [ROWS, True]
    assert company["segments"][0] == company["segments"][1] <= 2
    assert company["temporary"] == 0


def test_a_full_disk_is_said_and_leaves_the_store_usable(answers):
    for scene in answers["full"]:
        assert "cannot be written (File too large)" in scene["message"]
        assert "--maps stream" in scene["message"]
        assert scene["right"]
        assert scene["after"] == [ROWS, True]
        # What nothing was committed to is gone.
        assert scene["files"] == (3 if scene["stored"] else 0)
    assert {scene["stored"] for scene in answers["full"]} > {0}
