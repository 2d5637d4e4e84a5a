"""Maps kept in memory: the same rows in any order, wherever there was room, within the budget."""

from __future__ import annotations

import pytest
import torch

from evalfm.features.memory import MemoryBudget
from evalfm.features.tiers import MapMemory, joined, pack

SHAPES = ((3, 4, 4), (2, 2, 2))
ROW_BYTES = 4 * 5 + 2 * (3 * 16 + 2 * 4)


def rows(count: int, *, seed: int = 0, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, *shape, generator=generator) * scale for shape in SHAPES]
    return torch.randn(count, 5, generator=generator), maps


def memory(budget: MemoryBudget) -> MapMemory:
    return MapMemory(5, SHAPES, torch.device("cpu"), budget)


def names(count: int, first: int = 0) -> list[str]:
    return [f"image{number}" for number in range(first, first + count)]


def assert_rows(features, pooled, maps, order) -> None:
    assert torch.equal(features.pooled, pooled[order])
    for found, level in zip(features.maps, maps, strict=True):
        assert torch.equal(found.float(), level[order].float())


def test_rows_come_back_in_the_order_asked_whatever_the_order_they_were_put() -> None:
    kept = memory(MemoryBudget({"host": 100 * ROW_BYTES}))
    pooled, maps = rows(10)
    packed = [pack(level) for level in maps]
    assert kept.row_bytes == ROW_BYTES
    assert kept.make_room(names(10))
    put = [7, 8, 2, 0, 9, 1, 3, 4, 5, 6]
    for part in (put[:4], put[4:5], put[5:]):
        kept.put([f"image{row}" for row in part], pooled[part], [level[part] for level in packed])
    order = [9, 0, 0, 4, 7]
    found = kept.gather([f"image{row}" for row in order])
    assert_rows(found, pooled, packed, order)
    assert [level.dtype for level in found.maps] == [torch.half, torch.half]
    assert found.pooled.dtype == torch.float32


def test_rows_of_several_rounds_are_joined_in_order() -> None:
    kept = memory(MemoryBudget({"host": 100 * ROW_BYTES}))
    pooled, maps = rows(9)
    packed = [pack(level) for level in maps]
    for first in (0, 3, 6):
        assert kept.make_room(names(first + 3))
    kept.put(names(9), pooled, packed)
    order = [8, 1, 4, 4, 0, 7]
    assert_rows(kept.gather([f"image{row}" for row in order]), pooled, packed, order)


def test_an_image_beyond_half_precision_keeps_its_values_and_leaves_the_others_theirs() -> None:
    kept = memory(MemoryBudget({"host": 100 * ROW_BYTES}))
    pooled, maps = rows(4)
    maps[0][2, 0, 0, 0] = 70_000.0
    packed = [pack(level) for level in maps]
    assert kept.make_room(names(4))
    kept.put(names(4)[::-1], pooled.flip(0), [level.flip(0) for level in packed])
    assert_rows(kept.gather(names(4)), pooled, packed, [0, 1, 2, 3])
    assert kept.gather(["image0", "image1"]).maps[0].dtype == torch.half


def test_the_budget_bounds_what_is_kept_and_is_given_back() -> None:
    budget = MemoryBudget({"host": 5 * ROW_BYTES + 1})
    kept = memory(budget)
    assert not kept.make_room(names(8))
    assert budget.taken("host") == 5 * ROW_BYTES
    pooled, maps = rows(8)
    kept.put(names(8), pooled, [pack(level) for level in maps])
    assert kept.lacking(names(8)) == names(3, 5)
    assert kept.holds(names(5))
    assert not kept.holds(names(6))
    with pytest.raises(KeyError, match="image5"):
        kept.gather(names(6))
    kept.close()
    assert budget.taken("host") == 0
    assert kept.lacking(names(1)) == names(1)


def test_no_memory_keeps_nothing() -> None:
    kept = memory(MemoryBudget({"host": 0}))
    assert not kept.make_room(names(2))
    pooled, maps = rows(2)
    kept.put(names(2), pooled, [pack(level) for level in maps])
    assert kept.lacking(names(2)) == names(2)


def test_room_without_a_row_is_no_row() -> None:
    kept = memory(MemoryBudget({"host": 100 * ROW_BYTES}))
    assert kept.make_room(names(3))
    pooled, maps = rows(1)
    kept.put(["image1"], pooled, [pack(level) for level in maps])
    assert kept.has_room(names(3))
    assert kept.lacking(names(3)) == ["image0", "image2"]


def test_parts_of_two_kinds_are_joined() -> None:
    from evalfm.encoders.encoder import Features

    pooled, maps = rows(4)
    packed = [pack(level) for level in maps]
    parts = [
        Features(pooled[[2, 0]], tuple(level[[2, 0]] for level in packed)),
        Features(pooled[[3, 1]], tuple(level[[3, 1]].float() for level in packed)),
    ]
    found = joined(parts, torch.tensor([1, 3, 0, 2]))
    assert_rows(found, pooled, packed, [0, 1, 2, 3])
    assert found.maps[0].dtype == torch.float32
