"""Feature maps in half precision where it holds them, kept on the encoder's device or beside the processor."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evalfm.encoders.encoder import Features
from evalfm.features.memory import HOST, MemoryBudget
from evalfm.features.segment_format import Layout


@dataclass
class _Block:
    """Rows allocated together in one place.

    Attributes:
        pooled: float32 [n, D] on the CPU.
        maps: float16 [n, C, h, w], one per level.
        place: of the maps, as the memory budget names it.
        nbytes: what all of it takes.
        wide: by row, maps [C, h, w] in float32 of an image that half precision does not hold.
    """

    pooled: Tensor
    maps: tuple[Tensor, ...]
    place: str
    nbytes: int
    wide: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)


class MapMemory:
    """Pooled features and maps of images by their address, in memory that is taken from ``budget`` ahead.

    Maps are kept in float16, as the store keeps them (``evalfm.features.tiers``), so that what a head reads does not
    depend on where it was kept. Each row is put once; rows for which there was no room are left to the tiers below.
    """

    def __init__(
        self, pooled_dim: int, shapes: Sequence[tuple[int, int, int]], device: torch.device, budget: MemoryBudget
    ) -> None:
        """``shapes`` are channels, height and width of each level; ``device`` is the encoder's."""
        self._pooled_dim = pooled_dim
        self._shapes = tuple(shapes)
        self._device = device
        self._budget = budget
        self._blocks: list[_Block] = []
        self._places: dict[str, tuple[_Block, int]] = {}
        self._filled: set[str] = set()
        self._lock = threading.Lock()
        weakref.finalize(self, _release, self._blocks, budget)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image: pooled in float32 and maps in float16."""
        return 4 * self._pooled_dim + sum(2 * channels * height * width for channels, height, width in self._shapes)

    def make_room(self, addresses: Iterable[str]) -> bool:
        """Take memory for those of ``addresses`` that have none: all in one place, or as many as main memory has.

        Returns:
            Whether each one has room now.
        """
        with self._lock:
            lacking = [address for address in dict.fromkeys(addresses) if address not in self._places]
            if not lacking:
                return True
            block = self._block(len(lacking))
            if block is None:
                return False
            for position, address in enumerate(lacking[: len(block.pooled)]):
                self._places[address] = block, position
            return len(block.pooled) == len(lacking)

    def holds(self, addresses: Iterable[str]) -> bool:
        """Whether all of ``addresses`` can be gathered."""
        return all(address in self._filled for address in addresses)

    def has_room(self, addresses: Iterable[str]) -> bool:
        """Whether all of ``addresses`` have their place, filled or not."""
        return all(address in self._places for address in addresses)

    def lacking(self, addresses: Iterable[str]) -> list[str]:
        """Those of ``addresses`` that are not kept, each once, in order."""
        return [address for address in dict.fromkeys(addresses) if address not in self._filled]

    @property
    def places(self) -> frozenset[str]:
        """Where there is room: ``host`` or names of devices."""
        return frozenset(block.place for block in self._blocks)

    def put(
        self,
        addresses: Sequence[str],
        pooled: Tensor,
        maps: Sequence[Tensor],
        host_maps: Sequence[Tensor] = (),
    ) -> None:
        """Keep rows as far as there is room: pooled [B, D] and packed maps [B, C, h, w].

        ``maps`` may lie on any device; rows that are kept beside the processor take ``host_maps`` where there are any.
        """
        with self._lock:
            by_block: dict[int, tuple[_Block, list[int], list[int]]] = {}
            for row, address in enumerate(addresses):
                if address in self._places and address not in self._filled:
                    block, position = self._places[address]
                    _, rows, positions = by_block.setdefault(id(block), (block, [], []))
                    rows.append(row)
                    positions.append(position)
            for block, rows, positions in by_block.values():
                levels = host_maps if host_maps and (block.place == HOST or not maps) else maps
                _fill(block, rows, positions, pooled, levels)
            self._filled.update(address for address in addresses if address in self._places)

    def gather(self, addresses: Sequence[str]) -> Features:
        """Rows in the order of ``addresses``: pooled float32 on the CPU, maps on the device that holds them.

        Maps are float16, or float32 where one of the images needs it; those beside a GPU lie in pinned memory.

        Raises:
            KeyError: a row is not kept; ``lacking`` tells.
        """
        if not self.holds(addresses):
            raise KeyError(next(address for address in addresses if address not in self._filled))
        by_block: dict[int, tuple[_Block, list[int], list[int]]] = {}
        for row, address in enumerate(addresses):
            block, position = self._places[address]
            _, rows, positions = by_block.setdefault(id(block), (block, [], []))
            rows.append(row)
            positions.append(position)
        parts = list(by_block.values())
        if len(parts) == 1:
            block, _, positions = parts[0]
            return self._selected(block, positions)
        found = [self._selected(block, positions) for block, _, positions in parts]
        order = torch.empty(len(addresses), dtype=torch.long)
        order[torch.tensor([row for _, rows, _ in parts for row in rows])] = torch.arange(len(addresses))
        return joined(found, order)

    def gather_beside(self, addresses: Sequence[str], others: Sequence[str], features: Features) -> Features:
        """As ``gather``, where the rows of ``others`` are those of ``features`` and the rest is kept.

        Raises:
            KeyError: a row is neither.
        """
        absent = set(others)
        kept = [address for address in dict.fromkeys(addresses) if address not in absent]
        parts = [features, self.gather(kept)] if kept else [features]
        position = {address: number for number, address in enumerate([*others, *kept])}
        return joined(parts, torch.tensor([position[address] for address in addresses]))

    def close(self) -> None:
        """Give all memory back."""
        with self._lock:
            _release(self._blocks, self._budget)
            self._places.clear()
            self._filled.clear()

    def _block(self, rows: int) -> _Block | None:
        """Room for ``rows`` on the device, else in main memory, where some of them are better than none."""
        if self._device.type != "cpu":
            block = self._reserved(str(self._device), rows)
            if block is not None:
                return block
        return self._reserved(HOST, min(rows, self._budget.free(HOST) // self.row_bytes))

    def _reserved(self, place: str, rows: int) -> _Block | None:
        nbytes = rows * self.row_bytes
        if not rows or not self._budget.reserve(place, nbytes):
            return None
        device = torch.device("cpu") if place == HOST else self._device
        try:
            maps = tuple(torch.empty(rows, *shape, dtype=torch.half, device=device) for shape in self._shapes)
            block = _Block(torch.empty(rows, self._pooled_dim), maps, place, nbytes)
        except RuntimeError:  # The budget is an estimate, and others take memory too.
            self._budget.release(place, nbytes)
            return None
        self._blocks.append(block)
        return block

    def _selected(self, block: _Block, positions: list[int]) -> Features:
        index = torch.tensor(positions)
        pooled = block.pooled.index_select(0, index)
        pin = self._device.type == "cuda"
        on_device = index.pin_memory().to(self._device, non_blocking=True) if pin and block.place != HOST else index
        wide = {row: block.wide[position] for row, position in enumerate(positions) if position in block.wide}
        maps = []
        for number, level in enumerate(block.maps):
            out = torch.empty(
                len(positions),
                *level.shape[1:],
                dtype=level.dtype,
                device=level.device,
                pin_memory=pin and not level.is_cuda,
            )
            torch.index_select(level, 0, on_device, out=out)
            if wide and any(each[number].dtype == torch.float32 for each in wide.values()):
                out = out.float()
                for row, each in wide.items():
                    out[row] = each[number]
            maps.append(out)
        return Features(pooled, tuple(maps))


def pinned(rows: int, layout: Layout) -> tuple[Tensor, ...]:
    """Pinned main memory for ``rows`` of maps of ``layout``, so that nothing waits for their copies to a GPU."""
    dtypes = {"<f2": torch.half, "<f4": torch.float32}
    return tuple(
        torch.empty(rows, *array.shape, dtype=dtypes[array.dtype], pin_memory=torch.cuda.is_available())
        for array in layout
    )


def joined(parts: Sequence[Features], order: Tensor) -> Features:
    """Rows of several features one after the other, brought into ``order``; maps go to the first GPU among them."""
    levels = list(zip(*(part.maps for part in parts), strict=True))
    maps = []
    for level in levels:
        whole = in_one_dtype(level)
        maps.append(whole.index_select(0, order.to(whole.device)))
    return Features(torch.cat([part.pooled for part in parts]).index_select(0, order), tuple(maps))


def in_one_dtype(parts: Sequence[Tensor]) -> Tensor:
    """Packed maps [B, C, h, w] one after the other: float32 where one is, on the first GPU among them."""
    if len(parts) == 1:
        return parts[0]
    device = next((each.device for each in parts if each.device.type != "cpu"), parts[0].device)
    dtype = torch.float32 if any(each.dtype == torch.float32 for each in parts) else torch.half
    return torch.cat([each.to(device, dtype, non_blocking=True) for each in parts])


def _fill(block: _Block, rows: list[int], positions: list[int], pooled: Tensor, maps: Sequence[Tensor]) -> None:
    whole = rows == list(range(len(pooled)))
    waiting = block.place == HOST  # Main memory must not be read before it is written; a device keeps its own order.
    block.pooled[positions] = pooled if whole else pooled[rows]
    wide = any(level.dtype != torch.half for level in maps)
    run = positions == list(range(positions[0], positions[0] + len(positions)))
    for kept, level in zip(block.maps, maps, strict=True):
        chosen = level if whole else level[rows]
        if run:
            # In order, as they were computed: one copy without an index.
            kept[positions[0] : positions[0] + len(positions)].copy_(chosen, non_blocking=not waiting)
        else:
            kept.index_copy_(0, torch.tensor(positions).to(kept.device), chosen.to(kept.device, kept.dtype))
    if wide:
        for row, position in zip(rows, positions, strict=True):
            levels = tuple(level[row] for level in maps)
            if any(bool((level.abs().amax() > LARGEST_HALF).item()) for level in levels):
                block.wide[position] = tuple(level.to(block.maps[0].device, copy=True) for level in levels)


def _release(blocks: list[_Block], budget: MemoryBudget) -> None:
    while blocks:
        block = blocks.pop()
        budget.release(block.place, block.nbytes)


LARGEST_HALF = 65504.0


def halved(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, h, w] as float16, and whether it holds all of them as a 0-dim bool tensor beside them.

    The device is not waited for. Where the answer is no, ``pack`` says what to keep.

    >>> half, fits = halved(torch.full((1, 1, 2, 2), 65505.0))
    >>> half.dtype, bool(fits)
    (torch.float16, False)
    """
    low, high = torch.aminmax(maps)
    return maps.half(), (low >= -LARGEST_HALF) & (high <= LARGEST_HALF)


def pack(maps: Tensor) -> Tensor:
    """Maps [B, C, h, w] as float16; where an image has a value beyond ±65504, as float32.

    In the float32 result the images that fit hold their float16 values, so what becomes of an image never
    depends on its neighbours in the batch or segment.
    """
    half, all_fit = halved(maps)
    if bool(all_fit):
        return half
    fits = maps.abs().amax(dim=(1, 2, 3), keepdim=True) <= LARGEST_HALF
    return half.float().where(fits, maps.float())
