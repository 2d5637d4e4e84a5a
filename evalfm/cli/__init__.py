"""The command line: one module per verb; a user's mistake is one sentence and exit status 2."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit."""
    # Threads that wait by spinning make a busy machine several times slower (dense heads: 200 s against 43 s) and an
    # idle one no faster; it must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from evalfm.cli.app import app
    from evalfm.errors import EvalfmError

    try:
        app()
    except EvalfmError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. What was finished is kept: type the same command again to go on.\n")
        sys.exit(130)
