"""Checks of many rows: what they say is what a plain look at every row says, and no row costs more with many others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data import checks
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest

ROWS = 300


@pytest.fixture
def faulty(tmp_path: Path) -> Manifest:
    """Ids that repeat, patients and images in two and three splits, files that are not there, words for missing."""
    draw = np.random.default_rng(0)
    number = np.arange(ROWS)
    table = pd.DataFrame(
        {
            "id": [f"i{each}" for each in draw.integers(0, 200, ROWS)],
            "image": [f"{each % 90}.png" for each in number],
            "patient": np.where(number % 50 == 0, "NA", [f"p{each}" for each in draw.integers(0, 120, ROWS)]),
            "split": np.array(["train", "val", "test"])[draw.integers(0, 3, ROWS)],
            "dose": np.where(number % 40 == 0, "n/a", "2.5"),
        }
    )
    return Manifest(DatasetInfo(name="faulty", public_ids=True, attributes=["dose"]), table, tmp_path)


def test_a_repeated_id_names_the_first_row_that_has_it(faulty: Manifest):
    names = faulty.table["id"].tolist()
    expected = [
        (
            row + 1,
            f"id {names[row]!r} is that of row {names.index(names[row]) + 1} too; give every row an id of its own",
        )
        for row in range(ROWS)
        if names.index(names[row]) < row
    ]
    assert len(expected) > 50
    said = [(fault.row, fault.message) for fault in checks.quick_faults(faulty)]
    assert [each for each in said if each[1].startswith("id ")] == expected


@pytest.mark.parametrize("column", ["patient", "image"])
def test_what_is_in_two_splits_is_named_once_in_order_with_its_splits(column: str, faulty: Manifest):
    splits: dict[str, set[str]] = {}
    for name, split in zip(faulty.table[column], faulty.table["split"], strict=True):
        splits.setdefault(name, set()).add(split)
    shared = {name: " and ".join(sorted(each)) for name, each in sorted(splits.items()) if len(each) > 1}
    assert {len(each.split(" and ")) for each in shared.values()} == {2, 3}
    said = [str(fault) for fault in checks.quick_faults(faulty) if str(fault).startswith(f"the {column} ")]
    expected = [f"the {column} {name!r} is in {each}; " for name, each in shared.items()]
    assert len(said) == len(expected)
    assert all(one.startswith(other) for one, other in zip(said, expected, strict=True))


def test_words_for_missing_cells_are_named_row_by_row(faulty: Manifest):
    said = [
        fault.row for fault in checks.quick_faults(faulty) if fault.message.startswith(("patient is 'NA'", "dose is"))
    ]
    assert said == [*range(1, ROWS + 1, 50), *range(1, ROWS + 1, 40)]


def test_the_root_is_looked_up_once_however_many_files_are_not_there(faulty: Manifest, monkeypatch: pytest.MonkeyPatch):
    looked: list[Path] = []
    root = Manifest.root.fget
    assert root is not None

    def counted(manifest: Manifest) -> Path:
        looked.append(manifest.folder)
        return root(manifest)

    monkeypatch.setattr(Manifest, "root", property(counted))
    faults = list(checks.file_faults(faulty))
    assert len(faults) == ROWS
    assert len(looked) == 1
