"""What every run does besides its result, done in short, so that hundreds of small runs take a third less.

Pictures are composed but not rasterised, and the time of one image is taken of the fewest passes. Tests that look at
these ask for the fixture ``in_full`` or enter ``in_full()``; processes of their own always do everything.

The command line is put together once a process, as a user's process does it, and not once a call.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def write_pixel(_: object, path: Path, **options: Any) -> None:
    """In the place of ``Figure.savefig``."""
    path.write_bytes(PIXEL)


WHOLE: list[tuple[Any, str, Any]] = []
"""What was replaced: of whom, by which name, and what it was."""


@contextmanager
def in_short() -> Iterator[None]:
    """Until the block ends, but where a block ``in_full`` lies within."""
    from matplotlib.figure import Figure

    from evalfm.analysis import figures
    from evalfm.features import cost

    short = [
        (Figure, "savefig", write_pixel),
        (figures, "BAND_RESAMPLES", 2),
        (cost, "MOST_PASSES", cost.FEWEST_PASSES),
    ]
    WHOLE[:] = [(owner, name, getattr(owner, name)) for owner, name, _ in short]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in short:
            patch.setattr(owner, name, value)
        yield


@contextmanager
def in_full() -> Iterator[None]:
    """As a user has it."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in WHOLE:
            patch.setattr(owner, name, value)
        yield


@contextmanager
def one_command_line() -> Iterator[None]:
    """All verbs and options of an app are gathered at its first call and kept, which is most of a call's time."""
    from typer import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "get_group", cache(main.get_group))
        yield
