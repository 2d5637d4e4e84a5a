"""Files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from evalfm.errors import EvalfmError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that no reader ever sees a part of it; parents are created.

    Raises:
        EvalfmError: the disk is full or cannot be written.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise EvalfmError(
            f"{path} cannot be written ({error.strerror}); free space there or choose another folder."
        ) from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes private files; give what the user's umask would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
