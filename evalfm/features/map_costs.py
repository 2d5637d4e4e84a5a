"""Whether maps that memory does not hold are stored or computed again, and what either costs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ConfigDict, computed_field

from evalfm.cards import CardModel
from evalfm.data.work_folders import work_name

if TYPE_CHECKING:
    from evalfm.features.store import FeatureStore

POLICIES = ("auto", "store", "stream")
PROBE_BYTES = 32_000_000
"""What is written and read once to see how fast a disk is."""
NEGLIGIBLE_BYTES = 64_000_000
"""Maps of fewer bytes are kept wherever there is room: to measure would take longer than they can cost."""


@dataclass(frozen=True)
class DiskRates:
    """Bytes a second that a disk takes, flushed, and gives."""

    write: float
    read: float


class MapCosts(CardModel):
    """What maps of ``images`` cost a run, in seconds.

    Attributes:
        images: whose maps are used; ``missing`` of them are not on disk.
        passes: how often each map is read.
        held: whether memory holds all of them, so that each is read or computed once.
        recompute: seconds to compute the maps of one image again, decoding included unless prepared images are kept.
        read: seconds to read those of one image. write: to write them.

    >>> fast_disk = MapCosts(images=1000, missing=1000, passes=20, held=False, recompute=0.05, read=0.002, write=0.003)
    >>> fast_disk.policy
    'store'
    >>> slow_disk = MapCosts(images=1000, missing=1000, passes=20, held=False, recompute=0.001, read=0.028, write=0.04)
    >>> slow_disk.policy
    'stream'
    """

    model_config = ConfigDict(extra="ignore")

    images: int
    missing: int
    passes: float
    held: bool
    recompute: float
    read: float
    write: float

    @property
    def store_seconds(self) -> float:
        """With maps on disk: what is missing is computed once, written meanwhile, and read."""
        computed = self.missing * max(self.recompute, self.write)
        if self.held:
            return computed + (self.images - self.missing) * self.read
        return computed + self.passes * self.images * self.read

    @property
    def stream_seconds(self) -> float:
        """Without: computed in every pass, or once where memory holds them."""
        return (1 if self.held else self.passes) * self.images * self.recompute

    @computed_field  # type: ignore[prop-decorator]
    @property
    def policy(self) -> str:
        """``store`` or ``stream``, whichever is sooner done; at a tie ``store``, which serves later runs too."""
        return "store" if self.store_seconds <= self.stream_seconds else "stream"

    @property
    def sentence(self) -> str:
        """The choice with both figures, for a log."""
        chosen = {"store": "kept on disk", "stream": "computed when they are used"}[self.policy]
        memory = ", and held in memory" if self.held else ""
        return (
            f"maps are {chosen}{memory}: {1000 * self.recompute:.2f} ms an image to compute, "
            f"{1000 * self.read:.2f} ms to read from disk; "
            f"{self.stream_seconds:.1f} s against {self.store_seconds:.1f} s"
        )


@cache
def disk_rates(folder: Path) -> DiskRates | None:
    """How fast the disk of ``folder`` is, measured once a process with one file; None where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return measured_rates(folder / work_name())
    except OSError:
        return None


def measured_rates(path: Path, nbytes: int = PROBE_BYTES, clock: Callable[[], float] = time.perf_counter) -> DiskRates:
    """Write ``nbytes`` to ``path``, flush, read them back and remove the file.

    The system is asked to forget what was written before it is read; where it cannot (macOS, Windows) the rate of
    reading is at most twice that of writing.

    Raises:
        OSError: the file cannot be written or read.
    """
    block = os.urandom(1 << 20)
    try:
        started = clock()
        with path.open("wb", buffering=0) as file:
            for _ in range(max(1, nbytes >> 20)):
                file.write(block)
            os.fsync(file.fileno())
        written = clock()
        forgotten = False
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                forgotten = True
            began, buffer, size = clock(), bytearray(1 << 20), 0
            while count := file.readinto(buffer):
                size += count
            ended = clock()
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    write, read = size / max(written - started, 1e-9), size / max(ended - began, 1e-9)
    return DiskRates(write, read if forgotten else min(read, 2 * write))


class MapPolicy:
    """``store`` or ``stream``: as asked for, or with ``auto`` by the store's budget and by measured cost.

    Maps for which the budget has no room are computed. Where they are so few that the choice costs nobody anything,
    they are stored. Else the disk and the encoder are timed, and what is sooner done is taken.

    Attributes:
        decided: what was decided; None before.
        costs: what it was decided by; None where nothing was measured.
    """

    def __init__(self, asked: str, store: FeatureStore, map_bytes: int) -> None:
        """``map_bytes`` are those of one image."""
        self._store = store
        self._map_bytes = map_bytes
        self.decided = None if asked == "auto" else asked
        self.costs: MapCosts | None = None

    def decide(
        self,
        images: int,
        missing: Callable[[], int],
        *,
        passes: float,
        held: bool,
        recompute: Callable[[], float],
        rates: Callable[[Path], DiskRates | None] | None = None,
    ) -> str:
        """Decide, unless it is decided.

        Args:
            images: whose maps are wanted.
            missing: counts those whose maps are not stored.
            passes: how often each map will be read.
            held: whether memory has room for all of them.
            recompute: measures seconds to compute the maps of one image.
            rates: measures the disk of a folder; ``disk_rates`` where None.
        """
        if self.decided is None:
            self.decided, self.costs = self._cheaper(images, missing, passes, held, recompute, rates or disk_rates)
        return self.decided

    def _cheaper(
        self,
        images: int,
        missing: Callable[[], int],
        passes: float,
        held: bool,
        recompute: Callable[[], float],
        rates: Callable[[Path], DiskRates | None],
    ) -> tuple[str, MapCosts | None]:
        needed, left = self._map_bytes * images, self._store.budget_bytes - self._store.map_bytes
        if needed > left and self._map_bytes * missing() > max(left, 0):
            return "stream", None
        disk = None if needed <= NEGLIGIBLE_BYTES else rates(self._store.folder)
        if disk is None:
            return "store", None
        costs = MapCosts(
            images=images,
            missing=missing(),
            passes=passes,
            held=held,
            recompute=recompute(),
            read=self._map_bytes / disk.read,
            write=self._map_bytes / disk.write,
        )
        return costs.policy, costs
