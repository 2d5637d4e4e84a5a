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


def test_a_tie_stands_in_one_of_two_built_in_sets_of_the_same_patients(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cohort, "PHANTOM_SIZE", 64)
    tables = {}
    for name in ("phantom-tied", "phantom-untied"):
        monkeypatch.setitem(BUILT_IN, name, (300, BUILT_IN[name][1]))
        manifest = cohort.load_manifest(name, "ptx-cls", SILENT)
        assert manifest.info.name == name
        tables[name] = manifest.table
    tied, untied = tables.values()
    same = ["id", "patient", "pneumothorax", "cardiomegaly", "sex", "split"]
    assert tied[same].equals(untied[same])
    shares = [table.groupby("pneumothorax")["chest_tube"].mean() for table in (tied, untied)]
    assert shares[0][1] - shares[0][0] > 0.6
    assert abs(shares[1][1] - shares[1][0]) < 0.15
    assert {path.name.rpartition("-")[0] for path in (home / "cache").iterdir()} == {
        "phantom-tied-300-64",
        "phantom-untied-300-64",
    }


def test_what_is_in_its_place_and_no_phantom_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(BUILT_IN, "phantom", (4, {}))
    monkeypatch.setattr(cohort, "PHANTOM_SIZE", 64)
    cohort.built_in_phantom("phantom", SILENT)
    (folder,) = home.rglob("phantom-4-64-*")
    (folder / "dataset.yaml").unlink()
    with pytest.raises(EvalfmError):
        cohort.built_in_phantom("phantom", SILENT)
