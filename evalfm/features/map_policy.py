"""Whether maps that memory does not hold are stored or computed again, decided once for a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evalfm.features.map_costs import NEGLIGIBLE_BYTES, DiskRates, MapCosts, disk_rates

if TYPE_CHECKING:
    from evalfm.features.store import FeatureStore

POLICIES = ("auto", "store", "stream")


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
            self.decided, self.costs = cheaper_policy(
                images,
                missing,
                self._map_bytes,
                self._store.budget_bytes - self._store.map_bytes,
                self._store.folder,
                passes=passes,
                held=held,
                recompute=recompute,
                rates=rates or disk_rates,
            )
        return self.decided


def cheaper_policy(
    images: int,
    missing: Callable[[], int],
    map_bytes: int,
    left_bytes: float,
    folder: Path,
    *,
    passes: float,
    held: bool,
    recompute: Callable[[], float],
    rates: Callable[[Path], DiskRates | None] = disk_rates,
) -> tuple[str, MapCosts | None]:
    """``store`` or ``stream`` for maps of ``images``, and the costs where they were measured.

    ``map_bytes`` are those of one image, ``left_bytes`` what the store's budget has left, ``folder`` the store's; the
    rest as ``MapPolicy.decide``.
    """
    needed = map_bytes * images
    if needed > left_bytes and map_bytes * missing() > max(left_bytes, 0):
        return "stream", None
    disk = None if needed <= NEGLIGIBLE_BYTES else rates(folder)
    if disk is None:
        return "store", None
    costs = MapCosts(
        images=images,
        missing=missing(),
        passes=passes,
        held=held,
        recompute=recompute(),
        read=map_bytes / disk.read,
        write=map_bytes / disk.write,
    )
    return costs.policy, costs
