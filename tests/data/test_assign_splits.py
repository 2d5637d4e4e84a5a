from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data import splits
from evalfm.data.assign_splits import assign_splits, split_units, with_val_from_train
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError

TABLE = pd.DataFrame(
    {
        "id": [str(row) for row in range(400)],
        "image": "a.png",
        "patient": [str(row // 2) for row in range(400)],
        "ptx": (np.arange(400) // 2 % 10 == 0).astype(float),
        "site": ["A" if row < 300 else "B" for row in range(400)],
    }
)
DATA = Manifest(DatasetInfo(name="toy", label_source={"ptx": "mask"}), TABLE, Path())


def test_by_hash_and_reported_in_the_info() -> None:
    assigned = assign_splits(DATA, seed=5)
    assert assigned.splits.tolist() == splits.assign(DATA.patients, seed=5).tolist()
    assert assigned.info.split == SplitRule(rule="hash", seed=5, fractions=(0.7, 0.1, 0.2))


def test_stratified() -> None:
    assigned = assign_splits(DATA, stratify="ptx")
    assert [int(TABLE["ptx"][assigned.splits == name_of_split].sum()) for name_of_split in splits_of()] == [28, 4, 8]
    assert assigned.info.split is not None
    assert assigned.info.split.stratify == "ptx"
    with pytest.raises(UnknownNameError, match="ptx"):
        assign_splits(DATA, stratify="ptxx")


def splits_of() -> tuple[str, ...]:
    return ("train", "val", "test")


def test_where_deals_those_patients_to_test() -> None:
    assigned = assign_splits(DATA, where="site == 'B'")
    assert (assigned.splits == "test").tolist() == (TABLE["site"] == "B").tolist()
    assert assigned.info.split is not None
    assert assigned.info.split.where == "site == 'B'"


def test_official_lists_with_and_without_val(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\n".join(TABLE["id"][:300]))
    (tmp_path / "test.txt").write_text("\n".join(TABLE["id"][300:]))
    assigned = assign_splits(DATA, official=[tmp_path / "train.txt", tmp_path / "test.txt"])
    assert (assigned.splits[300:] == "test").all()
    assert 10 < np.sum(assigned.splits[:300] == "val") < 75
    assert assigned.info.split is not None
    assert assigned.info.split.note is not None
    (tmp_path / "train.txt").write_text("\n".join(TABLE["id"][:290]))
    (tmp_path / "val.txt").write_text("\n".join(TABLE["id"][290:300]))
    assigned = assign_splits(DATA, official=[tmp_path / f"{name_of_split}.txt" for name_of_split in splits_of()])
    assert np.flatnonzero(assigned.splits == "val").tolist() == list(range(290, 300))
    assert assigned.info.split == SplitRule(rule="official")


def with_twins(folder: Path, number: int = 120) -> Manifest:
    """One image per patient, all different, but that those of 3 and 70, 70 and 9, 11 and 12 have the same bytes."""
    twins = {(3, 0): 1, (70, 0): 1, (70, 1): 2, (9, 0): 2, (11, 0): 3, (12, 0): 3}
    rows = []
    for patient in range(number):
        for image in range(2 if patient == 70 else 1):
            name = f"{patient}-{image}"
            (folder / f"{name}.png").write_bytes(b"twin%d" % twins[patient, image] if (patient, image) in twins else
                                                 f"one {patient:03d}".encode())  # fmt: skip
            rows.append({"id": name, "image": f"{name}.png", "patient": f"p{patient}", "ptx": float(patient % 2)})
    info = DatasetInfo(name="twins", public_ids=True, label_source={"ptx": "mask"})
    return Manifest(info, pd.DataFrame(rows), folder)


def test_the_name_of_the_set_decides_nothing(tmp_path: Path) -> None:
    data = with_twins(tmp_path)
    other = Manifest(data.info.model_copy(update={"name": "another"}), data.table, tmp_path)
    for how in ({}, {"stratify": "ptx"}, {"where": "patient == 'p7' or patient == 'p8'"}):
        assert assign_splits(data, seed=2, **how).splits.tolist() == assign_splits(other, seed=2, **how).splits.tolist()


def test_those_who_share_an_image_are_one_unit_and_nobody_else_moves(tmp_path: Path) -> None:
    data = with_twins(tmp_path)
    unit = dict(zip(data.table["id"], split_units(data), strict=True))
    assert {unit[name] for name in ("3-0", "70-0", "70-1", "9-0")} == {"p3"}
    assert {unit["11-0"], unit["12-0"]} == {"p11"}
    others = [name for name in unit if name.split("-")[0] not in {"3", "70", "9", "11", "12"}]
    assert [unit[name] for name in others] == [f"p{name.split('-')[0]}" for name in others]
    rows = np.array([3, 70, 10])
    assert split_units(data, rows).tolist() == ["p3", "p3", "p10"]
    for seed in range(30):
        assigned = assign_splits(data, seed=seed)
        where = dict(zip(data.table["id"], assigned.splits, strict=True))
        assert len({where[name] for name in ("3-0", "70-0", "70-1", "9-0")}) == 1
        assert where["11-0"] == where["12-0"]
        alone = splits.assign(data.patients, seed=seed)
        assert [where[name] for name in others] == [alone[data.table["id"].tolist().index(name)] for name in others]


def test_val_is_drawn_from_train_by_patient_and_nothing_else_moves(tmp_path: Path) -> None:
    data = with_twins(tmp_path)
    assigned = data.with_split(["test" if row % 4 == 0 and row not in (70, 71, 12) else "train" for row in range(121)])
    drawn = with_val_from_train(assigned, seed=1)
    assert ((drawn.splits == "test") == (assigned.splits == "test")).all()
    assert 5 < np.sum(drawn.splits == "val") < 25
    assert drawn.info.split == SplitRule(rule="other", seed=1, note="val is drawn by patient from train")
    where = [set(with_val_from_train(assigned, seed=seed).splits[[3, 70, 71, 9]]) for seed in range(20)]
    assert all(len(each) == 1 for each in where)
    assert {"val"} in where
    with pytest.raises(EvalfmError, match="has val already"):
        with_val_from_train(drawn)


def test_only_one_rule() -> None:
    with pytest.raises(EvalfmError, match="stratify and where"):
        assign_splits(DATA, stratify="ptx", where="site == 'B'")
