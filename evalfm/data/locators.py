"""Do the files that a table names exist under its root: asked folder by folder, for 100,000 rows a second."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from evalfm.paths import text_fault

MEMBER_MARK = "#"


def file_of(locator: str) -> str:
    """The file part of a locator: ``sets/a.npz`` of ``sets/a.npz#train_images/17``."""
    return locator.split(MEMBER_MARK, 1)[0]


def locator_faults(locators: Iterable[str], root: Path) -> dict[str, str]:
    """For each locator that cannot be read from ``root``, why: it leaves the root, or there is no such file.

    Symbolic links are followed; one that leads out of the root leaves it. Members of archives are not sought.
    """
    # Not resolve(), which raises on links that run in a circle.
    whole = Path(os.path.realpath(root))
    folders: dict[str, str | dict[str, bool | None]] = {}
    faults: dict[str, str] = {}
    for locator in dict.fromkeys(locators):
        name = file_of(locator)
        reason = _leaves(name)
        if reason is None:
            parent, _, last = name.rpartition("/")
            if parent not in folders:
                folders[parent] = _listing(whole, parent)
            reason = _missing(whole, name, last, folders[parent])
        if reason is not None:
            faults[locator] = reason
    return faults


def _leaves(name: str) -> str | None:
    if not name:
        return "names no file"
    fault = None if name.isascii() and "\0" not in name else text_fault(name)
    if fault is not None:
        return fault
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "is absolute; write it relative to the root"
    if ".." in name and ".." in PurePosixPath(name.replace("\\", "/")).parts:
        return "leaves the root; `..` is not allowed"
    return None


def _listing(root: Path, parent: str) -> str | dict[str, bool | None]:
    """Entries of a folder and whether each is a symbolic link, None of what is neither that nor a file.

    Or why it cannot be listed.
    """
    folder = root / parent
    if not Path(os.path.realpath(folder)).is_relative_to(root):
        return "leaves the root through a symbolic link"
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() or (None if not entry.is_file() else False) for entry in entries}
    except OSError:
        return f"is not there: the root has no folder {parent!r}"


def _missing(root: Path, name: str, last: str, listing: str | dict[str, bool | None]) -> str | None:
    if isinstance(listing, str):
        return listing
    if last not in listing:
        return "is not there"
    is_link = listing[last]
    if is_link is None:
        return "is a folder, pipe or device, not a file"
    if is_link:
        target = Path(os.path.realpath(root / name))
        if not target.is_relative_to(root):
            return "leaves the root through a symbolic link"
        if not target.is_file():
            return "is a symbolic link that leads to no file"
    return None
