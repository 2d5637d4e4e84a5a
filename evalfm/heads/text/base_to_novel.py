"""Base-to-novel: a context learnt on the first half of the classes and tried on the other half."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.errors import EvalfmError
from evalfm.statistics.classification import base_classes


def base_and_novel(class_names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first ceil(C / 2) classes, and the rest.

    Raises:
        EvalfmError: there are fewer than two classes, or two are called the same.
    """
    names = tuple(class_names)
    if len({name.casefold() for name in names}) < len(names):
        raise EvalfmError(f"Two of the classes {', '.join(names)} are called the same; give each a name of its own.")
    if len(names) < 2:
        raise EvalfmError("Base-to-novel needs two classes or more; take a task of several classes.")
    half = base_classes(len(names))
    return names[:half], names[half:]
