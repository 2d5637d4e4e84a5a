"""The command line: one module per verb; a user's mistake is one sentence and exit status 2."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
"""Exit status of what Ctrl-C has stopped."""


def main() -> None:
    """Run the command line and exit."""
    from evalfm.errors import EvalfmError

    # Threads that wait by spinning make a busy machine several times slower (dense heads: 200 s against 43 s) and an
    # idle one no faster; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from evalfm.cli.app import app

        app()
    except EvalfmError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        if isinstance(stop, KeyboardInterrupt):
            tell_interrupt()
        sys.stdout.flush()
        # Python would wait for every thread first, and might end by the signal where it fell into generated code.
        os._exit(INTERRUPTED)


def tell_interrupt() -> None:
    """Say what Ctrl-C leaves."""
    # What the terminal shows of the key, or of a bar, ends here.
    sys.stderr.write("\n" if sys.stderr.isatty() else "")
    sys.stderr.write("Interrupted; what is finished is kept, the same command goes on.\n")
    sys.stderr.flush()
