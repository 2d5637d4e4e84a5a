"""The command line in this process: what a user types, and what is shown."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from evalfm.cli import main


@dataclass(frozen=True)
class Shown:
    """Exit status and what stood on the two streams."""

    returncode: int
    stdout: str
    stderr: str


def evalfm(*arguments: object, cwd: Path | None = None) -> Shown:
    """Run `evalfm ARGUMENTS` through its own entry point; nobody sits at the keyboard."""
    shown, told = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["evalfm", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(told),
        contextlib.chdir(cwd or Path.cwd()),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int), code
    return Shown(code, shown.getvalue(), told.getvalue())
