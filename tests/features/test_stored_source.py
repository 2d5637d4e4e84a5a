"""Features that are read once: maps lie in the store and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evalfm.features.memory import MemoryBudget
from evalfm.features.store import FeatureStore
from evalfm.features.stored_source import StoredSource


def test_maps_take_no_memory_and_are_those_of_the_encoder(
    tmp_path: Path, make_encoder: Any, make_radiographs: Any, compute: Any
) -> None:
    encoder, radiographs = make_encoder(), make_radiographs(range(7))
    memory = MemoryBudget({"host": 10_000_000})
    with StoredSource(encoder, radiographs, FeatureStore(tmp_path), workers=1, memory=memory) as source:
        rows = list(range(7))
        source.prefetch(rows, maps=True)
        assert memory.taken("host") == 0
        assert source.missing(rows, maps=True) == 0
        found, expected = source.features(rows, maps=True), compute(encoder, radiographs, rows)
        assert memory.taken("host") == 0
        assert torch.equal(found.pooled, expected.pooled)
        assert all(torch.equal(one, other) for one, other in zip(found.maps, expected.maps, strict=True))
        assert source.encoded_images == 7


def test_the_layout_is_half_unless_one_row_needs_more(tmp_path: Path, make_encoder: Any, make_radiographs: Any) -> None:
    for gain, dtype in ((1.0, "<f2"), (1e6, "<f4")):
        source = StoredSource(make_encoder(gain=gain), make_radiographs(range(3)), FeatureStore(tmp_path), workers=1)
        with source:
            source.prefetch([0, 1, 2], maps=True)
            layout = source.map_layout([0, 1, 2])
            assert [each.dtype for each in layout] == [dtype] * len(source.map_channels)
            levels = source.features([0, 1], maps=True).maps
            assert [each.shape for each in layout] == [tuple(level.shape[1:]) for level in levels]


def test_one_image_has_one_address_whatever_its_row(tmp_path: Path, make_encoder: Any, make_radiographs: Any) -> None:
    source = StoredSource(make_encoder(), make_radiographs([5, 6, 5]), FeatureStore(tmp_path))
    one, other, again = source.addresses([0, 1, 2])
    assert one == again != other
