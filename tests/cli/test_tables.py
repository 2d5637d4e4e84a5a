"""Tables at the width of the terminal: words stay whole, nothing is cut off, and too narrow ones become blocks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from evalfm.cli.tables import print_fitting

HEADER = ["encoder", "head", "adaptation", "auroc", "auprc", "sensitivity", "specificity"]
INTERVAL = "0.740 [0.561, 0.866] ~"
ROWS = [["hog", "linear", "frozen", *[INTERVAL] * 4], ["constant (baseline)", "linear", "frozen", *[INTERVAL] * 4]]


def printed(width: int, header: list[str], rows: list[list[str]], terminal: bool = True) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    print_fitting(console, "A title that is longer than a narrow table", header, rows)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_table_of_runs_fits_with_its_words_whole(width: int) -> None:
    lines = printed(width, HEADER, ROWS)
    assert lines[0] == "A title that is longer than a narrow table"
    assert max(map(len, lines)) <= width
    # Drawn to its right edge, so nothing was cut off.
    assert (lines[1][0], lines[1][-1], lines[-1][0], lines[-1][-1]) == ("┏", "┓", "└", "┘")
    words = " ".join(lines).replace("┃", " ").replace("│", " ").split()
    assert set(HEADER) <= set(words)
    assert words.count("0.740") == words.count("0.866]") == 8
    assert any(INTERVAL in line for line in lines) == (width == 200)


def test_where_columns_would_be_slivers_each_row_is_a_block() -> None:
    header = ["name", *(f"property-number-{number}" for number in range(6)), "licence"]
    rows = [["an-encoder", *["value"] * 6, "a licence in " + "many " * 20 + "words"], ["b", *[""] * 6, "MIT"]]
    lines = printed(80, header, rows)
    assert lines[1] == "an-encoder"
    assert lines[2] == "  property-number-0: value · property-number-1: value · property-number-2: value"
    assert lines[-2:] == ["b", "  licence: MIT"]
    assert max(map(len, lines)) <= 80
    told = " ".join(" ".join(lines).split())
    assert rows[0][-1] in told


def test_a_row_that_would_grow_tall_is_a_block() -> None:
    lines = printed(80, ["encoder", "note"], [["hog", "word " * 300]])
    assert lines[1] == "hog"


def test_a_file_holds_a_table_whatever_its_width() -> None:
    lines = printed(40, ["name", "word"], [["x" * 60, "y"]], terminal=False)
    assert lines[1][0] == "┏"
    assert "".join(line.split("│")[1].strip() for line in lines if line.startswith("│")) == "x" * 60
