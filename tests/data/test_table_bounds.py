from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalfm.data import table_bounds
from evalfm.data.columns import read_table
from evalfm.errors import EvalfmError
from evalfm.features.embedding_files import read_embeddings

FAR_MORE = r"stands for far more than a file of its size can hold"


def repeated(word: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([word]))


def test_a_column_of_one_value_is_refused_before_its_rows_are_made(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": repeated("x", 40_000_000)}), path, row_group_size=2**26)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(EvalfmError, match=FAR_MORE):
        read_table(path)


@pytest.mark.parametrize("as_words", [True, False])
def test_a_long_word_that_stands_often_counts_as_often(tmp_path: Path, as_words: bool) -> None:
    path = tmp_path / "t.parquet"
    column = repeated("x" * 60_000, 20_000)
    pq.write_table(pa.table({"id": column.cast(pa.string()) if as_words else column}), path)
    with pytest.raises(EvalfmError, match=FAR_MORE):
        read_table(path)
    with pytest.raises(EvalfmError, match=FAR_MORE):
        read_embeddings(path, ())


@pytest.mark.parametrize("rows", [1, 3000])
def test_what_is_small_is_read_however_well_it_packs(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": repeated("x" * 10_000, rows), "n": repeated("1", rows)}), path)
    assert read_table(path).shape == (rows, 2)


def test_packed_text_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_bounds, "LARGE_BYTES", 2**20)
    for lines, fits in ((50_000, True), (3_000_000, False)):
        path = tmp_path / f"{lines}.csv.gz"
        path.write_bytes(gzip.compress(b"id\n" + b"x\n" * lines))
        if fits:
            assert len(read_table(path)) == lines
        else:
            with pytest.raises(EvalfmError, match=FAR_MORE):
                read_table(path)


@pytest.mark.parametrize("text", ["a" + ",b" * 200_000 + "\n1\n", "id,b\n1" + "," * 200_000 + "\n"])
def test_lines_of_very_many_cells_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(EvalfmError, match=r"more than the 10,000 columns"):
        read_table(path)
    with pytest.raises(EvalfmError, match=r"more than the 100,000 columns"):
        read_embeddings(path, ())


def test_a_wide_table_is_read_without_comparing_every_name_with_every_other(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(9_000)]
    path = tmp_path / "t.csv"
    path.write_text(",".join(names) + "\n" + ",".join("1" * len(names)) + "\n")
    assert list(read_table(path).columns) == names
    (tmp_path / "twice.csv").write_text(",".join([*names, "c7"]) + "\n")
    with pytest.raises(EvalfmError, match=r"the column c7 twice"):
        read_table(tmp_path / "twice.csv")
