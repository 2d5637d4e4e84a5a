"""What is common to processes that are started by hand: where they find modules, and how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import IO

LAST_BYTES = 4000
"""Of what a process has said on standard error."""


def search_path() -> list[str]:
    """This process's own search path of modules, as a script or notebook has changed it, for another process.

    >>> all(isinstance(each, str) for each in search_path())
    True
    """
    return [os.path.abspath(each) if each == "" else each for each in sys.path if isinstance(each, str)]


def how_it_ended(child: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """How ``child`` ended, as the predicate of a sentence; ``errors`` is the file that holds its standard error.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as errors:
    ...     child = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no disk')"], stderr=errors)
    ...     how_it_ended(child, errors)
    'ended with status 1 (no disk)'
    """
    try:
        code = child.wait(5)
    except subprocess.TimeoutExpired:
        return "does not answer any more"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed ({name})"
    errors.seek(0)
    said = errors.read()[-LAST_BYTES:].decode(errors="replace").strip().rpartition("\n")[2]
    return f"ended with status {code}" + (f" ({said})" if said else "")
