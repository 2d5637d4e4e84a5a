"""docs/methodology.md says what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from evalfm.heads.registry import built_in_heads
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
    before = module.defaults()
    monkeypatch.setattr("evalfm.heads.linear.RidgeHead.grid", property(lambda head: {"alpha": [1.0]}))
    assert module.defaults() != before


def test_every_head_and_adaptation_has_its_words():
    page = (DOCS / "methodology.md").read_text(encoding="utf-8")
    prose = page[: page.index("## Defaults")]
    for entry in built_in_heads():
        assert f"`{entry.name}`" in prose, entry.name
    for name in ADAPTATIONS:
        assert f"`{name}`" in prose, name
