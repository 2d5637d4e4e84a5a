"""Which images are encoded here: those nobody has stored and nobody else is encoding, each by one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.features import extraction_plan
from evalfm.features.extraction_plan import Destination, ExtractionPlan, Item, wait_for_others
from evalfm.features.leases import Leases
from evalfm.features.memory import MemoryBudget
from evalfm.features.store import EncoderCache, FeatureStore
from evalfm.features.tiers import MapMemory


@pytest.fixture
def cache(tmp_path: Path) -> EncoderCache:
    return FeatureStore(tmp_path / "store").cache("0" * 64)


def items(count: int) -> list[Item]:
    return [Item(f"{row:064x}", row) for row in range(count)]


def store(cache: EncoderCache, some: list[Item], kind: str = "pooled") -> None:
    with getattr(cache, kind).writer() as writer:
        writer.append([item.address for item in some], [(8, 8)] * len(some), [torch.ones(len(some), 2, 1, 1)])


def memory(some: list[Item]) -> MapMemory:
    kept = MapMemory(6, [(2, 1, 1)], torch.device("cpu"), MemoryBudget({"host": 10**6}))
    kept.make_room(item.address for item in some)
    return kept


def test_batches_are_whole_and_in_order_where_one_process_works_alone(cache: EncoderCache) -> None:
    with Leases(cache.leases) as leases:
        plan = ExtractionPlan(items(10), 4, Destination(cache), leases)
        assert list(plan.parts()) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
        assert plan.left == frozenset()
    with Leases(cache.leases) as leases:
        parts = list(ExtractionPlan(items(3000), 32, Destination(cache), leases).parts())
    assert [len(part) for part in parts] == [32] * 93 + [24]
    assert sorted(row for part in parts for row in part) == list(range(3000))


def test_two_plans_divide_the_images(cache: EncoderCache) -> None:
    with Leases(cache.leases) as mine, Leases(cache.leases) as theirs:
        plans = [ExtractionPlan(items(500), 10, Destination(cache), leases) for leases in (mine, theirs)]
        parts = [plan.parts() for plan in plans]
        rows: list[list[int]] = [[], []]
        going = {0, 1}
        while going:
            for number in sorted(going):
                part = next(parts[number], None)
                rows[number] += part or ()
                going -= {number} if part is None else set()
    assert sorted(rows[0] + rows[1]) == list(range(500))
    assert min(len(rows[0]), len(rows[1])) > 150
    # Each knows what the other has.
    assert {int(address, 16) for address in plans[0].left} | set(rows[0]) == set(range(500))


def test_what_was_stored_before_the_lease_was_had_is_left_out(cache: EncoderCache, tmp_path: Path) -> None:
    other = FeatureStore(tmp_path / "store").cache("0" * 64)
    assert len(cache.pooled.missing([item.address for item in items(8)])) == 8
    store(other, items(8)[:6])
    with Leases(cache.leases) as leases:
        plan = ExtractionPlan(items(8), 4, Destination(cache), leases)
        assert list(plan.parts()) == [(6, 7)]
        assert plan.pooled == {item.address for item in items(8)[6:]}
        # Nobody has to wait for those that needed nothing.
        assert len(cache.leases.held()) == 2


def test_other_rows_of_a_cohort_and_maps_beside_pooled_features_wait_for_the_same_leases(cache: EncoderCache) -> None:
    with Leases(cache.leases) as one, Leases(cache.leases) as two:
        first = ExtractionPlan(items(20)[:12], 20, Destination(cache), one)
        second = ExtractionPlan(items(20)[6:], 20, Destination(cache, store_maps=True), two)
        assert [row for part in first.parts() for row in part] == list(range(12))
        assert [row for part in second.parts() for row in part] == list(range(12, 20))
        assert second.left == {item.address for item in items(12)[6:]}
    store(cache, items(12))
    with Leases(cache.leases) as two:
        second = ExtractionPlan(items(12)[6:], 20, Destination(cache, store_maps=True), two)
        assert [row for part in second.parts() for row in part] == list(range(6, 12))
        assert (len(second.pooled), len(second.maps)) == (0, 6)


def test_what_memory_alone_wants_needs_no_lease(cache: EncoderCache) -> None:
    store(cache, items(6)[:3])
    with Leases(cache.leases) as others, Leases(cache.leases) as leases:
        others.claim({item.bucket: 1 for item in items(6)[:5]}, 100)
        plan = ExtractionPlan(items(6), 2, Destination(cache, memory=memory(items(6))), leases)
        assert list(plan.parts()) == [(5, 0), (1, 2)]
        # Pooled features come from the process that has the lease, to the bit.
        assert plan.left == {item.address for item in items(6)[3:5]}
        assert plan.pooled == {items(6)[5].address}


def test_leases_of_committed_rows_go_back_while_others_are_computed(
    cache: EncoderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction_plan, "RELEASE_SECONDS", 0.0)
    monkeypatch.setattr(extraction_plan, "LOOK_AGAIN", 4)
    buckets = [item.bucket for item in items(16)]
    assert len(set(buckets)) == 16
    with Leases(cache.leases) as leases:
        parts = ExtractionPlan(items(16), 4, Destination(cache), leases).parts()
        assert [next(parts), next(parts)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
        assert set(cache.leases.held()) == set(buckets[:8])
        store(cache, items(16)[:4])
        assert next(parts) == (8, 9, 10, 11)
        assert set(cache.leases.held()) == set(buckets[4:12])
        # Of the second group one row is not committed yet.
        store(cache, items(16)[4:7])
        assert next(parts) == (12, 13, 14, 15)
        assert set(cache.leases.held()) == set(buckets[4:])
    assert cache.leases.held() == {}


def test_frames_of_one_file_are_claimed_together(cache: EncoderCache) -> None:
    frames = [Item(f"{row:064x}", row, f"ct.dcm#/{row // 8}") for row in range(16)]
    with Leases(cache.leases) as leases:
        parts = ExtractionPlan(frames, 4, Destination(cache), leases).parts()
        assert next(parts) == (0, 1, 2, 3)
        assert set(cache.leases.held()) == {frames[0].bucket}
        assert len({frame.bucket for frame in frames}) == 2


def test_a_store_that_cannot_be_written_is_said_before_anything_is_encoded(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    cache = FeatureStore(tmp_path / "store").cache("0" * 64)
    with Leases(cache.leases) as leases, pytest.raises(EvalfmError, match="cannot be written"):
        next(ExtractionPlan(items(4), 4, Destination(cache), leases).parts())


class Waiting:
    """What wait_for_others tells and what happens at each of its pauses."""

    def __init__(self, *events) -> None:
        self.events, self.paused, self.told = list(events), 0, []

    def pause(self, seconds: float) -> None:
        assert seconds >= extraction_plan.POLL_SECONDS
        self.paused += 1
        self.events.pop(0)()


def test_waiting_ends_when_all_is_stored_or_a_lease_is_free(cache: EncoderCache) -> None:
    others = Leases(cache.leases)
    others.claim({item.bucket: 1 for item in items(4)}, 100)
    waiting = Waiting(lambda: None, lambda: store(cache, items(4)[:3]), lambda: store(cache, items(4)[3:]))
    wait_for_others(items(4), Destination(cache), waiting.pause, waiting.told.append)
    assert (waiting.told, waiting.paused) == ([4], 3)
    waiting = Waiting(lambda: None, lambda: others.release([items(4)[2].bucket]))
    wait_for_others(items(4), Destination(cache, store_maps=True), waiting.pause, waiting.told.append)
    assert (waiting.told, waiting.paused) == ([4], 2)
    others.close()
    waiting = Waiting()
    wait_for_others(items(8), Destination(cache), waiting.pause, waiting.told.append)
    assert waiting.told == []


def test_waiting_can_be_interrupted(cache: EncoderCache) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Leases(cache.leases) as others:
        others.claim({item.bucket: 1 for item in items(4)}, 100)
        waiting = Waiting(interrupt)
        with pytest.raises(KeyboardInterrupt):
            wait_for_others(items(4), Destination(cache), waiting.pause, waiting.told.append)
    assert os.listdir(cache.leases.path.parent) == ["pooled"]
