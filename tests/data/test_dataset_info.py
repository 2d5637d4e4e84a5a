from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.data.dataset_info import DatasetInfo, SplitRule, dataset_yaml, read_dataset_info
from evalfm.errors import EvalfmError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    info = DatasetInfo(
        name="x",
        mask_dialects={"ptx": "relative"},
        mask_sizes={"ptx": (1024, 1024)},
        label_source={"ptx": "mask", "grade": "radiologist"},
        label_kinds={"grade": "class"},
        split=SplitRule(rule="hash", seed=3, fractions=(0.7, 0.1, 0.2)),
        salt="pepper",
    )
    (tmp_path / "dataset.yaml").write_text(dataset_yaml(info))
    assert read_dataset_info(tmp_path / "dataset.yaml") == info
    assert info.label_kind("ptx") == "binary"
    assert info.label_kind("grade") == "class"
    assert "pepper" not in repr(info)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nsplitt: 1\n", "splitt"),
        ("schema: 2\nname: x\n", "schema"),
        ("schema: 1\n", "name"),
        ("name: x\nmask_dialects: {ptx: rle}\n", "mask_dialects"),
        ("name: x\nlabel_kinds: {ptx: class}\n", "label_source does not"),
        ("name: x\nmask_sizes: {ptx: [2, 2]}\n", "mask_dialects does not"),
        ("name: x\nbits: 0\n", "bits"),
    ],
)
def test_faulty_files_are_refused_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(EvalfmError, match=message):
        read_dataset_info(tmp_path / "dataset.yaml")


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="evalfm data import"):
        read_dataset_info(tmp_path / "dataset.yaml")
