"""Embeddings from elsewhere: what a program adds to a table is no feature, and lists are read as they are meant."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib import format as npy
from safetensors.numpy import save_file

from evalfm.errors import EvalfmError
from evalfm.features.embedding_files import read_embeddings, refuse_known_columns
from evalfm.features.embedding_writers import ids_as_bytes

N, D = 30, 3
IDS = [f"{number:03d}" for number in range(N)]
VALUES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
TABLE = pd.DataFrame(VALUES, columns=["a", "b", "c"]).assign(id=IDS)
TAKEN = ("id", "image", "patient", "ptx", "age")


def refused(path: Path, match: str) -> None:
    with pytest.raises(EvalfmError, match=match):
        read_embeddings(path, TAKEN)


def save(table: pd.DataFrame, path: Path, *, index: bool = False) -> Path:
    if path.suffix == ".csv":
        table.to_csv(path, index=index)
    else:
        table.to_parquet(path, index=index)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_row_numbers_and_columns_of_the_data_set_are_no_features(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"e{suffix}"
    noise = np.random.default_rng(1).normal(size=N)
    for name in ("index", "Unnamed: 0", "level_0", "__index_level_0__", " Index "):
        refused(save(TABLE.assign(**{name: noise}), path), "the number of the row and no feature")
    for name in ("ptx", "patient", "AGE", "image"):
        refused(save(TABLE.assign(**{name: noise}), path), rf"the data set has too \({name}\)")
    for name in ("P-TX", "ptx.1", "_Ptx"):
        refused(save(TABLE.assign(**{name: noise}), path), rf"the data set has too \({name}\)")
    for name in ("Label", "targets", "Patient_ID", "ground truth", "fold"):
        refused(save(TABLE.assign(**{name: noise}), path), rf"as labels or patients are \({name}\)")
    save(TABLE, path)
    assert read_embeddings(path, TAKEN).names == ["a", "b", "c"]


def test_a_column_without_a_name_is_no_feature(tmp_path: Path) -> None:
    refused(save(TABLE, tmp_path / "e.csv", index=True), "a column without a name, which is the number of the row")
    # pandas gave this name when the table was read and written a second time.
    pd.read_csv(tmp_path / "e.csv").to_csv(tmp_path / "again.csv", index=False)
    refused(tmp_path / "again.csv", "a column 'Unnamed: 0'")


@pytest.mark.parametrize(
    "count",
    [
        np.arange(N),
        np.arange(N) + 1,
        np.arange(N)[::-1],
        np.arange(N) * 10 + 7,
        np.sort(np.random.default_rng(2).choice(1000, N, replace=False)),
        np.arange(N) / N,
        1 - np.arange(N) * 0.1,
    ],
    ids=["from 0", "from 1", "down", "in steps", "of a selection", "scaled", "scaled down"],
)
@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_what_counts_the_rows_is_no_feature_under_any_name(tmp_path: Path, suffix: str, count: np.ndarray) -> None:
    path = tmp_path / f"e{suffix}"
    if suffix == ".csv":
        save(TABLE.assign(case=count.astype(float)), path)
        refused(path, rf"counts its rows \('case': {count[0]:g}, {count[1]:g}, {count[2]:g}, …\)")
    else:
        np.savez(path, ids=IDS, features=np.column_stack([VALUES, count]))
        refused(path, "counts its rows")


def test_whole_numbers_that_do_not_count_stay(tmp_path: Path) -> None:
    counts = np.array([np.full(N, 7), np.arange(N) // 2, np.r_[np.arange(N - 1), 0], np.arange(N) % 2]).T
    np.savez(tmp_path / "e.npz", ids=IDS, features=counts)
    assert np.array_equal(read_embeddings(tmp_path / "e.npz", TAKEN).values, counts)
    (tmp_path / "few.csv").write_text("id,f\np,3\nq,6\nr,9\n")
    assert read_embeddings(tmp_path / "few.csv", TAKEN).values.tolist() == [[3], [6], [9]]
    (tmp_path / "few.csv").write_text("id,f\np,0\nq,1\nr,2\n")
    refused(tmp_path / "few.csv", "counts its rows")


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float32(), D),
        pa.list_(pa.float16()),
        pa.list_(pa.int8()),
    ],
    ids=str,
)
def test_lists_are_a_column_each(tmp_path: Path, kind: pa.DataType) -> None:
    whole = pa.types.is_integer(kind.value_type)
    given = np.rint(VALUES * 20).astype(np.int8) if whole else VALUES.astype(kind.value_type.to_pandas_dtype())
    pq.write_table(pa.table({"id": IDS, "embedding": pa.array(list(given), kind)}), tmp_path / "e.parquet")
    found = read_embeddings(tmp_path / "e.parquet", TAKEN)
    assert np.array_equal(found.values, given.astype(np.float32))
    assert found.names == ["embedding[0]", "embedding[1]", "embedding[2]"]
    assert found.ids == IDS


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[1.0, 2.0], [1.0]], "1 numbers in row 2 of 'embedding' and 2 in row 1"),
        ([[1.0, 2.0], None], "no list in row 2"),
        ([[[1.0], [2.0]], [[1.0], [2.0]]], "no flat list of numbers in row 1"),
        ([["1", "2"], ["3", "4"]], "no flat list of numbers in row 1"),
        ([[], []], "empty lists in 'embedding'"),
    ],
)
def test_lists_that_are_no_embeddings_are_named_by_row(tmp_path: Path, cells: list[object], message: str) -> None:
    pq.write_table(pa.table({"id": ["p", "q"], "embedding": cells}), tmp_path / "e.parquet")
    refused(tmp_path / "e.parquet", message)


def test_columns_beside_lists_and_lists_as_text_are_refused(tmp_path: Path) -> None:
    cells = {"id": IDS, "embedding": list(VALUES)}
    pq.write_table(pa.table({**cells, "score": VALUES[:, 0]}), tmp_path / "e.parquet")
    refused(tmp_path / "e.parquet", r"lists and others beside it \(embedding, score\)")
    pq.write_table(pa.table({**cells, "file": IDS}), tmp_path / "e.parquet")
    refused(tmp_path / "e.parquet", r"no numbers \(file\); leave them out")
    pd.DataFrame({"id": IDS, "embedding": VALUES.tolist()}).to_csv(tmp_path / "e.csv", index=False)
    refused(tmp_path / "e.csv", "lists written as text are not read: save them as lists in Parquet")


def test_a_named_index_of_parquet_holds_the_ids(tmp_path: Path) -> None:
    TABLE.set_index("id").to_parquet(tmp_path / "e.parquet")
    found = read_embeddings(tmp_path / "e.parquet", TAKEN)
    assert found.ids == IDS
    assert np.array_equal(found.values, VALUES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,a,a\np,1,2\n", "the column a twice"),
        ("id,a\np,1\n,2\n", "no id in row 2"),
        ("id,a\np,1,2\n", "more cells than its first line has names"),
        ("id,a\np,2020-01-01\n", r"no numbers \(a\)"),
    ],
)
def test_tables_with_odd_columns_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "e.csv").write_text(content)
    refused(tmp_path / "e.csv", message)


def test_bytes_as_ids_are_text_and_a_number_beyond_float32_is_infinite(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", ids=np.array([b"p", b"q"]), features=np.array([[1.0], [1e300]]))
    found = read_embeddings(tmp_path / "e.npz", TAKEN)
    assert found.ids == ["p", "q"]
    assert found.values.tolist() == [[1.0], [np.inf]]


def test_an_array_that_declares_more_than_it_holds_is_refused_before_memory_is_asked(tmp_path: Path) -> None:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**19)})
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("features.npy", header.getvalue() + bytes(64))
        ids = io.BytesIO()
        np.save(ids, np.array(["p"]))
        archive.writestr("ids.npy", ids.getvalue())
    refused(tmp_path / "e.npz", "features.npy is cut short")


def test_a_feature_that_equals_a_column_of_the_data_set_is_refused_whatever_its_name(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    label = random.integers(0, 2, N).astype(float)
    label[3] = np.nan
    density = random.choice(["A", "B", "C"], N)
    table = pd.DataFrame({"id": IDS, "ptx": label, "density": density, "age": random.normal(60, 9, N), "constant": 1})
    codes = pd.Categorical(density).codes
    for told, column in ((label, "ptx"), (1 - label, "ptx"), (codes, "density"), (table["age"], "age")):
        values = np.column_stack([VALUES, np.nan_to_num(told, nan=7.0)]).astype(np.float32)
        with pytest.raises(EvalfmError, match=rf"a feature \('d'\) that equals the column '{column}' of the data set"):
            refuse_known_columns(values, list("abcd"), table, tmp_path)
        values[5, 3] += 1
        refuse_known_columns(values, list("abcd"), table, tmp_path)
    refuse_known_columns(np.ones((N, 1), np.float32), ["d"], table, tmp_path)
    refuse_known_columns(label[:10, None].astype(np.float32), ["d"], table.head(10), tmp_path)


def test_tensors_of_embed_are_read_and_others_are_named(tmp_path: Path) -> None:
    path, ids = tmp_path / "e.safetensors", ids_as_bytes(IDS)
    save_file({"pooled": VALUES, "ids": ids, "map_0": np.zeros((N, 1, 2, 2), np.float16)}, path)
    found = read_embeddings(path, TAKEN)
    assert found.ids == IDS
    assert np.array_equal(found.values, VALUES)
    assert found.names == ["pooled[0]", "pooled[1]", "pooled[2]"]
    save_file({"pooled": VALUES.astype(np.float16), "ids": ids}, path)
    assert read_embeddings(path, TAKEN).values.dtype == np.float32
    save_file({"weight": VALUES}, path)
    refused(path, r"no array 'ids' and none 'pooled'; write it with `evalfm embed`")
    for pooled, names in ((VALUES[:5], ids), (VALUES.astype(np.int32), ids), (VALUES, ids.astype(np.int64))):
        save_file({"pooled": pooled, "ids": names}, path)
        refused(path, r"give floats \[N, D\] and uint8 \[N, L\]")
    save_file({"pooled": VALUES[:, 0], "ids": ids}, path)
    refused(path, r"give floats \[N, D\] and uint8 \[N, L\]")
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "cannot be read")
    numbers = np.arange(N, dtype=np.float32)[:, None]
    save_file({"pooled": numbers, "ids": ids}, path)
    refused(path, "counts its rows")
