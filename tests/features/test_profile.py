"""Seconds by stage: added up across threads, in the order of the stages, for nothing where nobody asks."""

from __future__ import annotations

import threading
import time

import pytest

from evalfm.features.profile import MEANING, NO_TIMES, StageTimes


def test_seconds_add_up_across_threads() -> None:
    times = StageTimes()
    threads = [threading.Thread(target=lambda: [times.add("decode", 0.25) for _ in range(400)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times.to_json() == {"decode": 400.0}


def test_a_stage_is_timed_even_where_it_fails() -> None:
    times = StageTimes()

    def fail() -> None:
        with times.stage("encode"):
            time.sleep(0.02)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert 0.02 <= times.to_json()["encode"] < 5


def test_the_table_follows_the_way_of_an_image_and_reads_at_80_columns() -> None:
    times = StageTimes()
    times.update({"something else": 1.0} | dict.fromkeys(reversed(MEANING), 123456.7))
    assert list(times.to_json()) == [*MEANING, "something else"]
    lines = times.table()
    assert len(lines) == len(MEANING) + 2
    assert max(map(len, lines)) <= 80


def test_nothing_is_kept_where_nobody_asks() -> None:
    NO_TIMES.add("decode", 1.0)
    NO_TIMES.update({"decode": 1.0})
    with NO_TIMES.stage("encode"):
        pass
    assert NO_TIMES.to_json() == {}
    assert not NO_TIMES.measures
    assert StageTimes().measures
