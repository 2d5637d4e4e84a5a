"""Every example in a docstring is run, and the functions that users call have one."""

from __future__ import annotations

import ast
import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import evalfm

PACKAGE = Path(evalfm.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST


def examples_in(path: Path) -> int:
    """Examples in the docstrings of a module, its classes and its functions, counted in the source."""
    parser = doctest.DocTestParser()
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, holders)]
    return sum(len(parser.get_examples(ast.get_docstring(node) or "")) for node in nodes)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text()}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(
    name: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    # A docstring that doctest does not reach, such as that of a cached function, would be run by nobody.
    assert sum(len(test.examples) for test in tests) == examples_in(MODULES[name])
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    # As a user types them, without what the module imports from the future.
    results = [runner.run(test, compileflags=0) for test in tests]
    assert sum(each.failed for each in results) == 0, capsys.readouterr().out
    assert sum(each.attempted for each in results) == examples_in(MODULES[name])  # None is skipped.


def test_every_public_function_has_an_example() -> None:
    functions = {name for name in evalfm.__all__ if inspect.isfunction(getattr(evalfm, name))}
    parser = doctest.DocTestParser()
    without = {name for name in functions if not parser.get_examples(getattr(evalfm, name).__doc__ or "")}
    assert without == set(), "give each new public function an example"
