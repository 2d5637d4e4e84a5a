"""What is printed of names that others chose: as they are, whatever brackets, escapes or letters they hold."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from evalfm import cli
from evalfm.cli import console, study_tables
from evalfm.cli.console import print_fitting

NAMES = ["[/red]", "[red]x[/red]", "[/]", "[link=http://a]b[/link]", "a\\[b]", "[1, 2]"]


@pytest.mark.parametrize("name", NAMES)
def test_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    console.print_rows(f"T {name}", [f"H {name}"], [[f"C {name}"]])
    console.Bars().say(f"S {name}")
    assert list(console.Bars().track([1], f"B {name}")) == [1]
    told = capsys.readouterr()
    assert all(f"{letter} {name}" in told.out for letter in "THC")
    assert all(f"{letter} {name}" in told.err for letter in "SB")


def test_what_a_terminal_would_obey_is_printed_in_letters(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_rows("T\x1b[2J", ["H\x1b]0;x\x07", "n"], [["C\x9b1m\u202e", "a\nb"]])
    console.Bars().say("S\x1b[1A")
    told = "".join(capsys.readouterr())
    assert not set(told) & set("\x1b\x07\x9b\u202e")
    assert all(word in told for word in (r"T\x1b[2J", r"H\x1b]0;x\x07", r"C\x9b1m\u202e", r"S\x1b[1A"))


@pytest.mark.parametrize("name", NAMES)
def test_bars_and_growing_tables_show_brackets_as_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}.items():
        monkeypatch.setenv(variable, value)  # As at a terminal.
    assert list(console.Bars().track([1, 2], f"B {name}")) == [1, 2]
    assert f"B {name}" in capsys.readouterr().err
    cell = SimpleNamespace(
        encoder=f"L {name}",
        task="t",
        heads=("h",),
        adaptation="a",
        subset=SimpleNamespace(label="all"),
        description=f"R {name}",
        key="k",
    )
    outcome: Any = SimpleNamespace(cell=cell, runs=(), failure=SimpleNamespace(sentence=f"F {name}"), seconds=1.0)
    with study_tables.LiveTable(f"T {name}") as live:
        live.finished(outcome, 1, 2)
        live.started(outcome.cell, 2, 2)
        tracked = live.track([1], f"B {name}")
        assert next(tracked) == 1
    shown = capsys.readouterr().err
    assert all(f"{letter} {name}" in shown for letter in "TLRBF"), shown


def test_a_plan_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    study = SimpleNamespace(name="[/red]", title="[b]", seeds=1)
    plan: Any = SimpleNamespace(
        study=study, cells=(), left_out=(), warnings=("[/w]",), assumptions=(), seconds=0.0, disk_bytes={}, work_bytes=0
    )
    plan.memory_bytes, plan.shard = 0, None
    study_tables.print_plan(plan, on_stderr=False)
    told = capsys.readouterr().out
    assert "Plan of [/red]: [b]" in told
    assert "warning: [/w]" in told


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evalfm", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_repeats_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(monkeypatch, "show", "task", name) == 2
    assert repr(name) in capsys.readouterr().err
    # What typer itself refuses, too.
    for words in ([name], ["ls", "encoders", "--gated=" + name], ["data", "make", "phantom", "--images", name]):
        assert run(monkeypatch, *words) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_what_moves_a_cursor_is_printed_in_letters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "\x1b[2J").mkdir()
    assert run(monkeypatch, "data", "check", str(tmp_path / "\x1b[2J")) == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert r"\x1b[2J holds neither" in told


def test_letters_that_the_terminal_lacks_end_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, told = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", told)
    assert run(monkeypatch, "show", "task", "ptx-cls") == 0
    assert run(monkeypatch, "show", "task", "ä") == 2
    told.flush()
    assert rb"There is no task '\xe4'" in told.buffer.getvalue()  # type: ignore[attr-defined]


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
