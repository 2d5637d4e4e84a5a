"""Batches arrive in order and in float32, whatever they are kept in, and faults of the reader are not swallowed."""

from __future__ import annotations

import threading

import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.features.readers import read_ahead
from evalfm.heads.reading import read_batches


def test_the_next_part_is_read_while_one_is_used_and_none_further() -> None:
    started: list[int] = []
    reached = [threading.Event() for _ in range(4)]

    def read(part: int) -> int:
        started.append(part)
        reached[part].set()
        return part

    for part in (results := read_ahead(range(4), read)):
        if part < 3:
            assert reached[part + 1].wait(5)
        assert started == list(range(min(part + 2, 4)))
    assert list(results) == []
    assert list(read_ahead([], read)) == []


def test_a_fault_of_the_reader_comes_with_its_part() -> None:
    def read(part: int) -> int:
        if part == 2:
            raise EvalfmError("Row 3 cannot be read.")
        return part

    results = read_ahead(range(4), read)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(EvalfmError, match="Row 3"):
        next(results)


def test_maps_in_half_precision_come_as_float32_in_the_order_drawn(plant, make_examples) -> None:
    source, train, _ = plant()
    exact = [level.clone() for level in source.maps]
    source.maps = tuple(level.half() for level in source.maps)
    drawn = [torch.tensor([5, 2, 2]), torch.tensor([0])]
    batches = list(read_batches(train, drawn, True, torch.device("cpu")))
    assert len(batches) == 2
    for positions, (levels, pooled) in zip(drawn, batches, strict=True):
        rows = train.rows[positions.numpy()]
        assert pooled.dtype == torch.float32
        for level, whole in zip(levels, exact, strict=True):
            assert level.dtype == torch.float32
            assert torch.equal(level, whole[rows].half().float())
