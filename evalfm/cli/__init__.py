"""The command line: one module per verb; a user's mistake is one sentence and exit status 2."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line and exit."""
    from evalfm.cli.console import INTERRUPTED, tell_interrupt
    from evalfm.errors import EvalfmError, shown

    # Threads that wait by spinning make a busy machine several times slower (dense heads: 200 s against 43 s) and an
    # idle one no faster; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's alphabet lacks is shown in escapes, and ends no command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from evalfm.cli.app import app

        app()
    except EvalfmError as error:
        _refuse(str(error))
    except UnicodeEncodeError as error:
        # The system gives names in other bytes than UTF-8 as text that no table and no page can hold.
        name = error.object[max(0, error.start - 20) : error.end + 20]
        _refuse(f"The name {shown(name)} is not UTF-8 text; rename the file or folder.")
    except OSError as error:
        if error.filename is None:
            raise
        place, reason = shown(os.fsdecode(error.filename)), error.strerror or error
        _refuse(f"{place} cannot be used ({reason}); check the path, its permissions and the free space.")
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        if isinstance(stop, KeyboardInterrupt):
            tell_interrupt()
        sys.stdout.flush()
        # Python would wait for every thread first, and might end by the signal where it fell into generated code.
        os._exit(INTERRUPTED)


def _refuse(sentence: str) -> NoReturn:
    """Print why nothing was done, harmless to a terminal whatever a file's name holds, and exit with 2."""
    from evalfm.cli.console import in_letters

    sys.stderr.write(f"Error: {in_letters(sentence)}\n")
    sys.exit(2)
