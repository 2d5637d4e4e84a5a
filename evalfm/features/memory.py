"""How much memory there is for a batch, and how much an encoder takes for one image."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

GROUPS = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Main memory that this process may still take: of the machine, its control group and its own limits.

    None where none of them can be read.
    """
    found = [_machine(), _group("memory.max", "memory.current"), _old_group(), _own_limit()]
    return min((each for each in found if each is not None), default=None)


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
        given = {id(_storage(each)) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = _storage(each)
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


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _machine() -> int | None:
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _group(limit: str, used: str, folder: Path | None = None) -> int | None:
    folder = folder or GROUPS
    try:
        most, taken = ((folder / name).read_text().strip() for name in (limit, used))
        return None if most == "max" else max(0, int(most) - int(taken))
    except (OSError, ValueError):
        return None


def _old_group() -> int | None:
    return _group("memory.limit_in_bytes", "memory.usage_in_bytes", GROUPS / "memory")


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
