"""docs/methodology.md says what the code does."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

from evalfm.heads.registry import built_in_heads
from evalfm.heads.ridge import RidgeHead
from evalfm.training.recipe import ADAPTATIONS

DOCS = Path(__file__).parents[1] / "docs"


def writer():
    found = importlib.util.spec_from_file_location("write_defaults", DOCS / "write_defaults.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_defaults_are_those_of_the_code():
    module = writer()
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.written(page) == page, "the table of defaults is stale: python docs/write_defaults.py"


def test_the_table_changes_with_the_code(monkeypatch):
    module = writer()
    page = module.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr("evalfm.heads.ridge.RidgeHead.grid", property(lambda head: {"alpha": [1.0]}))
    assert module.written(page) != page


def test_a_head_without_a_section_has_the_words_of_its_class():
    module = writer()
    page = module.PAGE.read_text(encoding="utf-8")
    every = "".join(f"`{entry.name}`" for entry in built_in_heads())
    assert module.defaults(every).startswith("| head | kinds | settings |")
    said = module.written(page.replace("`ridge`", "ridge"))
    assert f"### `ridge` (regression)\n{inspect.getdoc(RidgeHead)}\n\n| head |" in said


def test_every_adaptation_has_its_words():
    page = (DOCS / "methodology.md").read_text(encoding="utf-8")
    for name in ADAPTATIONS:
        assert f"`{name}`" in page[: page.index("## Defaults")], name
