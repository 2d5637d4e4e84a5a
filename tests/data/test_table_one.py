from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.table_one import associations, table_one

INFO = DatasetInfo(
    name="toy",
    public_ids=True,
    label_source={"ptx": "radiologist", "grade": "radiologist"},
    label_kinds={"grade": "class"},
    attributes=["view", "age", "tube"],
)


def manifest(info: DatasetInfo = INFO) -> Manifest:
    rows = 40
    table = pd.DataFrame(
        {
            "id": [str(row) for row in range(rows)],
            "image": ["a.png"] * rows,
            "patient": [str(row // 2) for row in range(rows)],
            "split": ["train"] * 30 + ["test"] * 10,
            "ptx": [1.0] * 10 + [0.0] * 28 + [np.nan] * 2,
            "grade": ["A"] * 15 + ["B"] * 25,
            "view": ["AP"] * 8 + ["PA"] * 30 + [None, None],
            "age": [float(20 + row) for row in range(39)] + [np.nan],
            "tube": [1.0] * 6 + [0.0] * 34,
        }
    )
    return Manifest(info, table, Path())


def cells(name: str, data: Manifest | None = None) -> tuple[str, ...]:
    return next(row.cells for row in table_one(data or manifest())[1] if row.name == name)


def test_the_columns_are_the_splits_that_there_are() -> None:
    columns, rows = table_one(manifest())
    assert columns == ("train", "test", "all")
    assert cells("images") == ("30", "10", "40")
    assert cells("patients") == ("15", "5", "20")
    assert all(len(row.cells) == 3 for row in rows)


def test_shares_are_of_what_is_known() -> None:
    assert cells("ptx") == ("10 (33.3 %)", "0 (0.0 %)", "10 (26.3 %)")
    assert cells("ptx unknown") == ("0", "2", "2")
    assert cells("view = AP") == ("8 (26.7 %)", "0 (0.0 %)", "8 (21.1 %)")
    assert cells("grade = B") == ("15 (50.0 %)", "10 (100.0 %)", "25 (62.5 %)")
    assert cells("tube = 1") == ("6 (20.0 %)", "0 (0.0 %)", "6 (15.0 %)")
    assert cells("age, median (quartiles)")[0] == "34.5 (27.25–41.75)"


def test_unknown_patients_are_said() -> None:
    data = Manifest(INFO, manifest().table.drop(columns="patient"), Path())
    assert cells("patients unknown; by id", data) == ("30", "10", "40")


def test_pairs_are_counted_on_rows_where_both_are_known() -> None:
    pairs = {(each.label, each.attribute, each.level): each for each in associations(manifest())}
    # Of two levels the second stands for both; grades are no yes or no, and have no odds.
    assert set(pairs) == {("ptx", "view", "AP"), ("ptx", "age", "> 39"), ("ptx", "tube", "1")}
    view = pairs["ptx", "view", "AP"]
    assert (view.share_with, view.share_without) == (8 / 8, 2 / 30)
    assert view.odds.note is not None
    tube = pairs["ptx", "tube", "1"]
    assert (tube.share_with, tube.share_without) == (1.0, 4 / 32)
    assert all(each.p is not None and 0 <= each.p <= 1 for each in pairs.values())


def test_p_is_corrected_for_every_pair() -> None:
    generator = np.random.default_rng(0)
    table = manifest().table.assign(patient=[str(row) for row in range(40)])
    columns = {f"noise{number}": generator.integers(0, 2, 40).astype(float) for number in range(6)}
    info = INFO.model_copy(update={"attributes": list(columns)})
    many = associations(Manifest(info, table.assign(**columns), Path()))
    first = many[0]
    alone = associations(
        Manifest(info.model_copy(update={"attributes": [first.attribute]}), table.assign(**columns), Path())
    )[0]
    assert alone.odds == first.odds
    assert alone.p is not None
    assert first.p == pytest.approx(min(1.0, 6 * alone.p))
