"""The phantom that stands in where no data set is named, made by several processes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from evalfm.data.phantom import BUILT_IN
from evalfm.errors import EvalfmError
from evalfm.probing import cohort
from evalfm.progress import SILENT, Item


class Meanwhile:
    """Progress during which another process makes the phantom and is faster."""

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        yield from items
        cohort.built_in_phantom("phantom", SILENT)

    def say(self, message: str) -> None:
        """Nothing."""


def test_whoever_comes_second_takes_what_the_first_has_made(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BUILT_IN, "phantom", (4, {}))
    monkeypatch.setattr(cohort, "PHANTOM_SIZE", 64)
    assert len(cohort.built_in_phantom("phantom", Meanwhile())) == 4
    (folder,) = home.rglob("phantom-4-64-*")
    assert not [each.name for each in folder.parent.iterdir() if each != folder]


def test_what_is_in_its_place_and_no_phantom_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BUILT_IN, "phantom", (4, {}))
    monkeypatch.setattr(cohort, "PHANTOM_SIZE", 64)
    cohort.built_in_phantom("phantom", SILENT)
    (folder,) = home.rglob("phantom-4-64-*")
    (folder / "dataset.yaml").unlink()
    with pytest.raises(EvalfmError):
        cohort.built_in_phantom("phantom", SILENT)
