"""Which images an extraction encodes: what the store or the memory lacks, divided with other processes by leases."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalfm.features.leases import bucket_of
from evalfm.features.segment_writer import cannot_write

if TYPE_CHECKING:
    from evalfm.features.leases import Leases
    from evalfm.features.store import EncoderCache
    from evalfm.features.tiers import MapMemory

LOOK_AGAIN = 256
"""Most images that are claimed at once; before each claim's first image it is asked what others have stored."""
SHARE_OF_REST = 1 / 8
"""Part of what is left that is claimed at once, so that processes end together."""
RELEASE_SECONDS = 2.0
"""How often it is asked which rows have been committed, whose leases go back."""
POLL_SECONDS = 0.5
"""How often whoever waits for another process looks."""
LOOKING_SHARE = 1 / 20
"""Part of the waiting that is spent on looking, at most."""


@dataclass(frozen=True)
class Item:
    """An image to extract.

    Attributes:
        address: in the store.
        row: of the manifest.
        sharing: images of equal ``sharing`` are encoded by one process; the address where it is empty.
    """

    address: str
    row: int
    sharing: str = ""

    @property
    def bucket(self) -> int:
        """The bucket whose lease the image needs."""
        return bucket_of(self.sharing or self.address)


@dataclass(frozen=True)
class Destination:
    """Where features go.

    Attributes:
        cache: of the store; pooled features that it lacks are always written.
        store_maps: whether maps that it lacks are written too.
        memory: what keeps maps of rows for which it has room, if any.
    """

    cache: EncoderCache
    store_maps: bool = False
    memory: MapMemory | None = None

    def lacking(self, addresses: Sequence[str], *, fresh: bool = False) -> set[str]:
        """Those of ``addresses`` of which something is to be stored; ``fresh`` as ``FeatureArrays.missing``."""
        return self.lacking_pooled(addresses, fresh=fresh) | self.lacking_maps(addresses, fresh=fresh)

    def wanted(self, addresses: Sequence[str]) -> list[str]:
        """Those of ``addresses``, once, that are to be encoded: for the store, or for memory that has room for them."""
        wanted = self.lacking(addresses) | self.lacking_in_memory(addresses)
        return [address for address in dict.fromkeys(addresses) if address in wanted]

    def lacking_pooled(self, addresses: Sequence[str], *, fresh: bool = False) -> set[str]:
        """Those of ``addresses`` whose pooled features are to be stored."""
        return set(self.cache.pooled.missing(addresses, fresh=fresh))

    def lacking_maps(self, addresses: Sequence[str], *, fresh: bool = False) -> set[str]:
        """Those of ``addresses`` whose maps are to be stored."""
        return set(self.cache.maps.missing(addresses, fresh=fresh)) if self.store_maps else set()

    def lacking_in_memory(self, addresses: Sequence[str]) -> set[str]:
        """Those of ``addresses`` that are to be encoded for memory alone, whatever is stored."""
        if self.memory is None or self.store_maps:
            # What memory lacks of stored maps is read when it is first used.
            return set()
        return {each for each in self.memory.lacking(addresses) if self.memory.has_room([each])}


class ExtractionPlan:
    """Batches of rows, without what is there already, was stored meanwhile, or is being encoded by another process.

    Of what goes into the store only images are encoded whose leases are held; it is looked what is stored once they
    are. What is encoded for memory alone needs no lease.

    Attributes:
        pooled, maps: addresses in the batches so far whose pooled features, or maps, the store lacks.
        left: addresses that were left to other processes.
    """

    def __init__(self, items: Sequence[Item], batch_size: int, to: Destination, leases: Leases) -> None:
        self._items, self._batch_size, self._to, self._leases = items, batch_size, to, leases
        self._under_way: deque[tuple[list[int], list[str]]] = deque()
        self._looked = time.monotonic()
        self.pooled: set[str] = set()
        self.maps: set[str] = set()
        self.left: frozenset[str] = frozenset()

    def parts(self) -> Iterator[tuple[int, ...]]:
        """Rows of each batch; asked for ahead of the computing.

        Raises:
            EvalfmError: the store cannot be written.
        """
        waiting: list[int] = []
        for group in self._groups():
            waiting += group
            whole = len(waiting) - len(waiting) % self._batch_size
            for first in range(0, whole, self._batch_size):
                yield tuple(waiting[first : first + self._batch_size])
            del waiting[:whole]
        if waiting:
            yield tuple(waiting)

    def _groups(self) -> Iterator[list[int]]:
        items, free = self._items, list[Item]()
        if self._to.lacking_in_memory([item.address for item in items]):
            lacking = self._to.lacking([item.address for item in items])
            free = [item for item in items if item.address not in lacking]
            items = [item for item in items if item.address in lacking]
        yield from self._leased(items)
        for first in range(0, len(free), LOOK_AGAIN):
            part = free[first : first + LOOK_AGAIN]
            wanted = self._to.lacking_in_memory([item.address for item in part])
            yield [item.row for item in part if item.address in wanted]

    def _leased(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Groups of rows to encode for the store, in the order of ``items`` within a group."""
        buckets: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            buckets.setdefault(item.bucket, []).append(place)
        while buckets:
            claimed = self._claim({bucket: len(places) for bucket, places in buckets.items()})
            if not claimed:
                break
            places = {bucket: buckets.pop(bucket) for bucket in claimed}
            group = [items[place] for place in sorted(place for each in places.values() for place in each)]
            wanted = self._wanted([item.address for item in group])
            busy = {item.bucket for item in group if item.address in wanted}
            self._leases.release(bucket for bucket in claimed if bucket not in busy)
            if busy:
                self._under_way.append((list(busy), list(wanted)))
                yield [item.row for item in group if item.address in wanted]
            self._release_committed()
        self.left = frozenset(items[place].address for each in buckets.values() for place in each)

    def _claim(self, images: dict[int, int]) -> list[int]:
        share = int(SHARE_OF_REST * sum(images.values()))
        try:
            return self._leases.claim(images, max(self._batch_size, min(LOOK_AGAIN, share)))
        except OSError as error:
            raise cannot_write(self._to.cache.pooled.folder, error) from error

    def _wanted(self, addresses: Sequence[str]) -> set[str]:
        pooled = self._to.lacking_pooled(addresses, fresh=True)
        maps = self._to.lacking_maps(addresses, fresh=True)
        self.pooled |= pooled
        self.maps |= maps
        return pooled | maps | self._to.lacking_in_memory(addresses)

    def _release_committed(self) -> None:
        """Give back the leases of images that are stored, for others may want others of the same buckets."""
        if time.monotonic() - self._looked < RELEASE_SECONDS:
            return
        while self._under_way and not self._to.lacking(self._under_way[0][1]):
            self._leases.release(self._under_way.popleft()[0])
        self._looked = time.monotonic()


def wait_for_others(
    items: Iterable[Item], to: Destination, pause: Callable[[float], object], waits: Callable[[int], None]
) -> None:
    """Wait until what other processes encode of ``items`` is stored, or some of it can be encoded here.

    Args:
        items: what this process needs and has left to others; it must hold no lease.
        to: where all of them store.
        pause: waits for so many seconds.
        waits: told once how many images are waited for, unless none are.
    """
    buckets = {item.address: item.bucket for item in items}
    told = False
    while True:
        began = time.monotonic()
        lacking = to.lacking(list(buckets), fresh=True)
        if not lacking or to.cache.leases.is_any_free({buckets[address] for address in lacking}):
            return
        if not told:
            waits(len(lacking))
            told = True
        pause(max(POLL_SECONDS, (time.monotonic() - began) / LOOKING_SHARE))
