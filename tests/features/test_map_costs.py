"""Maps are kept where they cost less time; a slow disk and a slow encoder decide otherwise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evalfm.features.map_costs import DiskRates, MapCosts, MapPolicy, disk_rates, measured_rates

EVEN = MapCosts(images=100, missing=100, passes=10, held=False, recompute=0.01, read=0.005, write=0.005)


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, "store"),
        ({"read": 0.05, "write": 0.05}, "stream"),
        ({"recompute": 0.001}, "stream"),
        ({"recompute": 1.0, "read": 0.05, "write": 0.05}, "store"),
        # Read once only, what is on disk is worth reading, what is not is not worth writing first.
        ({"passes": 1, "missing": 0}, "store"),
        ({"passes": 1, "missing": 100}, "stream"),
        # In memory a pass costs nothing: computing is the same either way, and the disk serves later runs.
        ({"held": True}, "store"),
        ({"held": True, "write": 0.02}, "stream"),
        ({"held": True, "missing": 0, "read": 0.02}, "stream"),
        ({"held": True, "missing": 0}, "store"),
    ],
)
def test_the_cheaper_way_is_taken(changes: dict[str, float], policy: str) -> None:
    assert EVEN.model_copy(update=changes).policy == policy


def test_the_sentence_has_both_figures() -> None:
    assert EVEN.sentence == (
        "maps are kept on disk: 10.00 ms an image to compute, 5.00 ms to read from disk; 10.0 s against 6.0 s"
    )
    assert (
        "computed when they are used, and held in memory"
        in EVEN.model_copy(update={"held": True, "write": 1.0}).sentence
    )


def test_a_record_of_it_has_the_choice_and_is_read_again() -> None:
    written = EVEN.model_dump(mode="json")
    assert written["policy"] == "store"
    assert MapCosts.model_validate(written) == EVEN


def test_a_disk_is_measured_once_and_left_as_it_was(tmp_path) -> None:
    ticks = iter([0.0, 2.0, 10.0, 11.0])
    assert measured_rates(tmp_path / "probe", 4 << 20, lambda: next(ticks)).write == 2 << 20
    assert list(tmp_path.iterdir()) == []
    rates = disk_rates(tmp_path / "store")
    assert isinstance(rates, DiskRates)
    assert rates.read > 1e6
    assert disk_rates(tmp_path / "store") is rates
    assert list((tmp_path / "store").iterdir()) == []


def test_a_disk_that_cannot_be_written_has_no_rate(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert disk_rates(tmp_path / "file" / "store") is None


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
