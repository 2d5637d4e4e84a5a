from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data import splits
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.dealing import deal
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


def test_by_hash_and_told_in_the_info() -> None:
    dealt = deal(DATA, seed=5)
    assert dealt.splits.tolist() == splits.assign(DATA.patients, name="toy", seed=5).tolist()
    assert dealt.info.split == SplitRule(rule="hash", seed=5, fractions=(0.7, 0.1, 0.2))


def test_stratified() -> None:
    dealt = deal(DATA, stratify="ptx")
    assert [int(TABLE["ptx"][dealt.splits == part].sum()) for part in splits_of()] == [28, 4, 8]
    assert dealt.info.split is not None
    assert dealt.info.split.stratify == "ptx"
    with pytest.raises(UnknownNameError, match="ptx"):
        deal(DATA, stratify="ptxx")


def splits_of() -> tuple[str, ...]:
    return ("train", "val", "test")


def test_where_deals_those_patients_to_test() -> None:
    dealt = deal(DATA, where="site == 'B'")
    assert (dealt.splits == "test").tolist() == (TABLE["site"] == "B").tolist()
    assert dealt.info.split is not None
    assert dealt.info.split.where == "site == 'B'"


def test_official_lists_with_and_without_val(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\n".join(TABLE["id"][:300]))
    (tmp_path / "test.txt").write_text("\n".join(TABLE["id"][300:]))
    dealt = deal(DATA, official=[tmp_path / "train.txt", tmp_path / "test.txt"])
    assert (dealt.splits[300:] == "test").all()
    assert 10 < np.sum(dealt.splits[:300] == "val") < 75
    assert dealt.info.split is not None
    assert dealt.info.split.note is not None
    (tmp_path / "train.txt").write_text("\n".join(TABLE["id"][:290]))
    (tmp_path / "val.txt").write_text("\n".join(TABLE["id"][290:300]))
    dealt = deal(DATA, official=[tmp_path / f"{part}.txt" for part in splits_of()])
    assert np.flatnonzero(dealt.splits == "val").tolist() == list(range(290, 300))
    assert dealt.info.split == SplitRule(rule="official")


def test_only_one_rule() -> None:
    with pytest.raises(EvalfmError, match="stratify and where"):
        deal(DATA, stratify="ptx", where="site == 'B'")
