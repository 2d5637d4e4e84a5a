"""What is free, and what one image takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def peak_of(work: Callable[[], object]) -> int:
    """What ``forward_bytes`` counts of an encoder that does ``work``, beyond the blank image itself."""
    facts = SimpleNamespace(facts=SimpleNamespace(channels=1))
    encoder: Any = SimpleNamespace(
        parameters=lambda: iter(()), preparer=facts, input_size=(4, 4), encode=lambda blank: work()
    )
    return forward_bytes(encoder) - 4 * 4 * 4


def test_tensors_that_are_freed_do_not_add_up() -> None:
    def work() -> None:
        for _ in range(10):
            torch.zeros(1000) + 1

    assert 8000 <= peak_of(work) < 9000


def test_a_view_takes_nothing() -> None:
    def work() -> None:
        kept = torch.zeros(1000)
        kept.view(10, 100).t()
        kept.add_(1)

    assert peak_of(work) == 4000


def test_what_was_there_before_is_not_counted() -> None:
    outside = torch.zeros(1000)
    assert peak_of(lambda: outside.add_(1)) == 0
