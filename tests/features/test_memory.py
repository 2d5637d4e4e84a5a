"""What is free, and what one image takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evalfm.encoders import load_encoder
from evalfm.features import memory
from evalfm.features.memory import available_bytes, forward_bytes


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No machine, no control group: each test writes the files it wants."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    (tmp_path / "groups" / "memory").mkdir(parents=True)
    return tmp_path


def test_the_tightest_of_all_limits_counts(nowhere: Path) -> None:
    assert available_bytes() is None
    (nowhere / "meminfo").write_text("MemTotal: 900 kB\nMemFree: 1 kB\nMemAvailable:     600 kB\n")
    assert available_bytes() == 600 * 1024
    (nowhere / "groups" / "memory.max").write_text("500000\n")
    (nowhere / "groups" / "memory.current").write_text("100000\n")
    assert available_bytes() == 400_000
    (nowhere / "groups" / "memory.max").write_text("max\n")
    assert available_bytes() == 600 * 1024
    (nowhere / "groups" / "memory" / "memory.limit_in_bytes").write_text("300")
    (nowhere / "groups" / "memory" / "memory.usage_in_bytes").write_text("400")
    assert available_bytes() == 0


def test_a_limit_of_the_process_counts_what_it_has_taken(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 10**9, resource.RLIM_INFINITY))
    free = available_bytes()
    assert free is not None
    assert abs(free - 10**9) < 10**8


def test_the_peak_of_a_forward_pass_by_hand() -> None:
    # light-cnn at 64²: the widest pair of tensors alive is a block's convolution with the batch norm made of it.
    found = forward_bytes(load_encoder("light-cnn"))
    first = 4 * 32 * 64 * 64
    assert 2 * first <= found <= 4 * first


def test_tensors_that_are_freed_do_not_add_up() -> None:
    with memory._Alive() as alive:
        for _ in range(10):
            torch.zeros(1000) + 1
    assert alive.now == 0
    assert 8000 <= alive.peak < 9000


def test_a_view_takes_nothing() -> None:
    with memory._Alive() as alive:
        kept = torch.zeros(1000)
        kept.view(10, 100).t()
        kept.add_(1)
    assert alive.peak == 4000
