"""What a user did wrong or what is missing, said in one sentence with the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

SHOWN = 80
"""Letters of a name or path that a message repeats."""
LONGEST_MESSAGE = 20_000
_ENDLESS = re.compile(r"\S{1000,}")
"""No path that people use is as long."""
MOST_LISTED = 200
"""Known names that a message lists."""


class EvalfmError(Exception):
    """A user's mistake or something missing; the message is one clear sentence that names the remedy.

    The command line prints the message and exits with status 2, never with a traceback. What it repeats of a file is
    cut where nobody would read on: words without a space, and the whole.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_readable(message))


class UnknownNameError(EvalfmError):
    """A name that no card, task, head, column or data set answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no {kind} {shown(name)}. {suggestion(name, known)}")
        self.name = name


def _readable(message: str) -> str:
    cut = _ENDLESS.sub(lambda word: f"{word[0][: 2 * SHOWN]}…", message)
    return cut if len(cut) <= LONGEST_MESSAGE else f"{cut[:LONGEST_MESSAGE]}…"


def shown(text: str) -> str:
    """``text`` in quotes as a message repeats it: on one line, harmless to a terminal, and not too long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known names are meant: the nearest ones, else all of them."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(map(shown, near)) + "?"
    listed = [name if len(name) <= SHOWN else f"{name[:SHOWN]}…" for name in names[:MOST_LISTED]]
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return f"Known: {', '.join(listed)}{more}." if names else "None is known."
