"""Every test runs offline, on one thread, in a home of its own."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalfm.data.manifest import Manifest

from .shortened import in_full, in_short, one_command_line
from .squares import make_squares

os.environ["HF_HUB_OFFLINE"] = "1"
# Small tensors gain nothing from several threads, and lose much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["EVALFM_HOME"] = tempfile.mkdtemp(prefix="evalfm-home-")


def pytest_collection_finish() -> None:
    """What the libraries hold for good is not looked through at every collection of garbage, .3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shortened() -> Iterator[None]:
    """Runs are made in short (see ``shortened.py``); tests that load no torch make none."""
    if "torch" not in sys.modules:
        yield
        return
    with in_short():
        yield


@pytest.fixture(scope="session", autouse=True)
def gathered() -> Iterator[None]:
    """The command line's verbs are gathered once."""
    with one_command_line():
        yield


@pytest.fixture(scope="module", name="in_full")
def whole_runs(shortened: None) -> Iterator[None]:
    """Runs of this module are made as a user's are."""
    with in_full():
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that no other test has written to."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EVALFM_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Sixty patients, half of them with a square."""
    return make_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def square_seg(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The card of a segmentation task on the squares."""
    path = tmp_path_factory.mktemp("tasks") / "square-seg.yaml"
    path.write_text("name: square-seg\nschema: 1\nkind: segmentation\ntitle: Where is the square?\ntarget: [square]\n")
    return str(path)
