"""Digests of one manifest's images, known in this process: files are looked at again, and read where they changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalfm.data.digests import Stamp, image_digests
from evalfm.data.locators import MEMBER_MARK, file_of
from evalfm.progress import SILENT, Progress

BYTES = 32
"""Of a digest."""
GONE: Stamp = (-1, -1)
"""Size and time of change of a file that is not there."""


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
            stamps += _stamp(beginning + locator)
            continue
        # Many images may be members of one file.
        name = file_of(locator)
        if name not in members:
            members[name] = _stamp(beginning + name)
        stamps += members[name]
    return np.array(stamps, dtype=np.int64).reshape(-1, 2)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return GONE
    return status.st_size, status.st_mtime_ns
