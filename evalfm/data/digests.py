"""Digests of stored images, remembered between runs under path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evalfm.data.atomic import write_atomically
from evalfm.data.locators import MEMBER_MARK, file_of
from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

WORKERS = 8
BYTES = 32
"""Of a digest."""

Item = TypeVar("Item", bound=str | int)
Stamp = tuple[int, int]
"""Size and time of change (ns) of a file."""
GONE: Stamp = (-1, -1)
"""Of a file that is not there."""


def remember(
    sidecar: Path,
    names: Mapping[Item, str],
    stamps: Mapping[Item, Sequence[object] | None],
    make: Callable[[Item], Sequence[object]],
    is_sound: Callable[[list[Any]], bool],
    *,
    title: str,
    progress: Progress,
) -> tuple[dict[Item, list[Any]], dict[Item, str]]:
    """What ``make`` gives of each item, and why it gives nothing of others: made in parallel, and once a stamp.

    Args:
        sidecar: JSON in which it is kept; a damaged file is as good as none, since all of it can be made again.
        names: under which each item is kept there.
        stamps: what each item was made of; another one makes it anew, and None is not kept.
        make: plain values; an EvalfmError or OSError is why there are none.
        is_sound: whether values that were kept are such as ``make`` gives.
        title: how the work is shown in ``progress``.
        progress: where it is shown.
    """
    try:
        kept = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        kept = {}
    kept = kept if isinstance(kept, dict) else {}
    made: dict[Item, list[Any]] = {}
    failed: dict[Item, str] = {}
    for item, stamp in stamps.items():
        entry = kept.get(names[item])
        if stamp is not None and isinstance(entry, list) and entry[: len(stamp)] == list(stamp):
            values = entry[len(stamp) :]
            if is_sound(values):
                made[item] = values
    wanted = [item for item in stamps if item not in made]

    def attempt(item: Item) -> tuple[Item, list[Any] | None, str]:
        try:
            return item, list(make(item)), ""
        except (EvalfmError, OSError) as error:
            return item, None, str(error)

    if wanted:
        with ThreadPoolExecutor(WORKERS) as pool:
            for item, values_made, reason in progress.track(pool.map(attempt, wanted), title, len(wanted)):
                if values_made is None:
                    failed[item] = reason
                else:
                    made[item] = values_made
        for item, values in made.items():
            if (stamp := stamps[item]) is not None:
                kept[names[item]] = [*stamp, *values]
        write_atomically(sidecar, json.dumps(kept).encode())
    return made, failed


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

    unique = list(dict.fromkeys(locators))
    files = _stamps(unique, root) if stamps is None else stamps

    def digest(locator: str) -> list[str]:
        if headers:
            image_size(locator, root)
        return [image_digest(locator, root)]

    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    made, failed = remember(
        cache_folder() / "digests" / f"{name}.json",
        {locator: locator for locator in unique},
        {locator: files[file_of(locator)] for locator in unique},
        digest,
        lambda values: len(values) == 1,
        title="digests",
        progress=progress,
    )
    return Digests({locator: str(values[0]) for locator, values in made.items()}, failed)


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


@dataclass(frozen=True)
class RowDigests:
    """Digests of rows of a manifest.

    Attributes:
        values: SHA-256 of the stored bytes, uint8 [N, 32]; zeros where there is none.
        present: which rows have one, bool [N].
        failed: why the others have none, by locator.
    """

    values: NDArray[np.uint8]
    present: NDArray[np.bool_]
    failed: dict[str, str]

    def in_hex(self) -> NDArray[np.object_]:
        """As words of 64 letters, [N]."""
        text = self.values.tobytes().hex()
        words = np.empty(len(self.values), dtype=object)
        words[:] = [text[start : start + 2 * BYTES] for start in range(0, len(text), 2 * BYTES)]
        return words

    def perhaps_repeated(self) -> NDArray[np.bool_]:
        """Rows that may have the bytes of another row, bool [N]: all that have, and hardly any else.

        >>> values = np.zeros((3, BYTES), np.uint8)
        >>> values[1] = 7
        >>> RowDigests(values, np.array([True, True, True]), {}).perhaps_repeated().tolist()
        [True, False, True]
        """
        beginning = np.ascontiguousarray(self.values[:, :8]).view(np.uint64)[:, 0]
        _, inverse, times = np.unique(beginning, return_inverse=True, return_counts=True)
        return np.asarray(self.present & (times[inverse] > 1))


class KnownDigests:
    """The digest of every row that was asked for, with size and time of change of its file then: 60 bytes a row.

    It belongs to one table and one root, and knows nothing of either once its rows or files are others. In another
    process it begins empty; there the digests that are remembered on disk are looked up.
    """

    def __init__(self) -> None:
        self._root = ""
        self._locators = np.empty(0, dtype=object)
        self._stamps = np.empty((0, 2), dtype=np.int64)
        self._values = np.empty((0, BYTES), dtype=np.uint8)
        self._present = np.empty(0, dtype=bool)

    def __reduce__(self) -> tuple[type[KnownDigests], tuple[()]]:
        return KnownDigests, ()

    def of(
        self,
        locators: NDArray[np.object_],
        root: Path,
        rows: NDArray[np.intp],
        *,
        headers: bool = False,
        progress: Progress = SILENT,
    ) -> RowDigests:
        """Digests of ``rows``; size and time of change of every file are looked at anew.

        Args:
            locators: of all rows of the table.
            root: under which the files lie.
            rows: positions in the table, [N].
            headers: an image that is read for the first time must have a header that says its size.
            progress: where reading is shown.
        """
        if self._root != str(root) or len(self._locators) != len(locators):
            self._forget(locators, str(root))
        wanted = locators[rows]
        known = self._present[rows] & np.asarray(self._locators[rows] == wanted, dtype=bool)
        stamps = stamps_of(wanted, root)
        known &= (stamps == self._stamps[rows]).all(axis=1)
        failed: dict[str, str] = {}
        if not known.all():
            fresh = rows[~known]
            names = locators[fresh].tolist()
            said = [None if stamp == GONE else stamp for stamp in map(tuple, stamps[~known].tolist())]
            by_file = dict(zip(map(file_of, names), said, strict=True))
            read = image_digests(names, root, headers=headers, stamps=by_file, progress=progress)
            failed = read.failed
            self._locators[fresh] = locators[fresh]
            # Those from before the reading: of a file that changes meanwhile nothing is known.
            self._stamps[fresh] = stamps[~known]
            self._present[fresh] = [name in read.by_locator for name in names]
            whole = "".join(read.by_locator.get(name, "0" * 2 * BYTES) for name in names)
            self._values[fresh] = np.frombuffer(bytes.fromhex(whole), dtype=np.uint8).reshape(-1, BYTES)
        return RowDigests(self._values[rows], self._present[rows], failed)

    def _forget(self, locators: NDArray[np.object_], root: str) -> None:
        self._root, self._locators = root, locators.copy()
        self._stamps = np.full((len(locators), 2), GONE, dtype=np.int64)
        self._values = np.zeros((len(locators), BYTES), dtype=np.uint8)
        self._present = np.zeros(len(locators), dtype=bool)


def stamps_of(locators: NDArray[np.object_], root: Path) -> NDArray[np.int64]:
    """Size and time of change (ns) of the file of each locator, [N, 2]; ``GONE`` where there is none."""
    stamps: list[int] = []
    members: dict[str, Stamp] = {}
    beginning = os.path.join(os.fspath(root), "")
    for locator in locators.tolist():
        if MEMBER_MARK not in locator:
            stamps += stamp_of(beginning + locator) or GONE
            continue
        # Many images may be members of one file.
        name = file_of(locator)
        if name not in members:
            members[name] = stamp_of(beginning + name) or GONE
        stamps += members[name]
    return np.array(stamps, dtype=np.int64).reshape(-1, 2)
