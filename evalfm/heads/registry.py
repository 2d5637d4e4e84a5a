"""The heads by name: light to list, each class loaded when it is needed."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.plugins import PlugIn, find_plugins, load_all

if TYPE_CHECKING:
    from evalfm.heads.head import Head

FOLDER = Path(__file__).parent
SUMMARY = "summary"


@dataclass(frozen=True)
class HeadEntry:
    """One head as it is listed.

    Attributes:
        name: the word on the command line.
        kinds: the task kinds it serves.
        needs: what it reads: ``pooled``, ``maps`` or ``text``.
        summary: what it is, in one line.
        location: ``module:maker``, a class or function that gives a fresh head without arguments.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    summary: str
    location: str


def list_heads() -> tuple[HeadEntry, ...]:
    """Every head there is; a name may stand more than once, for different kinds of task. Broken plug-ins are left out.

    >>> sorted({entry.name for entry in list_heads()})[:4]
    ['all-empty', 'attentive', 'biomed-dpt', 'biomedcoop']
    """
    return (*built_in_heads(), *load_all(head_plugins())[0].values())


def head_names() -> set[str]:
    """The names of all heads; no plug-in is imported.

    >>> "linear" in head_names()
    True
    """
    return {entry.name for entry in built_in_heads()} | set(head_plugins())


def load_head(name: str, kind: str) -> Head:
    """A fresh head called ``name`` for tasks of ``kind``, with its default grid.

    Raises:
        UnknownNameError: there is no head of that name.
        EvalfmError: the head does not serve ``kind``, or its plug-in is broken.

    >>> load_head("ridge", "regression").needs
    frozenset({'pooled'})
    """
    entry, plugin = find_head(name, kind), head_plugins().get(name)
    return _made(entry) if plugin is None else plugin.guarded(lambda: _agreeing(entry))


def find_head(name: str, kind: str | None = None) -> HeadEntry:
    """The entry of the head called ``name`` for tasks of ``kind`` (None: for any); its class is not imported.

    Raises:
        UnknownNameError: there is no head of that name.
        EvalfmError: the head does not serve ``kind``, or its plug-in is broken.

    >>> find_head("linear", "segmentation").summary
    'one 1×1 convolution on the deepest map'
    """
    plugin = head_plugins().get(name)
    own = [entry for entry in built_in_heads() if entry.name == name]
    named = own if plugin is None else [plugin.load()]
    if not named:
        raise UnknownNameError("head", name, head_names())
    for entry in named:
        if kind is None or kind in entry.kinds:
            return entry
    served = sorted({other.name for other in list_heads() if kind in other.kinds})
    remedy = "take " + " or ".join(repr(other) for other in served) if served else "no head serves it"
    raise EvalfmError(f"The head {name!r} does not serve {kind} tasks; {remedy}.")


def head_plugins() -> dict[str, PlugIn[HeadEntry]]:
    """The heads that other packages bring, by name; none is imported."""
    return find_plugins("head", {entry.name for entry in built_in_heads()}, _entry)


@cache
def built_in_heads() -> tuple[HeadEntry, ...]:
    """The classes of this package that have a ``summary``, as their source says them: importing them imports torch."""
    classes: dict[str, tuple[ast.ClassDef, str]] = {}
    for path in sorted(FOLDER.rglob("*.py")):
        module = ".".join((__package__, *path.relative_to(FOLDER).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.name != Path(__file__).name else ():
            if isinstance(node, ast.ClassDef):
                classes[node.name] = (node, f"{module}:{node.name}")

    def said(name: str, attribute: str) -> Any:
        """What the class ``name`` says of ``attribute``, or the first of its bases that does."""
        node = classes[name][0]
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and line.value and ast.unparse(line.target) == attribute:
                return _literal(line.value)
        bases = [said(base.id, attribute) for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
        return next((value for value in bases if value is not None), None)

    heads = [
        HeadEntry(said(name, "name"), said(name, "kinds"), said(name, "needs"), summary, location)
        for name, (_, location) in classes.items()
        if (summary := said(name, SUMMARY)) is not None
    ]
    return tuple(sorted(heads, key=lambda entry: (entry.name, entry.location)))


def _literal(value: ast.expr) -> Any:
    """A text, or the texts in ``frozenset({...})`` in their order."""
    if not isinstance(value, ast.Call):
        return ast.literal_eval(value)
    return tuple(ast.literal_eval(each) for given in value.args if isinstance(given, ast.Set) for each in given.elts)


def _made(entry: HeadEntry) -> Head:
    module, _, attribute = entry.location.partition(":")
    head: Head = getattr(importlib.import_module(module), attribute)()
    return head


def _entry(name: str, loaded: Any) -> HeadEntry:
    if not isinstance(loaded, HeadEntry):
        raise EvalfmError(f"it is {type(loaded).__name__}, not a HeadEntry")
    if loaded.name != name:
        raise EvalfmError(f"its HeadEntry is called {loaded.name!r}")
    return loaded


def _agreeing(entry: HeadEntry) -> Head:
    """The head of a plug-in, which must be what its entry says."""
    from evalfm.heads.head import DenseHead, PooledHead

    head = _made(entry)
    if not isinstance(head, PooledHead | DenseHead):
        raise EvalfmError(f"{entry.location} gives {type(head).__name__}, not a PooledHead or DenseHead")
    said = (entry.name, set(entry.kinds), set(entry.needs))
    if (head.name, set(head.kinds), set(head.needs)) != said:
        raise EvalfmError(f"the name, kinds or needs of {entry.location} differ from those of its HeadEntry")
    return head
