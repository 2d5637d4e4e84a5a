"""Whether the files that a table names exist under its root: read folder by folder, 100,000 rows a second."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from evalfm.errors import EvalfmError
from evalfm.paths import text_fault, user_path

MEMBER_MARK = "#"
OUTSIDE = "leaves the root through a symbolic link"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())


class LinkedRoot(_Path):
    """A root whose links are followed wherever they lead, because its owner has said so; a plain path else."""


def expand_root(text: str) -> Path:
    """The folder that a root stands for: ``~`` and ``${VARIABLE}`` are put in.

    Raises:
        EvalfmError: a variable is not set, or no path can be so.
    """
    unset = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    if unset:
        raise EvalfmError(
            f"The root {text} names the variable {unset[0]}, which is not set; set it, or give the data set another "
            "root with `evalfm data relocate DATA NEWROOT`."
        )
    return user_path(_VARIABLE.sub(lambda match: os.environ[match[1]], text) or ".", "The root")


def root_from(given: str, folder: Path) -> str:
    """How a root that was ``given`` from here stands in ``folder``: as it is, or relative where it was relative."""
    if expand_root(given).is_absolute():
        return given
    return relative_root(expand_root(given), folder)


def relative_root(place: Path, folder: Path) -> str:
    """The way from ``folder`` to ``place``; the whole path where they lie on two drives."""
    try:
        return Path(os.path.relpath(os.path.abspath(place), os.path.abspath(folder))).as_posix()
    except ValueError:
        return os.path.abspath(place)


def files_below(root: Path, below: str = ".") -> list[str]:
    """Locators of all files in ``root``/``below``, sorted; links to folders are entered where they are followed.

    Raises:
        EvalfmError: links lead out of the root, and nobody has said that they are to be followed.
    """
    files, outside, seen = [], [], set()
    whole, follow = os.path.realpath(root), isinstance(root, LinkedRoot)
    for folder, folders, names in os.walk(root / below, followlinks=follow):
        place = os.path.realpath(folder)
        if place in seen:
            # A link that leads to where it lies, or to what was read already.
            folders.clear()
            continue
        seen.add(place)
        links = [] if follow else [name for name in folders if os.path.islink(os.path.join(folder, name))]
        outside += [name for name in links if not _inside(os.path.realpath(os.path.join(folder, name)), whole)]
        prefix = Path(folder).relative_to(root).as_posix()
        files += [name if prefix == "." else f"{prefix}/{name}" for name in names]
    if outside:
        raise EvalfmError(
            f"{len(outside)} folders in {root} are links that lead out of it, such as {sorted(outside)[0]}; add "
            "--follow-links if you trust where they lead."
        )
    return sorted(files)


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def file_of(locator: str) -> str:
    """The file of a locator: ``sets/a.npz`` of ``sets/a.npz#train_images/17``."""
    return locator.split(MEMBER_MARK, 1)[0]


def locator_faults(locators: Iterable[str], root: Path) -> dict[str, str]:
    """For each locator that cannot be read from ``root``, why: it leaves the root, or there is no such file.

    Symbolic links are followed; one that leads out of the root leaves it, but for a ``LinkedRoot``. Members of archives
    are not sought.
    """
    # Not resolve(), which raises on links that run in a circle.
    whole, follow = Path(os.path.realpath(root)), isinstance(root, LinkedRoot)
    folders: dict[str, str | dict[str, bool | None]] = {}
    faults: dict[str, str] = {}
    for locator in dict.fromkeys(locators):
        name = file_of(locator)
        reason = _leaves(name)
        if reason is None:
            parent, _, last = name.rpartition("/")
            if parent not in folders:
                folders[parent] = _listing(whole, parent, follow)
            reason = _missing(whole, name, last, folders[parent], follow)
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


def _listing(root: Path, parent: str, follow: bool) -> str | dict[str, bool | None]:
    """Entries of a folder and whether each is a symbolic link, None of what is neither that nor a file.

    Or why it cannot be listed.
    """
    folder = root / parent
    if not follow and not Path(os.path.realpath(folder)).is_relative_to(root):
        return OUTSIDE
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() or (None if not entry.is_file() else False) for entry in entries}
    except OSError:
        return f"is not there: the root has no folder {parent!r}"


def _missing(root: Path, name: str, last: str, listing: str | dict[str, bool | None], follow: bool) -> str | None:
    if isinstance(listing, str):
        return listing
    if last not in listing:
        return "is not there"
    is_link = listing[last]
    if is_link is None:
        return "is a folder, pipe or device, not a file"
    if is_link:
        target = Path(os.path.realpath(root / name))
        if not follow and not target.is_relative_to(root):
            return OUTSIDE
        if not target.is_file():
            return "is a symbolic link that leads to no file"
    return None
