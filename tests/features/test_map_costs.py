"""Maps are kept where they cost less time; a slow disk and a slow encoder decide otherwise."""

from __future__ import annotations

import pytest

from evalfm.features.map_costs import DiskRates, MapCosts, disk_rates, measured_rates

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
