"""Files that evalfm writes: whole or not there, and CSV in which a spreadsheet runs no cell."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evalfm.data.work_folders import flush_folder, remove_stale, work_name
from evalfm.errors import EvalfmError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that no reader ever sees it half-written; parents are created.

    A link stays and what it leads to is replaced, with the mode that it had. A pipe or terminal is written to and not
    replaced.

    Raises:
        EvalfmError: the disk is full or cannot be written, or ``path`` is a folder, disk or socket.
    """
    try:
        place = file_place(path)
        if place is None:
            _write_through(path, content)
        else:
            _write(place, content)
    except OSError as error:
        raise EvalfmError(
            f"{path} cannot be written ({error.strerror}); free space there or choose another folder."
        ) from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a place for a large file that becomes ``path`` by one rename when the block ends well, else vanishes.

    What a killed process left beside ``path`` is removed first.

    Raises:
        EvalfmError: the disk is full or cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "large.bin"
    >>> with new_file(path) as place:
    ...     _ = place.write_bytes(b"all of it")
    >>> path.read_bytes(), len(list(path.parent.iterdir()))
    (b'all of it', 1)
    """
    final = Path(os.path.realpath(path))
    remove_stale(final.parent)
    work = final.parent / work_name()
    try:
        work.mkdir()
        yield work / final.name
        with (work / final.name).open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(work / final.name, _mode(final))
        os.replace(work / final.name, final)
        flush_folder(final.parent)
    except OSError as error:
        raise EvalfmError(
            f"{path} cannot be written ({error.strerror or error}); free space there or choose another folder."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_place(path: Path) -> Path | None:
    """Where the file lies, or will lie, that ``path`` names, its links followed; None of a pipe or terminal.

    Raises:
        EvalfmError: ``path`` is a folder, disk or socket, which no file can replace.
        OSError: it cannot be looked at.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(path))
    if stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "device"
        raise EvalfmError(f"{path} is no file that can be written but a {kind}; name a file.")
    place = Path(os.path.realpath(path))
    # /dev/stdout may lead to a file that has no name any more.
    return place if place.exists() and os.path.samestat(place.stat(), status) else None


def check_writable_file(path: Path) -> None:
    """Check before any work that a file can be written to ``path``; its folder must be there.

    Raises:
        EvalfmError: it cannot.
    """
    try:
        place = file_place(path)
    except OSError as error:
        raise EvalfmError(f"{path} cannot be written ({error.strerror}); name another file.") from None
    folder = path.absolute().parent if place is None else place.parent
    if not folder.is_dir():
        raise EvalfmError(f"{path} is no file that can be written; give a file in a folder that is there.")
    if not os.access(folder if place is not None else path, os.W_OK):
        raise EvalfmError(f"{path} cannot be written (no permission); give a file in a folder that is yours.")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The start of the name alone: with all of a long one the temporary name would be too long.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """The mode that the file has; where there is none, what the user's umask gives (mkstemp makes private files)."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _write_through(path: Path, content: bytes) -> None:
    # A pipe that nobody reads is reported at once and not waited for.
    flags = os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    handle = os.open(path, flags)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FORMULA = re.compile(r"[\s\"'\0\ufeff\u200b-\u200f\u2060]*[=+\-@\uff0b\uff0d\uff1d\uff20].|[\t\r\n]", re.DOTALL)
"""What a spreadsheet runs, also in wide letters and behind spaces, quotes and letters of no width; one sign is none."""


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """``header`` and ``rows`` as CSV with every digit; None and NaN are empty, words that would be run have a ``'``.

    >>> csv_text(["id", "note"], [["a", "=1+1"], ["b", None]])
    "id,note\\na,'=1+1\\nb,\\n"
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_cell, header))
    for row in rows:
        writer.writerow(map(_cell, row))
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        # A lone CR would end the row, as the writer does not quote it.
        return str(harmless(value)).replace("\r\n", "\n").replace("\r", "\n")
    # NaN alone differs from itself.
    return None if value != value else value


def harmless(value: object) -> object:
    """``value``; text that a spreadsheet would run as a formula gets an apostrophe, a number as text does not."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value) or not _FORMULA.match(value):
        return value
    return f"'{value}"
