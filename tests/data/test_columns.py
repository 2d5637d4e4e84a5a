from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.data.columns import as_numbers, as_text, read_table, with_numbers
from evalfm.errors import EvalfmError


@pytest.mark.parametrize("dtype", ["str", "string", object, "category"])
def test_text_of_every_dtype(dtype: str | type) -> None:
    assert as_text(pd.Series([" a ", None, "", "007"], dtype=dtype)).tolist() == ["a", None, None, "007"]


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
