"""Base-to-novel: a context learnt on the first half of the classes and tried on the other half."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.errors import EvalfmError
from evalfm.statistics.classification import FEWEST_TO_HALVE, base_classes


def base_and_novel(class_names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first ceil(C / 2) classes, and the rest.

    Raises:
        EvalfmError: two classes are called the same, or a half would be one class.
    """
    names = tuple(class_names)
    if len({name.casefold() for name in names}) < len(names):
        raise EvalfmError(f"Two of the classes {', '.join(names)} are called the same; give each a name of its own.")
    if len(names) < FEWEST_TO_HALVE:
        raise EvalfmError(
            f"Base-to-novel needs {FEWEST_TO_HALVE} classes or more, and there are {len(names)} ({', '.join(names)}): "
            "in a half of one class every answer is right; take a task of more classes."
        )
    half = base_classes(len(names))
    return names[:half], names[half:]
