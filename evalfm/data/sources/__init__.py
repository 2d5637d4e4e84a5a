"""Public data sets in their native layout: a module per source, found by file name, loaded when asked for.

A source is a module with one function ``import_source(root, options) -> Imported``; ``nih-cxr14`` lives in
``nih_cxr14.py``. Its ``OPTIONS``, where it has any, name the choices of ``ImportOptions`` that it honours. Modules that
begin with an underscore are no sources.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from evalfm.data.sources._contract import CHOICES, Imported, ImportOptions, Source, TableMapping
from evalfm.errors import EvalfmError, UnknownNameError

__all__ = ["ImportOptions", "Imported", "Source", "TableMapping", "check_options", "list_sources", "load_source"]


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
    for choice in CHOICES:
        if getattr(options, choice) not in (None, False) and choice not in _honoured(name):
            knowing = ", ".join(repr(other) for other in list_sources() if choice in _honoured(other))
            flag = "a mapping of columns" if choice == "mapping" else f"--{choice.replace('_', '-')}"
            raise EvalfmError(f"The source {name!r} knows no option {flag}, which belongs to {knowing}; leave it out.")


def _honoured(name: str) -> frozenset[str]:
    return frozenset(getattr(_module(name), "OPTIONS", ()))


def _module(name: str) -> ModuleType:
    if name not in list_sources():
        raise UnknownNameError("data source", name, list_sources())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
