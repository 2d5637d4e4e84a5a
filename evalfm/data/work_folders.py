"""Folders of work in progress: named after the process that writes them, and removed once it is dead."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import socket
import sys
import time
import uuid
from pathlib import Path

WRITING = ".writing-"
_OWNER = re.compile(re.escape(WRITING) + r"[0-9a-f]{12}-\d+-[0-9a-f]{32}")
EARLIER = ".earlier-"
STALE_SECONDS = 24 * 3600.0
KEPT_SECONDS = 7 * STALE_SECONDS
"""How long what a dead process left to be adopted waits for that."""
PROCESSES = Path("/proc")
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of <fcntl.h> and <linux/fs.h>."""


def work_name() -> str:
    """A name that no other work folder has; it identifies the machine, without naming it, and the process."""
    return f"{WRITING}{machine()}-{os.getpid()}-{uuid.uuid4().hex}"


def remove_stale(parent: Path) -> None:
    """Remove the work folders in ``parent`` of processes that are dead, or that wrote nothing for a day.

    Those that somebody may ``adopt`` go when their process is dead and a week has passed.
    """
    if not parent.is_dir():
        return
    for folder in parent.glob(f"*{WRITING}*"):
        name, mark, owner = folder.name.partition(WRITING)
        # The parent may be any folder of the user's, who may name things likewise.
        if not _OWNER.fullmatch(mark + owner):
            continue
        if _is_stale(folder, mark + owner) and (not name or _age(folder) > KEPT_SECONDS):
            shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(parent: Path, name: str) -> None:
    """Remove the work folders for ``name`` (a pattern) of dead processes, where nobody needs to ``adopt`` them."""
    for folder in parent.glob(f"{name}{WRITING}*"):
        if _is_stale(folder, WRITING + folder.name.partition(WRITING)[2]):
            shutil.rmtree(folder, ignore_errors=True)


def adopt(parent: Path, name: str) -> Path:
    """A work folder for ``name`` in ``parent``: that of a process that died over it, with what it left, or a new one.

    Two living processes never share one; what this process itself left there is its own.
    """
    own = parent / f"{name}{work_name()}"
    parent.mkdir(parents=True, exist_ok=True)
    for folder in sorted(parent.glob(f"{name}{WRITING}*")):
        owner = Path(folder.name.removeprefix(name))
        mine = owner.name.startswith(f"{WRITING}{machine()}-{os.getpid()}-")
        if mine or _is_stale(folder, owner.name):
            # Another process may adopt it at the same moment: one rename succeeds.
            with contextlib.suppress(OSError):
                folder.rename(own)
                # Nobody shall think that nothing has happened here for a day.
                os.utime(own)
                return own
    own.mkdir()
    return own


def flush_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, where the system can flush a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(work: Path, final: Path) -> None:
    """Put the folder ``work`` in the place of the folder ``final``, which is removed.

    Where the system can exchange the two in one step there is either the old or the new one at every moment.
    Elsewhere the old one is renamed first; after a kill between the two steps ``recover`` brings it back.
    """
    if _exchanged(work, final):
        shutil.rmtree(work, ignore_errors=True)
        return
    recover(final, work.parent)
    try:
        # Another process may have moved it away just now.
        with contextlib.suppress(FileNotFoundError):
            final.rename(_earlier(final, work.parent))
        work.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        # Another process put its own there between the two steps; whoever comes last stays.
        replace(work, final)
    finally:
        recover(final, work.parent)


def put(work: Path, final: Path) -> None:
    """Put the folder ``work`` at ``final``, also where a folder stands already, which is then removed."""
    try:
        # A folder is renamed onto nothing or an empty folder, never onto files, whoever puts them there meanwhile.
        work.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        replace(work, final)


def recover(final: Path, beside: Path) -> None:
    """Bring back a ``final`` that a killed ``replace`` with its work folder in ``beside`` had renamed."""
    earlier = _earlier(final, beside)
    if not earlier.is_dir():
        return
    if final.is_dir():
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        # Another process may do the same at the same moment.
        with contextlib.suppress(OSError):
            earlier.rename(final)


def _earlier(final: Path, beside: Path) -> Path:
    """Where the old ``final`` waits until the new one stands; the same name for every process."""
    place = os.path.relpath(os.path.abspath(final), os.path.abspath(beside))
    return beside / f"{EARLIER}{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders by renameat2(2) of Linux; False where there is none or the file system has it not."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    result: int = renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return result == 0


@functools.cache
def machine() -> str:
    """What process numbers are unique in: this start of this machine, and the container's own numbering; hashed."""
    identity = [socket.gethostname()]
    with contextlib.suppress(OSError):
        identity.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        identity.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:12]


def process_start(process: int) -> str:
    """When a process of this machine was started, as the system counts it; empty where nobody tells.

    A number is given to another process once its first is gone; the two together are not.
    """
    state = _process_state(process)
    return state[1] if state else ""


def is_gone(process: int, start: str) -> bool:
    """Whether the process of this machine that had this number and start is certainly gone."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    state = _process_state(process)
    if state is None:
        return False
    # One that was killed stays as a zombie until its parent asks for its end.
    return state[0] in "ZX" or (bool(start) and state[1] != start)


def _process_state(process: int) -> tuple[str, str] | None:
    """A letter and the time of the start from proc(5); None where there is no such file."""
    try:
        # The name stands in brackets, and may hold some itself.
        fields = (PROCESSES / str(process) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None


def _is_stale(folder: Path, owner: str) -> bool:
    origin, process = owner.removeprefix(WRITING).split("-")[:2]
    if origin == machine() and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return _age(folder) > STALE_SECONDS


def _age(folder: Path) -> float:
    """Seconds since something was written into ``folder``, 0 where it has just gone."""
    try:
        newest = max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
    except FileNotFoundError:
        return 0.0
    return time.time() - newest
