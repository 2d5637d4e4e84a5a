"""Paths that users and files name: brought into one form, or refused in a sentence before anything opens them."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from evalfm.errors import EvalfmError, shown

LONGEST_NAME = 255
"""Bytes of one name on every common file system."""


def user_path(given: str | Path, what: str = "The path", *, beside: Path | None = None) -> Path:
    """``given`` with ``~`` in full, and from ``beside`` on where it is relative; nothing need be there.

    Args:
        given: as a user or a file wrote it.
        what: how messages call it, such as ``--out``.
        beside: the folder that a relative path starts from; the working folder where None.

    Raises:
        EvalfmError: it is empty or no text, names an unknown user, is too long, runs in a circle of links or leads
            through a folder that may not be entered.
    """
    text = os.fspath(given)
    if not text:
        raise EvalfmError(f"{what} is empty; name a file or folder.")
    fault = text_fault(text)
    if fault is not None:
        raise EvalfmError(f"{what} {shown(text)} {fault}.")
    # Of the text and not of a Path, which would take ./~name for a user.
    path = Path(os.path.expanduser(text))
    if text.startswith("~") and str(path).startswith("~"):
        raise EvalfmError(f"{what} {shown(text)} begins with a user who has no home here; write the path in full.")
    path = path if beside is None else beside / path
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise EvalfmError(f"{what} {shown(text)} holds a name of more than {LONGEST_NAME} bytes; shorten it.")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise EvalfmError(f"{what} {shown(text)} cannot be reached ({error.strerror}); check the path.") from None
    return path


def input_file(path: Path, remedy: str = "check the path") -> Path:
    """``path`` where it is a plain file that is there; a pipe or device, which may never end, is none.

    Raises:
        EvalfmError: it is not there, or something else.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise EvalfmError(f"There is no file {path}; {remedy}.") from None
    except (OSError, ValueError) as error:
        raise EvalfmError(f"{shown(str(path))} cannot be reached ({_reason(error)}); {remedy}.") from None
    if stat.S_ISDIR(mode):
        raise EvalfmError(f"{path} is a folder, not a file; {remedy}.")
    if not stat.S_ISREG(mode):
        raise EvalfmError(f"{path} is a pipe or device, not a file; write its content to a file and name that.")
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_fault(text: str) -> str | None:
    """What keeps ``text`` from being a path that can be written down, with the remedy; None where nothing does."""
    if "\0" in text:
        return "holds a zero byte; write it anew"
    try:
        text.encode()
    except UnicodeEncodeError:
        # A name that the system gave in other bytes than UTF-8; no table, JSON or page can hold it.
        return "is not UTF-8 text; rename the file or folder"
    return None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
