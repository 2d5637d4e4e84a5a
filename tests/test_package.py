"""What a user meets first: a quick import, public names that are there, a README whose lines are the ones CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evalfm

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "statement",
    ["import evalfm", "import evalfm.cli.app", "from evalfm.encoders import list_cards; list_cards()"],
)
def test_neither_torch_nor_pandas_is_imported_before_work(statement: str):
    code = f"import sys\n{statement}\nprint([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert asked.stdout.strip() == "[]"


@pytest.mark.parametrize("name", evalfm.__all__)
def test_public_names_are_there(name: str):
    assert getattr(evalfm, name) is not None


def test_a_name_that_is_not_there_is_said_so():
    with pytest.raises(AttributeError, match="no attribute 'prob'"):
        _ = evalfm.prob


def test_the_readme_holds_the_two_lines_and_paths_that_exist():
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("python3 -m venv ")]
    assert lines == [
        "python3 -m venv .venv && . .venv/bin/activate && pip install . && evalfm demo",
        'python3 -m venv .venv && . .venv/bin/activate && pip install ".[test]" && pytest',
    ]
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
