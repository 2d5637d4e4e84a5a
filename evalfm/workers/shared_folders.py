"""Whether another machine sees the same folders as this one: a word left in one and answered, or equal contents."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from evalfm.errors import EvalfmError, shown

PREFIX = ".evalfm-shared-"
PATIENCE_SECONDS = 3.0
"""How long a network's disk may take to show a new file."""
TOLD_IN_FULL = ("dataset.yaml", "manifest.parquet", "manifest.csv")
"""Files of a data set whose bytes are compared."""


@dataclass(frozen=True)
class SharedFolders:
    """What a process finds out about another's folders: every path by the word that messages call it by.

    Attributes:
        tokens: the word that lies in each folder which is written to.
        digests: what is in each folder that is only read.
    """

    paths: Mapping[str, str]
    tokens: Mapping[str, str]
    digests: Mapping[str, str]


@contextmanager
def offered(written: Mapping[str, Path], read: Mapping[str, Path]) -> Iterator[SharedFolders]:
    """Leave a word in every folder of ``written`` (made where it is not there) while the block runs.

    Raises:
        EvalfmError: a folder cannot be made, written to or read.
    """
    tokens: dict[str, str] = {}
    places = {what: folder.absolute() for what, folder in (*written.items(), *read.items())}
    try:
        for what in written:
            tokens[what] = secrets.token_hex(16)
            try:
                places[what].mkdir(parents=True, exist_ok=True)
                (places[what] / f"{PREFIX}{tokens[what]}").write_text(tokens[what])
            except OSError as error:
                raise EvalfmError(
                    f"The folder of {what}, {shown(str(places[what]))}, cannot be written to ({error.strerror}); "
                    "choose another one."
                ) from None
        yield SharedFolders(
            {what: str(place) for what, place in places.items()},
            tokens,
            {what: _contents(what, places[what]) for what in read},
        )
    finally:
        for what, token in tokens.items():
            for path in places[what].glob(f"{PREFIX}{token}*"):
                with suppress(OSError):
                    path.unlink()


def answer(folders: SharedFolders, name: str) -> dict[str, str]:
    """Look for the words and contents, and leave an answer called ``name`` beside each word: at the other machine.

    Returns:
        What is amiss, by the word of the folder; empty where nothing.
    """
    amiss = {}
    for what, token in folders.tokens.items():
        word = Path(folders.paths[what]) / f"{PREFIX}{token}"
        try:
            if not _in_time(word.exists):
                amiss[what] = "is another folder" if word.parent.is_dir() else "is not there"
            elif word.read_text() != token:
                amiss[what] = "is another folder"
            else:
                word.with_name(f"{word.name}-{name}").write_text(token)
        except OSError as error:
            amiss[what] = f"cannot be written to ({error.strerror})"
    for what, digest in folders.digests.items():
        folder = Path(folders.paths[what])
        try:
            if not folder.exists():
                amiss[what] = "is not there"
            elif folder_digest(folder) != digest:
                amiss[what] = "has other contents"
        except OSError as error:
            amiss[what] = f"cannot be read ({error.strerror})"
    return amiss


def unanswered(folders: SharedFolders, name: str) -> list[str]:
    """Words of the folders in which the answer of ``name`` is not seen here."""
    answers = {what: Path(folders.paths[what]) / f"{PREFIX}{token}-{name}" for what, token in folders.tokens.items()}
    return [what for what, path in answers.items() if not _in_time(path.exists)]


def folder_digest(folder: Path) -> str:
    """A digest of what a data set says of itself: the bytes of its table and of ``dataset.yaml``.

    Where there are none, names and sizes of what lies at the top; a million images beside a manifest are not looked at.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    told = [folder] if folder.is_file() else [path for name in TOLD_IN_FULL if (path := folder / name).is_file()]
    for path in told:
        digest.update(f"{path.name}\0".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    # What evalfm or a file system keeps for itself comes and goes.
    for path in () if told else sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _contents(what: str, folder: Path) -> str:
    try:
        return folder_digest(folder)
    except OSError as error:
        raise EvalfmError(
            f"The folder of {what}, {shown(str(folder))}, cannot be read ({error.strerror}); check the path."
        ) from None


def _in_time(holds: Callable[[], bool]) -> bool:
    """Whether ``holds`` soon does."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
