"""Ctrl-C in the middle of a verb: one line, status 130, nothing half done, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SAID = "Interrupted; what is finished is kept, the same command goes on."

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal does")


def interrupted(arguments: list[str], home: Path, begun: Callable[[], bool]) -> tuple[int, str]:
    """Status and standard error of a verb that is interrupted, with all its processes, once ``begun``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "evalfm", *arguments],
        env=os.environ | {"EVALFM_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in the background deaf to Ctrl-C, which would be handed down to here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(60), process.communicate()[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_data_make(tmp_path: Path, workers: str) -> None:
    out = tmp_path / "place/phantom"
    arguments = ["data", "make", "phantom", "--out", str(out), "--images", "3000", "--size", "64", "--workers", workers]
    code, told = interrupted(arguments, tmp_path / "home", lambda: len(list(tmp_path.rglob("*.png"))) > 3)
    assert code == 130
    assert told.splitlines()[-1] == SAID
    assert "Traceback" not in told
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("verb", ["probe", "study", "embed", "similarity"])
def test_what_computes(tmp_path: Path, verb: str) -> None:
    arguments = {
        "probe": ["probe", "--encoder", "hog", "--task", "ptx-cls", "--out", str(tmp_path / "out")],
        "study": ["study", "demo", "--out", str(tmp_path / "out")],
        "embed": ["embed", "--encoder", "hog", "--out", str(tmp_path / "hog.parquet")],
        "similarity": ["embed", "--encoder", "hog", "--encoder", "pixels", "--similarity"],
    }[verb]
    # While the phantom is drawn, which is the first that is written.
    code, told = interrupted(arguments, tmp_path / "home", lambda: len(list(tmp_path.rglob("*.png"))) > 3)
    assert code == 130
    assert told.splitlines()[-1] == SAID
    assert "Traceback" not in told
    assert not list(tmp_path.rglob("*.writing-*"))
