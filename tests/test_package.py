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


WITHOUT_POSIX = """
import builtins, importlib, os, pkgutil, signal
# Loaded first: what other libraries take of the system is their own affair.
import accelerate, matplotlib.pyplot, open_clip, pandas, peft, pyarrow, scipy.stats, segmentation_models_pytorch
import skimage, tensorboard, tifffile, timm, torch, torchvision, transformers, typer
absent = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
whole = builtins.__import__

def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    if name in absent and str((globals or {}).get("__name__")).startswith("evalfm"):
        raise ImportError(f"Windows has no {name}")
    return whole(name, globals, locals, fromlist, level)

builtins.__import__ = without_posix
calls = "fork forkpty register_at_fork getuid geteuid getgid getegid killpg getpgid setsid mkfifo statvfs sysconf uname"
for module, names in ((os, calls), (os, "chown nice O_NOFOLLOW O_DIRECTORY"), (signal, "SIGKILL SIGALRM SIGHUP alarm")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
import evalfm
failed = []
for module in pkgutil.walk_packages(evalfm.__path__, "evalfm."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failed.append(f"{module.name}: {error!r}")
print(failed)
"""


def test_every_module_is_imported_without_what_windows_lacks():
    asked = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=True, cwd=ROOT)
    assert asked.stdout.strip() == "[]"
