"""Addresses of a manifest's images in the store: the digest of their bytes, with the rule by which pixels are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalfm.features.leases import sharing_of
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest


class Addresses:
    """Address of each row of a manifest; identical images have one. Each file is read for its digest once."""

    def __init__(self, manifest: Manifest, progress: Progress = SILENT) -> None:
        self._manifest = manifest
        self._progress = progress
        self._known: dict[int, str] = {}
        self._rule = reading_rule(manifest)

    def of(self, rows: Sequence[int]) -> list[str]:
        """Of ``rows``, in order."""
        unknown = [row for row in dict.fromkeys(rows) if row not in self._known]
        if unknown:
            digests = self._manifest.digests(unknown, progress=self._progress)
            for row, digest in zip(unknown, digests, strict=True):
                # The same bytes read by another rule are other pixels.
                self._known[row] = combined(digest, self._rule) if self._rule else str(digest)
        return [self._known[row] for row in rows]

    def sharing(self, rows: Sequence[int]) -> list[str]:
        """What decides which of several processes encodes each of ``rows``; see ``sharing_of``."""
        return list(map(sharing_of, self.of(rows), self._manifest.locators(rows)))

    def known(self, row: int) -> str | None:
        """Of ``row``, where it was asked for before."""
        return self._known.get(row)

    def rows(self, rows: Sequence[int]) -> dict[str, int]:
        """The first of ``rows`` at each address."""
        return dict(zip(reversed(self.of(rows)), reversed(rows), strict=True))


def reading_rule(manifest: Manifest) -> str:
    """How the manifest says its pixels are read, where the files do not: part of what the pixels are."""
    bits, unit = manifest.info.bits, manifest.info.unit
    return "" if bits is None and unit is None else f"bits {bits} unit {unit}"


def combined(*parts: str) -> str:
    """One key of several.

    >>> len(combined("key", "bits 12 unit None"))
    64
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
