from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalfm.data.columns import as_numbers, as_text, numbers_or_cells, read_table, with_numbers
from evalfm.errors import EvalfmError


@pytest.mark.parametrize("dtype", ["str", "string", object, "category"])
def test_text_of_every_dtype(dtype: str | type) -> None:
    assert as_text(pd.Series([" a ", None, "", "007"], dtype=dtype)).tolist() == ["a", None, None, "007"]


ODD = st.sampled_from(["", " ", " a", "a\t", "\u2003x", "007", "NA", None, np.nan, pd.NA, np.str_(" s "), "\x00"])


@given(st.lists(ODD, max_size=8), st.sampled_from([object, "string"]))
def test_text_alone_is_read_as_text_among_other_cells_is(cells: list[object], dtype: str | type) -> None:
    column = pd.Series(cells, dtype=dtype, index=range(5, 5 + len(cells)))
    quick = as_text(column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pd.api.types, "infer_dtype", lambda *_, **__: "mixed")
        careful = as_text(column)
    assert quick.tolist() == careful.tolist()
    assert quick.index.equals(careful.index)
    assert quick.dtype == careful.dtype == object
    assert all(cell is None or type(cell) is str for cell in quick)


def test_whole_numbers_are_written_without_a_point() -> None:
    assert as_text(pd.Series([75, 8])).tolist() == ["75", "8"]
    assert as_text(pd.Series([75.0, np.nan, 1.5])).tolist() == ["75", None, "1.5"]
    assert as_text(pd.Series([75, None], dtype="Int64")).tolist() == ["75", None]


def test_numbers_keep_what_is_unknown_and_refuse_words() -> None:
    numbers = as_numbers(pd.Series(["1", " 2.5 ", None, "", "True"], dtype=object))
    assert numbers is not None
    assert np.array_equal(numbers, [1, 2.5, np.nan, np.nan, 1], equal_nan=True)
    for words in (["1", "x"], ["inf"], ["nan"], ["N/A"]):
        assert as_numbers(pd.Series(words, dtype=object)) is None
    assert as_numbers(pd.Series(pd.to_datetime(["2020-01-01"]))) is None
    nullable = as_numbers(pd.Series([True, None], dtype="boolean"))
    assert nullable is not None
    assert np.array_equal(nullable, [1, np.nan], equal_nan=True)


def test_leading_zeros_are_not_lost() -> None:
    assert with_numbers(pd.Series(["01", "2"], dtype=object)).tolist() == ["01", "2"]
    assert with_numbers(pd.Series(["0", "0.5", "-1"], dtype=object)).tolist() == [0.0, 0.5, -1.0]


def test_tables_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffid, x \n007,NA\n008,\n".encode())
    table = read_table(tmp_path / "a.csv")
    assert table.columns.tolist() == ["id", "x"]
    assert as_text(table["id"]).tolist() == ["007", "008"]
    assert as_text(table["x"]).tolist() == ["NA", None]
    (tmp_path / "a.tsv").write_text("id\tx\n1\ta,b\n")
    assert read_table(tmp_path / "a.tsv")["x"].tolist() == ["a,b"]


def test_unreadable_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("id,x, x\n1,2,3\n")
    with pytest.raises(EvalfmError, match="has the column x twice"):
        read_table(tmp_path / "twice.csv")
    (tmp_path / "alike.csv").write_text("id,x,x\n1,2,3\n")
    with pytest.raises(EvalfmError, match="has the column x twice"):
        read_table(tmp_path / "alike.csv")
    (tmp_path / "nameless.csv").write_text("id,,\n1,2,3\n")
    assert read_table(tmp_path / "nameless.csv")["id"].tolist() == ["1"]
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(EvalfmError, match="cannot be read as CSV"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes(b"id\n\xff\xfe\n")
    with pytest.raises(EvalfmError, match="cannot be read as CSV"):
        read_table(tmp_path / "latin.csv")
    with pytest.raises(EvalfmError, match="There is no file"):
        read_table(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,x\np,1\n".encode("utf-16"), "it is UTF-16 text"),
        ("id,x\np,1\n".encode("utf-16-le"), "zero bytes in line 1"),
        (b"id,x\np,1\nq,a\0b\n", "zero bytes in line 3"),
        (b"id,x\np,1\nq,\xe9t\xe9\n", r"line 3 is no UTF-8 text\); save it as CSV UTF-8"),
        (b"id,x\n" + b"p,1\n" * 300_000 + b"q,\xff\n", r"line 300002 is no UTF-8 text"),
        (b"id;x\np;1,5\n", "separates its columns by semicolons; save it with commas"),
        (b"id\tx\np\t1\n", "separates its columns by tabs"),
        (b"id,x\n1,p,0\n2,q,1\n", r"more cells than its first line has names\); give every column a name"),
        (b"id,x\np,1,\nq,2,\n", "end no row with a comma"),
        (b"id,x\np,1\nq,2,3\n", "Expected 2 fields in line 3, saw 3"),
        (b'id,x\np,"1\nq,2\n', "EOF inside string"),
        (b"", "cannot be read as CSV"),
    ],
)
def test_text_that_is_no_table_is_reported_by_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(EvalfmError, match=message):
        read_table(tmp_path / "a.csv")


