"""Public data sets in their native layout: a module per source, found by file name, loaded when used.

A source is a module with one function ``import_source(root, options) -> Imported``; ``nih-cxr14`` lives in
``nih_cxr14.py``. Its ``OPTIONS``, where it has any, name the fields of ``ImportOptions`` that it honours. Modules that
begin with an underscore are no sources.
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
    """Names of all sources, as on the command line."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def load_source(name: str) -> Source:
    """The import function of a source.

    Raises:
        UnknownNameError: there is no such source; near names are proposed.
    """
    source: Source = _module(name).import_source
    return source


def check_options(name: str, options: ImportOptions) -> None:
    """Refuse what the source would not honour.

    Raises:
        UnknownNameError: there is no such source.
        EvalfmError: an option is given that it does not know; names the sources that do.
    """
    for option, field in ImportOptions.model_fields.items():
        unset = option_of(field).hidden or getattr(options, option) in (None, False)
        if not unset and option not in _honoured(name):
            knowing = ", ".join(repr(other) for other in list_sources() if option in _honoured(other))
            flag = "a mapping of columns" if option == "mapping" else flag_of(option, field)
            raise EvalfmError(f"The source {name!r} knows no option {flag}, which belongs to {knowing}; leave it out.")


def _honoured(name: str) -> frozenset[str]:
    return frozenset(getattr(_module(name), "OPTIONS", ()))


def _module(name: str) -> ModuleType:
    if name not in list_sources():
        raise UnknownNameError("data source", name, list_sources())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
