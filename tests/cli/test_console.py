"""What is printed of names that others chose: as they are, whatever brackets, escapes or letters they hold."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalfm import cli
from evalfm.cli import console, study_tables

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
