"""`evalfm convert` as a user types it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from .typed import evalfm

ROOT = Path(__file__).resolve().parents[2]
CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from evalfm.cli import main; main()"


def at_a_terminal(answer: str, *arguments: object) -> tuple[int, str]:
    """The exit status and what was shown, ``answer`` typed when the question stands."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", CODE, str(ROOT), *map(str, arguments)]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown = ""
    typed = False
    while select.select([leader], [], [], 60)[0]:
        try:
            shown += os.read(leader, 4096).decode()
        except OSError:  # The other end is closed.
            break
        if "Convert it?" in shown and not typed:
            os.write(leader, f"{answer}\n".encode())
            typed = True
    os.close(leader)
    return process.wait(), shown


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.pt"
    torch.save(nn.Sequential(OrderedDict(one=nn.Linear(3, 2))), path)
    return path


def test_without_a_terminal_a_yes_must_be_typed(whole: Path) -> None:
    out = whole.with_name("out.safetensors")
    asked = evalfm("convert", whole, "--out", out)
    assert asked.returncode == 2
    assert "Traceback" not in asked.stderr
    assert re.search(r"Error: Nothing was converted, as no terminal is there to say yes.*--yes", asked.stderr)
    assert re.search(r"SHA-256 [0-9a-f]{64}", asked.stdout)
    assert "torch.nn.modules.linear.Linear" in asked.stdout
    assert not out.exists()


def test_with_a_yes_the_tensors_are_written_once(whole: Path) -> None:
    out = whole.with_name("out.safetensors")
    asked = evalfm("convert", whole, "--out", out, "--yes")
    assert asked.returncode == 0, asked.stderr
    assert "Wrote 2 tensors (8 values)" in asked.stdout
    again = evalfm("convert", whole, "--out", out, "--yes")
    assert again.returncode == 2
    assert "--force" in again.stderr
    needless = evalfm("convert", out, "--out", whole.with_name("more.safetensors"), "--yes")
    assert needless.returncode == 2
    assert "needs no conversion" in needless.stderr


@pytest.mark.parametrize(("answer", "status", "said"), [("n", 1, "Nothing was converted"), ("y", 0, "Wrote 2 tensors")])
def test_a_question_is_asked_at_a_terminal(whole: Path, answer: str, status: int, said: str) -> None:
    out = whole.with_name("out.safetensors")
    code, shown = at_a_terminal(answer, "convert", whole, "--out", out)
    assert code == status, shown
    assert said in shown
    assert out.exists() is (answer == "y")


def test_its_help_has_an_example() -> None:
    assert "evalfm convert densenet121-best.pt" in evalfm("convert", "--help").stdout
