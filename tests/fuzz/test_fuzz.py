"""A short run of the fuzzer: no traceback, no hang, no flood of memory, whatever comes in."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .running import TARGETS, Workers

CASES = {"runs": 40, "options": 40, "sources": 60, "files": 40, "applied": 15, "bombs": 10}
"""Of a target whose cases run a whole verb or write much; 150 of the others.

``python -m tests.fuzz.running`` runs thousands.
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as made:
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="limits of time and memory are set as Linux knows them")
@pytest.mark.parametrize("target", TARGETS)
def test_spoilt_input_is_told_or_read(target: str, workers: Workers):
    assert [str(fault) for fault in workers.fuzz(target, 0, 0, CASES.get(target, 150))] == []


def test_every_target_is_run():
    from .doors import TARGETS as doors

    assert tuple(doors) == TARGETS
