"""How many readers a machine, a container or a user gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers import cores
from evalfm.workers.cores import processes_here, reader_count, usable_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 cores and no control group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "GROUPS", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("EVALFM_PROCESSES_HERE", raising=False)
    (tmp_path / "cpu").mkdir()
    return tmp_path


def test_the_machine_counts_up_to_a_bound(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (usable_cores(), reader_count(None), reader_count(40)) == (64, 16, 40)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    assert reader_count(None) == 2
    with pytest.raises(EvalfmError, match="0 workers cannot read"):
        reader_count(0)


def test_a_container_has_its_quota(machine: Path) -> None:
    (machine / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == 64
    (machine / "cpu.max").write_text("350000 100000\n")
    assert usable_cores() == 4
    (machine / "cpu.max").unlink()
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (machine / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores() == 64
    (machine / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert usable_cores() == 1


def test_processes_that_train_together_share_the_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert reader_count(None) == 8
    assert reader_count(3) == 3


@pytest.mark.parametrize(
    ("together", "workers", "processes"),
    [(None, None, 1), ("4", None, 4), (None, "8", 8), ("2", "8", 8), ("16", "8", 16), ("x", "0", 1), ("-3", "", 1)],
)
def test_the_larger_count_of_processes_shares_the_machine(
    machine: Path, monkeypatch: pytest.MonkeyPatch, together: str | None, workers: str | None, processes: int
) -> None:
    for name, value in (("LOCAL_WORLD_SIZE", together), ("EVALFM_PROCESSES_HERE", workers)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processes_here() == processes
    assert reader_count(None) == min(16, 64 // processes)
