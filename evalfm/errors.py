"""What a user did wrong or what is missing, said in one sentence with the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 80
"""Letters of a name or path that a message repeats."""


class EvalfmError(Exception):
    """A user's mistake or something missing; the message is one clear sentence that names the remedy.

    The command line prints the message and exits with status 2, never with a traceback.
    """


class UnknownNameError(EvalfmError):
    """A name that no card, task, head, column or data set answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no {kind} {shown(name)}. {suggestion(name, known)}")


def shown(text: str) -> str:
    """``text`` in quotes as a message repeats it: on one line, harmless to a terminal, and not too long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known names are meant: the nearest ones, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(other) for other in near) + "?"
    return "Known: " + ", ".join(names) + "." if names else "None is known."
