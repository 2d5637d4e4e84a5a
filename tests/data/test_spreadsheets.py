"""CSV for spreadsheets: no cell and no heading is run, and numbers stay numbers."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from evalfm.data.spreadsheets import csv_text, harmless

RUN = [
    "=1+1",
    '=HYPERLINK("http://a","b")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    " =1",
    "\t=1",
    "\tx",
    "\rx",
    "\nx",
]
RUN += ['"=1"', "'=1", ' "=1', "\xa0=1", "＝1+1", "－a", "-x", "--", "+1-1", "-1.5.2", "=\n1", "\x00=1", "-0x1F"]
KEPT = [
    "-1.5",
    "+2",
    "-1e-05",
    "-.5",
    "1",
    "x=1",
    "a-b",
    "p@q",
    "",
    "-",
    "–",
    "0.5 [0.4, 0.6]",
    "‹x›",
    "é",
    " x",
    '"x"',
]


@pytest.mark.parametrize("text", RUN)
def test_what_would_be_run_gets_an_apostrophe_in_cells_and_headings(text: str) -> None:
    assert harmless(text) == f"'{text}"
    ((heading,), (cell,)) = csv.reader(io.StringIO(csv_text([text], [[text]]), newline=""))
    assert heading == cell == f"'{text}".replace("\r", "\n")


def test_no_cell_ends_its_row() -> None:
    text = csv_text(["a", "b"], [["x\r=1", "y"], ["x\r\n=1", "y"], ["x\n=1", "y"]])
    assert "\r" not in text
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [["x\n=1", "y"]] * 3


@pytest.mark.parametrize("text", KEPT)
def test_numbers_and_plain_words_stay(text: str) -> None:
    assert harmless(text) == text


def test_every_digit_is_kept_and_what_is_unknown_is_empty() -> None:
    values = [-0.1, 1 / 3, -1e-300, 2**60, True, None, float("nan"), np.float64(-0.25), np.int64(-3), "-1.5"]
    read = pd.read_csv(io.StringIO(csv_text(list("abcdefghij"), [values])))
    assert read.iloc[0].tolist()[:5] == [-0.1, 1 / 3, -1e-300, 2**60, True]
    assert read.iloc[0][["f", "g"]].isna().all()
    assert read.iloc[0][["h", "i", "j"]].tolist() == [-0.25, -3, -1.5]


def test_a_formula_behind_letters_of_no_width_is_no_formula():
    # A spreadsheet takes the first of them at the start of a file for its byte order mark.
    for hidden in ("\ufeff", "\u200b", "\u2060 "):
        assert harmless(f"{hidden}=1+1") == f"'{hidden}=1+1"
