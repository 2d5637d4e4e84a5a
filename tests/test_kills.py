"""A whole probe under kill −9 at every write of its run, some of its store, and over an earlier run (see child.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the child looks for signals and steps of Linux")


@pytest.fixture(scope="module")
def told():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("child.py")), folder, "kills"],
            env=os.environ | {"EVALFM_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["kills"]


def test_runs_are_whole_whenever_they_are_listed(told):
    assert told["codes"] == [0, 0, 0]
    assert told["half"] == []


def test_every_write_of_a_run_was_a_kill(told):
    assert len(told["run"]["signals"]) == told["of_run"] >= 30
    assert set(told["run"]["signals"]) == {9}
    assert set(told["run"]["boundaries"]) == {"mkdir", "open", "write", "half a write", "fsync", "rename"}


def test_the_next_call_after_a_kill_gives_what_an_undisturbed_one_gives(told):
    assert told["run"]["wrong"] == []
    # The run was listed only after the kill in the very last step, when the rename had been done.
    assert told["run"]["states"] == ["new", "none"]


def test_a_kill_while_features_are_stored_leaves_no_run_and_a_usable_store(told):
    assert set(told["store"]["signals"]) == {9}
    assert told["store"]["wrong"] == []
    assert told["store"]["states"] == ["none"]


def test_forced_there_is_the_old_run_or_the_new_one_at_every_kill(told):
    assert set(told["force"]["signals"]) == {9}
    assert told["force"]["wrong"] == []
    assert told["force"]["states"] == ["new", "old"]


def test_where_folders_cannot_be_exchanged_a_kill_may_lose_the_old_run_but_leaves_no_half(told):
    assert set(told["in_two_steps"]["signals"]) == {9}
    assert told["in_two_steps"]["wrong"] == []
    assert told["in_two_steps"]["states"] == ["new", "none", "old"]