def test_a_letter_that_straddles_two_reads_is_whole(tmp_path: Path) -> None:
    text = "id,x\n" + "p" * (2**20 - 6) + "\u00e9,1\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "a.csv")["id"].iloc[0].endswith("\u00e9")


def test_compressed_tables_and_headers_without_rows_are_read(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["007"], "x": ["\u00e9"]}).to_csv(tmp_path / "a.csv.gz", index=False)
    assert read_table(tmp_path / "a.csv.gz")["id"].tolist() == ["007"]
    (tmp_path / "a.csv").write_text("id,x\n")
    assert read_table(tmp_path / "a.csv").columns.tolist() == ["id", "x"]


def test_a_named_index_of_parquet_is_a_column(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["p", "q", "r"], "x": [1, 2, 3]})
    table.set_index("id").to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["id"].tolist() == ["p", "q", "r"]
    table.iloc[[0, 2]].to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").columns.tolist() == ["id", "x"]
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
    with pytest.raises(EvalfmError, match="has the column x twice"):
        read_table(tmp_path / "a.parquet")


def test_every_type_of_parquet_has_its_form_or_its_sentence(tmp_path: Path) -> None:
    day = datetime.date(2020, 1, 2)
    columns = {
        "decimal": pa.array([Decimal("1.50"), None]),
        "bytes": pa.array([b"1", b"0"]),
        "category": pa.array(["1", None]).dictionary_encode(),
        "large": pa.array([2**63, 1], pa.uint64()),
        "flag": pa.array([True, None]),
        "half": pa.array(np.array([1, 0.5], np.float16)),
        "none": pa.nulls(2),
        "day": pa.array([day, None]),
        "time": pa.array([datetime.datetime(2020, 1, 2), None]),
        "span": pa.array([datetime.timedelta(1), None]),
        "pixels": pa.array([b"\xff\xd8", None]),
        "list": pa.array([[1, 2], None]),
        "struct": pa.array([{"a": 1}, None]),
        "infinite": pa.array([float("inf"), 1.0]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    numbers = {
        "decimal": [1.5, np.nan], "bytes": [1, 0], "category": [1, np.nan], "large": [2**63, 1], "flag": [1, np.nan],
        "half": [1, 0.5], "none": [np.nan, np.nan], "infinite": [np.inf, 1],
    }  # fmt: skip
    for name in columns:
        read = as_numbers(table[name])
        if name in numbers:
            assert read is not None
            assert np.array_equal(read, numbers[name], equal_nan=True), name
        else:
            assert read is None, name
            # What is no number is text that the checks can show.
            assert isinstance(numbers_or_cells(table[name]).iloc[0], str), name
    assert as_text(table["day"]).tolist() == ["2020-01-02", None]
    for name, message in (
        ("list", r"'list' holds lists \(row 1\)"),
        ("struct", r"'struct' holds lists \(row 1\)"),
        ("pixels", "'pixels' holds bytes that are no text"),
        ("infinite", "'infinite' holds an infinite number in row 1"),
    ):
        with pytest.raises(EvalfmError, match=message):
            as_text(table[name])


@pytest.mark.parametrize("cell", ["1_000", "\uff11", "0x10", "1,5", "inf", "nan", "-NaN", 10**400, "1e999", [1], b"1"])
def test_what_only_looks_like_a_number_is_none(cell: object) -> None:
    column = pd.Series([0, cell, "1"], dtype=object)
    assert as_numbers(column) is None
    kept = numbers_or_cells(column)
    assert kept.iloc[[0, 2]].tolist() == [0.0, 1.0]
    assert kept.iloc[1] == str(cell)
