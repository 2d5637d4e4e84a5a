"""What becomes of maps: as asked for, within the budget, and where it counts whichever is sooner done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evalfm.features.map_costs import DiskRates
from evalfm.features.map_policy import MapPolicy

MAP_BYTES = 10_000_000
SLOW, FAST = DiskRates(write=50e6, read=50e6), DiskRates(write=2e9, read=2e9)


def store(budget: int = 20_000_000_000, taken: int = 0, folder: str = "store"):
    return SimpleNamespace(budget_bytes=budget, map_bytes=taken, folder=folder)


def decided(rates=FAST, seconds=0.05, images=1000, missing=None, passes=20.0, held=False, **of_store):
    policy = MapPolicy("auto", store(**of_store), MAP_BYTES)
    choice = policy.decide(
        images,
        lambda: images if missing is None else missing,
        passes=passes,
        held=held,
        recompute=lambda: seconds,
        rates=lambda folder: rates,
    )
    return choice, policy.costs


def test_a_slow_disk_and_a_slow_encoder_decide_otherwise() -> None:
    assert decided(FAST, seconds=0.05)[0] == "store"
    assert decided(SLOW, seconds=0.001)[0] == "stream"
    assert decided(SLOW, seconds=2.0)[0] == "store"
    # As fast a disk as they come, beside an encoder that is faster still.
    assert decided(FAST, seconds=0.001)[0] == "stream"


def test_both_figures_are_kept() -> None:
    choice, costs = decided(SLOW, seconds=0.001)
    assert costs is not None
    assert (choice, costs.policy, costs.read, costs.recompute) == ("stream", "stream", 0.2, 0.001)


def test_memory_that_holds_all_leaves_one_pass() -> None:
    assert decided(SLOW, seconds=0.1, held=True, missing=0)[0] == "stream"
    assert decided(FAST, seconds=0.1, held=True, missing=0)[0] == "store"


@pytest.mark.parametrize(("missing", "choice"), [(None, "stream"), (0, "store")])
def test_the_budget_bounds_the_disk_and_what_is_there_counts_no_more(missing: int | None, choice: str) -> None:
    assert decided(budget=1_000_000_000, missing=missing)[0] == choice


def test_few_maps_are_stored_without_measuring() -> None:
    policy = MapPolicy("auto", store(), MAP_BYTES)
    fail = lambda *_: pytest.fail("nothing is worth measuring")  # noqa: E731
    assert policy.decide(6, lambda: 6, passes=20, held=False, recompute=fail, rates=fail) == "store"
    assert policy.costs is None


def test_what_was_asked_for_or_decided_stays() -> None:
    fail = lambda *_: pytest.fail("nothing is to be measured")  # noqa: E731
    for asked in ("store", "stream"):
        policy = MapPolicy(asked, store(), MAP_BYTES)
        assert policy.decide(10**6, fail, passes=1, held=False, recompute=fail, rates=fail) == asked
    policy = MapPolicy("auto", store(), MAP_BYTES)
    known = {"passes": 20, "held": False, "recompute": lambda: 0.001}
    assert policy.decide(1000, lambda: 1000, rates=lambda folder: SLOW, **known) == "stream"
    assert (
        policy.decide(1000, lambda: 1000, rates=lambda folder: FAST, **known | {"recompute": lambda: 9.0}) == "stream"
    )


def test_a_disk_that_cannot_be_measured_is_left_to_the_budget() -> None:
    assert decided(None)[0] == "store"
