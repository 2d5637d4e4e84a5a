"""Public data sets in their native layout: a module per source, found by file name, loaded when used.

A source is a module with one function ``import_source(root, options) -> Imported``; ``nih-cxr14`` lives in
``nih_cxr14.py``. Its ``OPTIONS``, where it has any, name the fields of ``ImportOptions`` that it honours. Modules that
begin with an underscore are no sources. Another package brings such a module by an entry point of ``evalfm.sources``.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from evalfm.cards import flag_of, option_of
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.plugins import PlugIn, find_plugins, load_all

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Imported:
    """The rows of a source and its facts; locators are relative to the root that was given.

    A ``split`` column stands where the source brings an official split, and ``info.split`` then describes it. Where it
    has no val, ``val_from_train`` says that it is to be drawn by patient from train.
    """

    table: pd.DataFrame
    info: DatasetInfo
    val_from_train: bool = False


class Source(Protocol):
    """Reads a data set in its native layout under ``root``."""

    def __call__(self, root: Path, options: ImportOptions) -> Imported:
        """Rows and facts of the set under ``root``."""
        ...


def list_sources() -> list[str]:
    """Names of all sources, as on the command line; no plug-in is imported."""
    return sorted({*_built_in(), *source_plugins()})


def load_source(name: str) -> Source:
    """The import function of a source.

    Raises:
        UnknownNameError: there is no such source; near names are proposed.
        EvalfmError: its plug-in is broken, also if that shows only when it is called.
    """
    source: Source = _module(name).import_source
    plugin = source_plugins().get(name)
    if plugin is None:
        return source

    def checked(root: Path, options: ImportOptions) -> Imported:
        imported: object = source(root, options)
        if not isinstance(imported, Imported):
            raise plugin.refused(f"gives {type(imported).__name__}, not Imported")
        return imported

    return checked


def check_options(name: str, options: ImportOptions) -> None:
    """Refuse what the source would not honour.

    Raises:
        UnknownNameError: there is no such source.
        EvalfmError: an option is given that it does not know; names the sources that do.
    """
    for option, field in ImportOptions.model_fields.items():
        unset = option_of(field).hidden or getattr(options, option) in (None, False)
        if not unset and option not in _honoured(_module(name)):
            knowing = ", ".join(repr(other) for other, module in _modules().items() if option in _honoured(module))
            flag = "a mapping of columns" if option == "mapping" else flag_of(option, field)
            raise EvalfmError(f"The source {name!r} knows no option {flag}, which belongs to {knowing}; leave it out.")


def source_plugins() -> dict[str, PlugIn[ModuleType]]:
    """The sources that other packages bring, by name; none is imported."""
    return find_plugins("source", _built_in(), _source_module)


def _honoured(module: ModuleType) -> frozenset[str]:
    return frozenset(getattr(module, "OPTIONS", ()))


def _built_in() -> dict[str, str]:
    """Of each source of this package, its module."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): f"{__name__}.{name}" for name in modules if not name.startswith("_")}


def _module(name: str) -> ModuleType:
    plugin = source_plugins().get(name)
    if plugin is not None:
        return plugin.load()
    if name not in _built_in():
        raise UnknownNameError("data source", name, list_sources())
    return importlib.import_module(_built_in()[name])


def _modules() -> dict[str, ModuleType]:
    """Every source that can be imported."""
    own = {name: importlib.import_module(module) for name, module in _built_in().items()}
    return own | load_all(source_plugins())[0]


def _source_module(name: str, loaded: object) -> ModuleType:
    if not isinstance(loaded, ModuleType) or not callable(getattr(loaded, "import_source", None)):
        raise EvalfmError(f"it is {type(loaded).__name__}, not a module with a function import_source")
    return loaded
