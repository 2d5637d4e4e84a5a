"""Kept images: within their budget, the last pass never pushed out by itself, and all given back."""

from __future__ import annotations

import gc

import numpy as np

from evalfm.data.geometry import Geometry
from evalfm.encoders.preprocessing import Prepared
from evalfm.features.kept_images import KeptImages
from evalfm.features.memory import MemoryBudget

SIZE = 1000 + 1024


def image() -> Prepared:
    return Prepared(np.zeros((1, 10, 100), np.uint8), Geometry.identity((10, 100)), "unit-interval")


def read(kept: KeptImages, rows: range) -> list[bool]:
    """Read rows as a reader does; which were kept."""
    found = []
    for row in rows:
        found.append(kept.get(row) is not None)
        if not found[-1]:
            kept.put(row, image())
    return found


def test_a_pass_longer_than_the_memory_finds_what_fits() -> None:
    budget = MemoryBudget({"host": 6 * SIZE})
    kept = KeptImages(budget)
    assert sum(read(kept, range(10))) == 0
    for _ in range(4):
        assert sum(read(kept, range(10))) >= 5
    assert len(kept) == 6
    assert budget.free("host") == 0


def test_images_that_nobody_asks_for_any_more_leave() -> None:
    kept = KeptImages(MemoryBudget({"host": 6 * SIZE}))
    read(kept, range(6))
    for _ in range(6):
        read(kept, range(10, 14))
    assert all(read(kept, range(10, 14)))


def test_room_is_left_and_made() -> None:
    budget = MemoryBudget({"host": 6 * SIZE})
    kept = KeptImages(budget, room=2 * SIZE)
    read(kept, range(6))
    assert len(kept) == 4
    kept.give_up(4 * SIZE)
    assert len(kept) == 2
    kept.clear()
    assert budget.taken("host") == 0


def test_memory_is_given_back_without_being_cleared() -> None:
    budget = MemoryBudget({"host": 6 * SIZE})
    kept = KeptImages(budget)
    read(kept, range(4))
    del kept
    gc.collect()
    assert budget.free("host") == 6 * SIZE
