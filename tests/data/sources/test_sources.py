"""What holds for every source."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from evalfm.cards import option_of
from evalfm.data import sources
from evalfm.data.config import ImportOptions
from evalfm.data.sources import list_sources, load_source
from evalfm.errors import EvalfmError, UnknownNameError


def test_the_sources_are_those_with_a_module() -> None:
    modules = {path.stem for path in Path(sources.__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    assert list_sources() == sorted(module.replace("_", "-") for module in modules)
    assert {"nih-cxr14", "table", "wingspan-ctr"} <= set(list_sources())


@pytest.mark.parametrize("name", list_sources())
def test_a_source_is_one_function_and_refuses_a_wrong_root(name: str, tmp_path: Path) -> None:
    source = load_source(name)
    assert list(inspect.signature(source).parameters) == ["root", "options"]
    (tmp_path / "readme.txt").touch()
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(EvalfmError) as caught:
            source(root, ImportOptions())
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ("holds readme.txt" if root == tmp_path else "is no folder") in str(caught.value)


@pytest.mark.parametrize("name", list_sources())
def test_the_options_that_a_source_names_are_those_that_it_reads(name: str) -> None:
    module = importlib.import_module(f"evalfm.data.sources.{name.replace('-', '_')}")
    read = set(re.findall(r"\boptions\.(\w+)", inspect.getsource(module)))
    choices = {field for field, info in ImportOptions.model_fields.items() if not option_of(info).hidden}
    assert getattr(module, "OPTIONS", frozenset()) == read & choices


@pytest.mark.parametrize("name", ["nih-cxr15", "-tables", "nih_cxr14", "os"])
def test_unknown_sources_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="There is no data source"):
        load_source(name)
