"""Digests of stored images, remembered between runs under path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evalfm.data.atomic import write_atomically
from evalfm.data.locators import file_of
from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

WORKERS = 8

Stamp = tuple[int, int]
"""Size and time of change (ns) of a file."""


@dataclass(frozen=True)
class Digests:
    """Digest per locator, and why the others have none."""

    by_locator: dict[str, str]
    failed: dict[str, str]


def image_digests(
    locators: Sequence[str],
    root: Path,
    *,
    headers: bool = False,
    stamps: Mapping[str, Stamp | None] | None = None,
    progress: Progress = SILENT,
) -> Digests:
    """sha256 of the stored bytes of each image, read in parallel; remembered until the file changes.

    With ``headers`` an image that is read for the first time must have a header that says its size. ``stamps`` are
    those of all files, where they have been looked at just now.
    """
    from evalfm.data.images import image_digest, image_size

    sidecar = _sidecar(root)
    remembered = _read(sidecar)
    unique = list(dict.fromkeys(locators))
    stamps = _stamps(unique, root) if stamps is None else stamps
    by_locator: dict[str, str] = {}
    for locator in unique:
        entry = remembered.get(locator)
        stamp = stamps[file_of(locator)]
        if entry is not None and stamp is not None and entry[:2] == list(stamp):
            by_locator[locator] = str(entry[2])
    wanted = [locator for locator in unique if locator not in by_locator]
    failed: dict[str, str] = {}

    def read(locator: str) -> tuple[str, str | None, str]:
        try:
            if headers:
                image_size(locator, root)
            return locator, image_digest(locator, root), ""
        except (EvalfmError, OSError) as error:
            return locator, None, str(error)

    if wanted:
        with ThreadPoolExecutor(WORKERS) as pool:
            for locator, digest, reason in progress.track(pool.map(read, wanted), "digests", len(wanted)):
                if digest is None:
                    failed[locator] = reason
                else:
                    by_locator[locator] = digest
        fresh = {
            locator: [*stamp, by_locator[locator]]
            for locator in wanted
            if locator in by_locator and (stamp := stamps[file_of(locator)]) is not None
        }
        write_atomically(sidecar, json.dumps(remembered | fresh).encode())
    return Digests(by_locator, failed)


def digests_of_twins(locators: Sequence[str], root: Path, *, progress: Progress = SILENT) -> dict[str, str]:
    """Digest of each image that may have the bytes of another; a file whose size no other has needs no reading."""
    unique = list(dict.fromkeys(locators))
    sizes = _stamps(unique, root)
    # The digest of an array is that of its values, whatever the file's size is.
    arrays = {name for name in sizes if name.lower().endswith((".npz", ".npy"))}
    files = Counter(stamp[0] for name, stamp in sizes.items() if stamp is not None and name not in arrays)
    wanted = []
    for locator in unique:
        name = file_of(locator)
        stamp = sizes[name]
        # An empty file is no image, like no other.
        if stamp is not None and stamp[0] and (name in arrays or name != locator or files[stamp[0]] > 1):
            wanted.append(locator)
    return image_digests(wanted, root, progress=progress).by_locator


def _stamps(locators: Sequence[str], root: Path) -> dict[str, Stamp | None]:
    """The stamp of the file of each locator."""
    # Not as paths, which take longer to make than the file to be looked at.
    folder = os.fspath(root)
    return {name: stamp_of(os.path.join(folder, name)) for name in dict.fromkeys(map(file_of, locators))}


def stamp_of(path: Path | str) -> Stamp | None:
    """Size and time of change of a file, by which it is known to be what it was; None where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _sidecar(root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / "digests" / f"{name}.json"


def _read(sidecar: Path) -> dict[str, list[int | str]]:
    """What was remembered; a damaged file is as good as none, since all of it can be computed again."""
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: entry for key, entry in content.items() if isinstance(entry, list) and len(entry) == 3}
