"""What a user meets first: a quick import, public names that are there, a README whose lines are the ones CI runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evalfm
from evalfm.data.phantom import make_phantom

ROOT = Path(__file__).resolve().parents[1]


LIBRARIES = ["torch", "timm", "torchvision", "transformers", "open_clip", "peft", "matplotlib", "accelerate", "sklearn"]
NONE = [*LIBRARIES, "pandas", "scipy", "numpy"]
"""What names, lists and help do without."""
TRAINING = ["timm", "torchvision.models", "torch._dynamo", "transformers", "open_clip", "peft", "matplotlib"]
"""What no encoder but its own family's, and no frozen features, need."""
VERBS = [
    *("demo", "probe", "study", "predict", "compare", "bias", "counterfactual", "robustness", "choose", "report"),
    *(
        "embed",
        "fetch",
        "doctor",
        "convert",
        "ls",
        "show",
        "data",
        "ls encoders",
        "show encoder",
        "data import",
        "data join",
    ),
]
COMMANDS = [
    *("ls encoders", "ls encoders --json --domain chest", "ls tasks", "ls heads", "ls data"),
    *("show encoder rad-dino", "show encoder medclip", "show task ptx-cls", "--version", "--help"),
    *(f"{verb} --help" for verb in VERBS),
]
CLI = """
import contextlib, io
from evalfm.cli.app import app
for command in {commands}:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            app(command.split())
    except SystemExit as end:
        assert not end.code, (command, end.code)
"""
PROBE = """
from evalfm.probing.probe import probe
runs = probe("pixels", "ptx-cls", data={data!r}, out={out!r}, heads=["linear"], baselines="none")
assert len(runs) == 1
"""


def imported(code: str, names: list[str], home: Path | None = None) -> list[str]:
    """Which of the modules ``names`` are there after ``code``, run by a fresh interpreter."""
    whole = f"import sys\n{code}\nprint([name for name in {names!r} if name in sys.modules])"
    environment = os.environ | ({} if home is None else {"EVALFM_HOME": str(home)})
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import evalfm", NONE),
        ("import evalfm.cli.app", NONE),
        ("from evalfm.encoders import list_cards; list_cards()", NONE),
        ("from evalfm.encoders import find_card; find_card('rad-dino@mean')", NONE),
        (
            "from evalfm.encoders import EncoderRef; EncoderRef.parse('a.py:build'); EncoderRef.parse('random:x')",
            NONE,
        ),
        (CLI.format(commands=COMMANDS), NONE),
        ("from evalfm.encoders import load_encoder; load_encoder('pixels')", TRAINING),
        ("from evalfm.probing.probe import probe", TRAINING),
    ],
    ids=["package", "cli", "cards", "card", "names", "commands", "encoder", "probing"],
)
def test_libraries_are_imported_on_demand(code: str, forbidden: list[str]):
    assert imported(code, forbidden) == []


def test_a_finished_run_is_read_without_what_makes_one(tmp_path: Path):
    data, out = str(tmp_path / "data"), str(tmp_path / "runs")
    make_phantom(tmp_path / "data", n=40, size=64)
    code = PROBE.format(data=data, out=out)
    # Operations are counted by torch, which imports its compiler for it, and curves are drawn.
    needed = {"torch._dynamo", "matplotlib"}
    assert set(imported(code, TRAINING, tmp_path / "home")) <= needed
    assert imported(code, TRAINING, tmp_path / "home") == []


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
