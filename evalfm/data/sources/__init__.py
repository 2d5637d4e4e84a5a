"""Public data sets in their native layout: a module per source, found by file name, loaded when asked for.

A source is a module with one function ``import_source(root, options) -> Imported``; ``nih-cxr14`` lives in
``nih_cxr14.py``. Modules that begin with an underscore are no sources.
"""

from __future__ import annotations

import importlib
import pkgutil

from evalfm.data.sources._contract import Imported, ImportOptions, Source, TableMapping
from evalfm.errors import UnknownNameError

__all__ = ["ImportOptions", "Imported", "Source", "TableMapping", "list_sources", "load_source"]


def list_sources() -> list[str]:
    """Names of all sources, as on the command line."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def load_source(name: str) -> Source:
    """The import function of a source.

    Raises:
        UnknownNameError: there is no such source; near names are proposed.
    """
    if name not in list_sources():
        raise UnknownNameError("data source", name, list_sources())
    source: Source = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").import_source
    return source
