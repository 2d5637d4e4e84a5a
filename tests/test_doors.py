"""Tests go through public names: what stays behind a door may change without a test, and no test breaks with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "evalfm"

KEPT = {
    ("probing/test_erasing.py", "_places"): "where the control lies on each image; to be public as `places_of`",
    ("encoders/test_blocks.py", "_pos_embed"): "timm's own",
    ("encoders/test_blocks.py", "_forward_pre_hooks"): "torch's own",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reaches(source: str) -> Iterator[str]:
    """Private names of others that Python code uses: imported, as attributes, or in the string of a patch."""
    tree = ast.parse(source)
    # What comes from other libraries is their affair, as are names that a class uses of itself.
    foreign = {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {
                (each.asname or each.name).partition(".")[0] for each in node.names if "evalfm" not in each.name
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evalfm"):
            place = PACKAGE.parent / str(node.module).replace(".", "/")
            # A module with an underscore is tested by its public names, as any other.
            yield from (
                each.name for each in node.names if is_private(each.name) and not (place / f"{each.name}.py").is_file()
            )
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if not (isinstance(root, ast.Name) and root.id in foreign):
                yield node.attr
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("setattr", "delattr", "getattr", "hasattr", "setitem", "object"):
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                names = [text.split(".") for text in texts if isinstance(text, str)]
                yield from (
                    part
                    for parts in names
                    for number, part in enumerate(parts)
                    if is_private(part) and (number == len(parts) - 1 or part[1:2].isupper())
                )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            # A script for a process of its own.
            try:
                yield from reaches(node.value)
            except SyntaxError:
                continue


def test_no_test_reaches_behind_a_door_but_those_that_say_why() -> None:
    found = {
        (path.relative_to(TESTS).as_posix(), name)
        for path in sorted(set(TESTS.rglob("*.py")) - {Path(__file__)})
        for name in reaches(path.read_text())
    }
    assert found - set(KEPT) == set(), "test it through a public name, or make the helper public"
    assert set(KEPT) - found == set(), "these are gone; take them out of KEPT"


@pytest.mark.parametrize(
    "source",
    [
        "from evalfm.run import _x",
        "import evalfm.run\nevalfm.runs._x",
        "from evalfm import runs\nruns._x()",
        "from evalfm.run import Run\nRun.read('a')._x.y",
        "monkeypatch.setattr(runs, '_x', None)",
        "monkeypatch.setattr('evalfm.run._x', None)",
        "monkeypatch.setattr('evalfm.run._X.read', None)",
        "SCRIPT = '''\nimport sys\nfrom evalfm.run import _x\n'''",
    ],
)
def test_a_reach_is_seen(source: str) -> None:
    assert list(reaches(source)) in (["_x"], ["_X"])


def test_other_libraries_and_modules_are_no_reach() -> None:
    source = (
        "import os\nfrom evalfm.heads import _logistic\nfrom evalfm.heads._logistic import fit\nos._exit(0)\nself._x"
    )
    assert list(reaches(source)) == []
