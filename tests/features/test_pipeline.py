"""Batches through an encoder: in order, looked at before they are kept, whatever was asked for beside them."""

from __future__ import annotations

import pytest
import torch

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Features
from evalfm.errors import EvalfmError
from evalfm.features import extraction_plan
from evalfm.features.extraction_plan import Destination, Item
from evalfm.features.memory import MemoryBudget
from evalfm.features.pipeline import Pipeline, as_stored, extract
from evalfm.features.profile import StageTimes
from evalfm.features.readers import PreparedBatch
from evalfm.features.store import FeatureStore
from evalfm.features.tiers import MapMemory, pack

SHAPES = [(64, 8, 8), (32, 4, 4)]


def image_of(row: int) -> torch.Tensor:
    return torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(row))


class Reader:
    """Images that are there already, and what was asked for."""

    def __init__(self, special: dict[int, float] | None = None) -> None:
        self.special = special or {}
        self.asked: list[tuple[int, ...]] = []

    def batches(self, parts):
        for rows in parts:
            self.asked.append(tuple(rows))
            pixels = torch.stack([image_of(row) * self.special.get(row, 1.0) for row in rows])
            geometries = tuple(Geometry.identity((20 + row, 30)).resize((16, 16)) for row in rows)
            yield PreparedBatch(tuple(rows), pixels, geometries, {"decode": 0.5})


def items(count: int) -> list[Item]:
    return [Item(f"{row:064x}", row) for row in range(count)]


def expected(encoder, count: int) -> Features:
    return encoder.encode(torch.stack([image_of(row) for row in range(count)]))


@pytest.fixture
def cache(tmp_path):
    return FeatureStore(tmp_path / "store").cache("0" * 64)


@pytest.mark.parametrize("in_flight", [0, 1, 3])
def test_features_come_in_order_with_what_was_asked_for(make_encoder, in_flight):
    encoder = make_encoder()
    parts = [(0, 1, 2), (3, 4, 5), (6,)]
    found = list(Pipeline(encoder, in_flight=in_flight).encode(Reader().batches(parts), maps=True))
    assert [batch.rows for batch in found] == parts
    assert found[1].sizes == ((23, 30), (24, 30), (25, 30))
    whole = expected(encoder, 7)
    torch.testing.assert_close(torch.cat([batch.pooled for batch in found]), whole.pooled)
    for number, level in enumerate(whole.maps):
        assert torch.equal(torch.cat([batch.maps[number] for batch in found]), level.half())
    assert all(batch.host_maps == () for batch in found)
    assert all(batch.maps == () for batch in Pipeline(encoder).encode(Reader().batches(parts)))
    host = list(Pipeline(encoder).encode(Reader().batches(parts), host_maps=True))
    assert [len(batch.host_maps) for batch in host] == [2, 2, 2]


def test_batches_are_looked_at_late_and_always_before_they_are_handed_on(make_encoder):
    encoder, reader = make_encoder(), Reader({4: float("nan")})
    parts = [(row,) for row in range(10)]
    seen = []

    def all_of_them():
        for batch in Pipeline(encoder, in_flight=2).encode(reader.batches(parts)):
            seen.extend(batch.rows)

    with pytest.raises(EvalfmError, match="NaN or infinite features in float32"):
        all_of_them()
    assert seen == [0, 1, 2, 3]
    # Two batches behind the one that was looked at were on their way.
    assert len(encoder.batches) == 7


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_row_that_is_not_finite_is_never_stored_and_those_before_it_are(make_encoder, cache, in_flight):
    encoder = make_encoder()
    all_items = items(20)
    memory = MapMemory(6, SHAPES, torch.device("cpu"), MemoryBudget({"host": 10**7}))
    memory.make_room(item.address for item in all_items)
    appended = []
    for arrays in (cache.pooled, cache.maps):
        writer_of = arrays.writer

        def watched(writer_of=writer_of):
            writer = writer_of()
            append = writer.append
            writer.append = lambda addresses, *rest: (appended.extend(addresses), append(addresses, *rest))
            return writer

        arrays.writer = watched
    with pytest.raises(EvalfmError, match="counting gives NaN"):
        extract(
            Pipeline(encoder, in_flight=in_flight),
            Reader({13: float("inf")}),
            all_items,
            Destination(cache, True, memory),
            batch_size=4,
        )
    good = [item.address for item in all_items[:12]]
    assert sorted(set(appended)) == sorted(good)
    assert memory.lacking(item.address for item in all_items) == [item.address for item in all_items[12:]]
    stored = [address for address in good if not cache.pooled.missing([address])]
    if stored:
        (pooled,) = cache.pooled.read(stored)
        assert bool(torch.isfinite(pooled).all())


