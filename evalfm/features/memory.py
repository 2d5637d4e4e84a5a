"""How much memory there is, who of this process has taken how much of it, and what an encoder takes for one image."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evalfm.workers.cores import processes_here

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

GROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
HOST, PINNED = "host", "pinned"
SHARES = {HOST: 0.5, PINNED: 0.125, "device": 0.5}
"""What part of the memory that is free at first may be kept: main memory, that of it which is pinned, a device's."""
KEPT_FREE = 0.1
"""As much as this part of a budget stays free, whoever else fills the memory meanwhile."""
UNKNOWN_BYTES = 4_000_000_000
"""Main memory that is counted on where nothing says how much there is."""
LOOK_SECONDS = 1.0
"""How often it is looked again how much is free."""


def available_bytes() -> int | None:
    """Main memory that this process may still take: of the machine, its control group and its own limits.

    None where none of them can be read.
    """
    old_group = _group("memory.limit_in_bytes", "memory.usage_in_bytes", GROUPS / "memory")
    found = [_machine(), _group("memory.max", "memory.current", GROUPS), old_group, _own_limit()]
    return min((each for each in found if each is not None), default=None)


class MemoryBudget:
    """Shares of main, pinned and device memory that the parts of this process take from one budget; for threads.

    A place is ``host``, ``pinned`` (which counts as main memory too), or a device such as ``cuda:0``. A budget holds no
    memory itself: who reserves says how much it is about to take, and releases as much when it is given back. Processes
    that share a machine (``processes_here``) share its budget evenly.

    >>> budget = MemoryBudget({"host": 1000})
    >>> budget.reserve("host", 700), budget.reserve("host", 700), budget.free("host")
    (True, False, 300)
    >>> budget.release("host", 700)
    >>> budget.free("host")
    1000
    """

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        """Nothing is measured before it is asked.

        Args:
            limits: bytes by place; a place that is not named is measured when it is first asked for.
        """
        self._lock = threading.Lock()
        self._limits = dict(limits or {})
        self._measured: set[str] = set()
        self._taken: dict[str, int] = {}
        self._free_now: dict[str, tuple[float, int]] = {}
        self._returned: deque[tuple[str, int]] = deque()

    def reserve(self, place: str, nbytes: int) -> bool:
        """Take ``nbytes`` of the budget of ``place``; False, and nothing taken, where that is more than is left."""
        with self._lock:
            if nbytes > self._free(place):
                return False
            self._taken[place] = self._taken.get(place, 0) + nbytes
            return True

    def release(self, place: str, nbytes: int) -> None:
        """Give back what was reserved.

        Raises:
            ValueError: more is given back than was taken.
        """
        with self._lock:
            if nbytes > self._taken.get(place, 0):
                raise ValueError(
                    f"{nbytes} bytes of {place} are given back where {self._taken.get(place, 0)} are taken."
                )
            self._taken[place] = self._taken.get(place, 0) - nbytes

    def release_later(self, place: str, nbytes: int) -> None:
        """Release at the next call; takes no lock, so that whatever is deleted at any moment can do it."""
        self._returned.append((place, nbytes))

    def free(self, place: str) -> int:
        """Bytes of ``place`` that can still be reserved."""
        with self._lock:
            return self._free(place)

    def taken(self, place: str) -> int:
        """Bytes of ``place`` that are reserved."""
        with self._lock:
            self._free(place)
            return self._taken.get(place, 0)

    def _free(self, place: str) -> int:
        while self._returned:
            owner, nbytes = self._returned.popleft()
            self._taken[owner] -= nbytes
        taken = self._taken.get(place, 0)
        if place == HOST:
            taken += self._taken.get(PINNED, 0)
        left = self._limit(place) - taken
        if place == PINNED:
            left = min(left, self._free(HOST))
        elif place in self._measured:
            left = min(left, self._still_there(place))
        return max(0, left)

    def _limit(self, place: str) -> int:
        if place not in self._limits:
            share = SHARES["device" if place not in SHARES else place] / processes_here()
            self._limits[place] = int(share * _free_bytes(place))
            self._measured.add(place)
        return self._limits[place]

    def _still_there(self, place: str) -> int:
        """What is free at this moment, less what stays so; others may have taken it since the budget was made."""
        now = time.monotonic()
        looked, free = self._free_now.get(place, (-LOOK_SECONDS, 0))
        if now - looked >= LOOK_SECONDS:
            free = _free_bytes(place)
            self._free_now[place] = now, free
        return free - int(KEPT_FREE * self._limits[place])


MEMORY = MemoryBudget()
"""The budget of this process."""


def _free_bytes(place: str) -> int:
    """Free bytes of main memory, or of a device; none of a device that is not there."""
    if place in (HOST, PINNED):
        free = available_bytes()
        return UNKNOWN_BYTES if free is None else free
    device = torch.device(place)
    if device.type == "cuda" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself is there to be taken again.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 0


def forward_bytes(encoder: Encoder) -> int:
    """Most bytes of tensors alive at once while ``encoder`` runs over one blank image, beyond its weights."""
    place = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    blank = torch.zeros(1, encoder.preparer.facts.channels, *encoder.input_size, device=place)
    alive = _Alive()
    with alive:
        encoder.encode(blank)
    return alive.peak + blank.nbytes


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make, from their making to their freeing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if id(storage) not in self._known and id(storage) not in given:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        self._known.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def _machine() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return _physical()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _physical() -> int | None:
    """All memory of a machine that does not tell what is free, as macOS does not."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group(limit: str, used: str, folder: Path) -> int | None:
    try:
        most, taken = ((folder / name).read_text().strip() for name in (limit, used))
        return None if most == "max" else max(0, int(most) - int(taken))
    except (OSError, ValueError):
        return None


def _own_limit() -> int | None:
    try:
        import resource
    except ImportError:
        # Windows sets no such limit.
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return None
    return max(0, most - pages * os.sysconf("SC_PAGE_SIZE"))
