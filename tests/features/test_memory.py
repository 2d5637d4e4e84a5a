"""What is free, and what one image takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evalfm.encoders import load_encoder
from evalfm.features import memory
from evalfm.features.memory import MemoryBudget, available_bytes, forward_bytes


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No machine, no control group: each test writes the files it wants."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    true = os.sysconf

    def sysconf(name: str) -> int:
        if name == "SC_PHYS_PAGES":
            raise ValueError(name)
        return true(name)

    monkeypatch.setattr(os, "sysconf", sysconf)
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


def test_a_budget_is_a_share_of_what_is_free(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "meminfo").write_text("MemAvailable: 1000 kB\n")
    budget = MemoryBudget()
    assert budget.free("host") == 512_000
    assert budget.free("pinned") == 128_000
    assert budget.reserve("pinned", 100_000)
    assert budget.free("host") == 412_000
    assert not budget.reserve("host", 412_001)
    assert budget.reserve("host", 412_000)
    assert budget.free("pinned") == 0
    budget.release("host", 412_000)
    assert budget.taken("host") == 0
    with pytest.raises(ValueError, match="1 bytes of host"):
        budget.release("host", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert MemoryBudget().free("host") == 128_000
    assert MemoryBudget().free("cuda:7") == 0
    monkeypatch.setenv("EVALFM_PROCESSES_HERE", "8")
    assert MemoryBudget().free("host") == 64_000


def test_memory_that_others_take_meanwhile_is_not_given_out(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "meminfo").write_text("MemAvailable: 1000 kB\n")
    budget = MemoryBudget()
    assert budget.reserve("host", 100_000)
    (nowhere / "meminfo").write_text("MemAvailable: 100 kB\n")
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.0)
    assert budget.free("host") == 100 * 1024 - 51_200
    assert not budget.reserve("host", 60_000)


def test_a_machine_that_tells_nothing_is_no_machine_without_memory(nowhere: Path) -> None:
    assert MemoryBudget().free("host") == memory.UNKNOWN_BYTES // 2


def test_threads_take_no_more_than_there_is() -> None:
    budget = MemoryBudget({"host": 1000})
    got: list[bool] = []

    def take() -> None:
        got.extend(budget.reserve("host", 1) for _ in range(500))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(got) == 1000
    assert budget.free("host") == 0


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
