"""Rows are found by their whole address, and the first of two counts unless the second mends it."""

from __future__ import annotations

import numpy as np
import pytest

from evalfm.features.rows import CHECKED, DAMAGED, GONE, RowIndex
from evalfm.features.segment_format import ENTRY


def entries(addresses, offset=0, generation=0):
    result = np.zeros(len(addresses), ENTRY)
    result["address"] = addresses
    result["offset"] = offset + np.arange(len(addresses))
    result["generation"] = generation
    return result


def offsets(index, addresses):
    numbers = index.find(np.array(addresses, np.uint64))
    return [int(index.rows["offset"][number]) if number >= 0 else None for number in numbers]


def test_rows_added_in_any_order_and_number_are_found():
    generator = np.random.default_rng(0)
    addresses = generator.integers(0, 2**63, (3000, 4)).astype(np.uint64)
    index, added = RowIndex(), 0
    while added < 2500:
        count = int(generator.integers(1, 200))
        index.add(entries(addresses[added : added + count], added))
        added += len(addresses[added : added + count])
    expected = [number if number < added else None for number in range(3000)]
    assert offsets(index, addresses) == expected
    assert len(index) == added
    assert offsets(RowIndex(), addresses[:2]) == [None, None]


def test_addresses_that_begin_alike_are_told_apart():
    addresses = [[7, 0, 0, number] for number in range(50)] + [[8, 1, 1, 1]]
    index = RowIndex()
    index.add(entries(addresses[10:30], 10))
    index.add(entries(addresses[:10], 0))
    index.add(entries(addresses[40:], 40))
    assert offsets(index, addresses) == [*range(30), *[None] * 10, *range(40, 51)]


def test_of_two_of_one_address_the_first_counts():
    index = RowIndex()
    index.add(entries([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]))
    index.add(entries([[5, 6, 7, 8], [9, 9, 9, 9]], 10))
    assert offsets(index, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]]) == [0, 1, 11]
    assert len(index) == 3


def test_a_later_generation_counts_wherever_it_is_met():
    address = [1, 2, 3, 4]
    index = RowIndex()
    index.add(entries([address], 5, generation=1))
    index.add(entries([address], 6, generation=0))
    assert offsets(index, [address]) == [5]
    index.add(entries([address], 7, generation=2))
    assert offsets(index, [address]) == [7]
    both = np.concatenate([entries([address], 8, generation=3), entries([address], 9, generation=4)])
    index.add(both)
    assert offsets(index, [address]) == [9]
    assert len(index) == 1


@pytest.mark.parametrize(("state", "expected"), [(CHECKED, 0), (DAMAGED, 1), (GONE, 1)])
def test_another_copy_takes_the_place_of_one_that_is_damaged_or_gone(state, expected):
    address = [1, 2, 3, 4]
    index = RowIndex()
    index.add(entries([address], 0))
    index.rows["state"][0] = state
    index.add(entries([address], 1))
    assert offsets(index, [address]) == [expected]
    assert len(index) == 1
