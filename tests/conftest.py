"""Every test runs offline, on one thread, in a home of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Small tensors gain nothing from several threads, and lose much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["EVALFM_HOME"] = tempfile.mkdtemp(prefix="evalfm-home-")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that no other test has written to."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EVALFM_HOME", str(folder))
    return folder
