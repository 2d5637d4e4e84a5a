"""Lists straight from Parquet are what a list at a time gives, or are left to whoever names their fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalfm.errors import EvalfmError
from evalfm.features import embedding_lists
from evalfm.features.embedding_files import read_embeddings
from evalfm.features.embedding_lists import lists_beside, read_lists

N = 23
LISTS = np.random.default_rng(0).normal(size=(N, 4)).round(3).tolist()


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_lists, "BATCH_ROWS", 5)


def write(path: Path, cells: list[object], kind: pa.DataType, row_group: int = 7) -> Path:
    ids = pa.array([f"{number:03d}" for number in range(len(cells))])
    pq.write_table(pa.table({"id": ids, "v": pa.array(cells, kind)}), path, row_group_size=row_group)
    return path


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 4), pa.list_(pa.float16())],
)
@pytest.mark.parametrize("row_group", [3, 7, N])
def test_every_row_has_its_own_numbers(tmp_path: Path, kind: pa.DataType, row_group: int) -> None:
    path = write(tmp_path / "e.parquet", LISTS, kind, row_group)
    values = read_lists(path, "v")
    assert values is not None
    assert values.dtype == np.float32
    expected = np.array(LISTS, dtype=np.float16 if kind.value_type == pa.float16() else np.float32)
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    found = read_embeddings(path, ())
    assert found.ids == [f"{number:03d}" for number in range(N)]
    assert found.names == ["v[0]", "v[1]", "v[2]", "v[3]"]
    np.testing.assert_array_equal(found.values, values)


def test_a_file_in_another_order_is_read_in_its_own(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(N)
    pd.DataFrame({"v": [LISTS[row] for row in order], "id": [f"i{row}" for row in order]}).to_parquet(tmp_path / "e.pq")
    found = read_embeddings(tmp_path / "e.pq", ())
    assert found.ids == [f"i{row}" for row in order]
    np.testing.assert_array_equal(found.values, np.array(LISTS, dtype=np.float32)[order])


def test_numbers_that_are_missing_whole_or_too_large(tmp_path: Path) -> None:
    cells: list[object] = [list(each) for each in LISTS]
    cells[11] = [1.0, None, 1e300, 4.0]
    values = read_lists(write(tmp_path / "e.parquet", cells, pa.list_(pa.float64())), "v")
    assert values is not None
    np.testing.assert_array_equal(values[11], [1, np.nan, np.inf, 4])
    np.testing.assert_array_equal(np.delete(values, 11, axis=0), np.delete(np.array(LISTS, np.float32), 11, axis=0))
    whole: list[object] = [[number, 2**24 + 1, -number] for number in range(N)]
    whole[3] = [3, None, -3]
    values = read_lists(write(tmp_path / "w.parquet", whole, pa.list_(pa.int64())), "v")
    assert values is not None
    np.testing.assert_array_equal(values[[0, 3]], [[0, 2**24, 0], [3, np.nan, -3]])


@pytest.mark.parametrize("row", [0, 4, 5, N - 1])
@pytest.mark.parametrize(
    ("cell", "message"),
    [(None, "no list in row {}"), ([1.0], "1 numbers in row {}|4 numbers in row 2"), ([], "0 numbers in row {}|row 2")],
)
def test_what_is_no_list_of_that_length_is_named_by_its_row(
    tmp_path: Path, row: int, cell: object, message: str
) -> None:
    cells: list[object] = [*LISTS]
    cells[row] = cell
    path = write(tmp_path / "e.parquet", cells, pa.list_(pa.float32()))
    assert read_lists(path, "v") is None
    with pytest.raises(EvalfmError, match=message.format(row + 1)):
        read_embeddings(path, ())


def test_lists_that_differ_between_batches_alone_are_no_embeddings(tmp_path: Path) -> None:
    cells = [[1.0, 2.0]] * 5 + [[3.0, 4.0, 5.0]] * 5
    assert read_lists(write(tmp_path / "e.parquet", cells, pa.list_(pa.float32()), 5), "v") is None


def test_only_one_column_of_number_lists_beside_the_ids_is_read_so() -> None:
    vector = pa.list_(pa.float32())
    columns = {"id": pa.string(), "v": vector}
    assert lists_beside(pa.schema(columns), "id") == "v"
    assert lists_beside(pa.schema({" id ": pa.string(), "v": vector}), "id") == "v"
    for other in ({"w": vector}, {"age": pa.int8()}):
        assert lists_beside(pa.schema({**columns, **other}), "id") is None
    for kind in (pa.float32(), pa.list_(pa.string()), pa.list_(vector), pa.list_(pa.bool_())):
        assert lists_beside(pa.schema({"id": pa.string(), "v": kind}), "id") is None
    assert lists_beside(pa.schema({"v": vector, "w": vector}), "id") is None