def test_what_half_precision_does_not_hold_is_kept_whole(make_encoder, cache):
    encoder = make_encoder(gain=50_000.0)
    memory = MapMemory(6, SHAPES, torch.device("cpu"), MemoryBudget({"host": 10**7}))
    memory.make_room(item.address for item in items(6))
    extract(Pipeline(encoder, in_flight=2), Reader(), items(6), Destination(cache, True, memory), batch_size=2)
    whole = expected(encoder, 6)
    addresses = [item.address for item in items(6)]
    for number, level in enumerate(whole.maps):
        assert float(level.max()) > 65504
        assert torch.equal(memory.gather(addresses).maps[number].float(), pack(level).float())
        assert torch.equal(cache.maps.read(addresses)[number].float(), pack(level).float())


def test_only_what_is_lacking_is_computed_and_written(make_encoder, cache):
    encoder = make_encoder()
    pipe = Pipeline(encoder)
    extract(pipe, Reader(), items(4), Destination(cache), batch_size=2)
    reader = Reader()
    work = extract(pipe, reader, items(8), Destination(cache), batch_size=3).work
    assert reader.asked == [(4, 5, 6), (7,)]
    assert (work.calls, work.images) == (2, 4)
    # Maps of all: pooled features that are there stay as they are.
    work = extract(pipe, Reader(), items(8), Destination(cache, True), batch_size=3).work
    assert work.images == 8
    assert extract(pipe, Reader(), items(8), Destination(cache, True), batch_size=3).work.images == 0


def test_what_another_process_stores_meanwhile_is_left_out(make_encoder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction_plan, "LOOK_AGAIN", 2)
    other = FeatureStore(tmp_path / "store").cache("0" * 64)
    encoder = make_encoder()

    class Company(Reader):
        def batches(self, parts):
            for number, batch in enumerate(super().batches(parts)):
                if number == 0:
                    extract(Pipeline(make_encoder()), Reader(), items(8)[4:], Destination(other), batch_size=4)
                yield batch

    reader = Company()
    extract(Pipeline(encoder), reader, items(8), Destination(cache), batch_size=2)
    assert reader.asked == [(0, 1), (2, 3)]
    assert cache.pooled.missing([item.address for item in items(8)]) == []


def test_pooled_features_in_memory_are_those_of_the_store(make_encoder, cache):
    """Another batch may round otherwise, so what is stored is what is read, wherever the maps come from."""
    with cache.pooled.writer() as writer:
        writer.append([items(1)[0].address], [(20, 30)], [torch.full((1, 6), 7.0)])
    memory = MapMemory(6, SHAPES, torch.device("cpu"), MemoryBudget({"host": 10**7}))
    memory.make_room(item.address for item in items(3))
    extract(Pipeline(make_encoder()), Reader(), items(3), Destination(cache, False, memory), batch_size=2)
    addresses = [item.address for item in items(3)]
    pooled = memory.gather(addresses).pooled
    assert torch.equal(pooled, cache.pooled.read(addresses)[0])
    assert pooled[0].tolist() == [7.0] * 6
    assert torch.equal(as_stored(torch.zeros(3, 6), addresses, cache.pooled), pooled)


def test_stages_are_timed_where_somebody_asks(make_encoder, cache):
    times = StageTimes()
    extract(
        Pipeline(make_encoder(), times=times), Reader(), items(4), Destination(cache, True), batch_size=2, times=times
    )
    seconds = times.to_json()
    assert seconds["decode"] == 1.0
    assert {"wait for images", "upload", "encode", "download", "write"} <= set(seconds)


def test_the_maker_of_a_batch_is_named_by_what_it_declares(make_encoder, cache):
    encoder = make_encoder()
    encoder.pooled_dim = 7
    with pytest.raises(EvalfmError, match=r"gives \(6, 64, 32\) channels and declares \(7, 64, 32\)"):
        extract(Pipeline(encoder), Reader(), items(2), Destination(cache), batch_size=2)


def test_packing_asks_nothing_of_the_device():
    """The flag of a batch stays a tensor until the batch is looked at."""
    from evalfm.features.tiers import halved

    half, fits = halved(torch.full((1, 1, 1, 1), 65504.0))
    assert (half.dtype, fits.shape, bool(fits)) == (torch.half, (), True)
    assert not bool(halved(torch.full((1, 1, 1, 1), -65505.0))[1])
    assert not bool(halved(torch.full((1, 1, 1, 1), float("nan")))[1])
