"""How many processors this process may use, and how many readers that makes."""

from __future__ import annotations

import os
from pathlib import Path

from evalfm.errors import EvalfmError

GROUPS = Path("/sys/fs/cgroup")
TOGETHER, WORKERS_HERE = "LOCAL_WORLD_SIZE", "EVALFM_PROCESSES_HERE"
"""Variables of the environment that say how many processes share this machine."""
MOST_WORKERS = 16
"""Readers by default, at most; more are for who asks."""


def usable_cores() -> int:
    """Processor cores that this process may use: of the machine, its affinity, and its control group's quota.

    >>> usable_cores() >= 1
    True
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        # macOS and Windows bind no process to cores.
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, quota))


def reader_count(workers: int | None) -> int:
    """How many readers ``workers`` stands for: None is one per usable core, ``MOST_WORKERS`` at most.

    Processes that work together on one machine share its cores; see ``processes_here``.

    Raises:
        EvalfmError: fewer than one.

    >>> reader_count(3)
    3
    """
    if workers is not None:
        if workers < 1:
            raise EvalfmError(f"{workers} workers cannot read images; take 1 or more.")
        return workers
    return max(1, min(MOST_WORKERS, usable_cores() // processes_here()))


def processes_here() -> int:
    """How many processes of one command share this machine, its cores and its memory; this one alone where none says.

    Processes that train together are counted by ``LOCAL_WORLD_SIZE`` of torchrun, workers that do one job each by
    ``EVALFM_PROCESSES_HERE``, which is set by whoever starts them; the larger counts.

    >>> processes_here() >= 1
    True
    """
    said = (os.environ.get(name, "") for name in (TOGETHER, WORKERS_HERE))
    return max(1, *(int(each) if each.isdecimal() else 1 for each in said))


def _quota() -> int | None:
    """Whole cores of a container's share of processor time, rounded up; None without a bound."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            most, period = " ".join((GROUPS / name).read_text().strip() for name in names).split()
            if most != "max" and int(most) > 0:
                return max(1, -(-int(most) // int(period)))
        except (OSError, ValueError):
            continue
    return None
