"""What each mask is, decoded once and remembered: that it is readable, its pixels, extent and digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalfm.data.columns import MASK_SUFFIX
from evalfm.data.digests import remember, stamp_of
from evalfm.data.locators import file_of
from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest

RULES = 1
"""Raised whenever a mask that was read could be refused, or be read as something else."""


class MaskFact(NamedTuple):
    """One mask on the grid of its image, or several of one image together.

    Attributes:
        digest: SHA-256 of its pixels, packed to bits, in hex.
        pixels: how many hold the finding.
        size: of all pixels.
        first, last: the columns that it touches; -1 where it is empty.
    """

    digest: str
    pixels: int
    size: int
    first: int
    last: int

    @property
    def extent(self) -> int:
        """Columns from the first to the last; 0 for an empty mask."""
        return self.last - self.first + 1 if self.pixels else 0


@dataclass(frozen=True)
class MaskFacts:
    """Facts by row of the manifest, and why other rows have none; rows whose mask is unknown stand in neither."""

    by_row: dict[int, MaskFact]
    failed: dict[int, str]

    def known(self, row: int) -> MaskFact:
        """The facts of ``row``.

        Raises:
            EvalfmError: its mask cannot be read, or is unknown.
        """
        if row in self.failed:
            raise EvalfmError(self.failed[row])
        if row not in self.by_row:
            raise EvalfmError(f"Row {row + 1} has no known mask; leave it out of the cohort.")
        return self.by_row[row]


def mask_facts(
    manifest: Manifest, findings: Sequence[str], rows: Sequence[int], *, progress: Progress = SILENT
) -> MaskFacts:
    """Facts of the masks of ``findings`` together (one, or those that make up one) for ``rows``.

    A mask is decoded where its cell, its file, its image or what dataset.yaml says of masks is not what it was when it
    was decoded last.
    """
    columns = [manifest.table[finding + MASK_SUFFIX].to_numpy(dtype=object) for finding in findings]
    known = [row for row in dict.fromkeys(rows) if all(column[row] is not None for column in columns)]
    root = manifest.root
    said = manifest.info.model_dump(mode="json")
    rules = json.dumps([RULES, {name: said[name] for name in sorted(said) if name.startswith("mask")}])
    files: dict[str, tuple[int, int] | None] = {}

    def stamp(row: int) -> str:
        names = [manifest.locator(row)]
        cells = [str(column[row]) for column in columns]
        dialects = manifest.info.mask_dialects
        names += [cell for finding, cell in zip(findings, cells, strict=True) if dialects.get(finding) == "file"]
        for name in map(file_of, names):
            if name not in files:
                files[name] = stamp_of(root / name)
        content = [rules, cells, [files[file_of(name)] for name in names]]
        return _hash(content)

    def decode(row: int) -> MaskFact:
        masks = [mask for finding in findings if (mask := manifest.mask(row, finding)) is not None]
        return fact_of(np.asarray(np.logical_or.reduce(masks)))

    # Two rows may be of one image, each with a mask of its own.
    ids = manifest.table["id"].to_numpy(dtype=object)
    by_row, failed = remember(
        cache_folder() / "masks" / f"{_hash(str(root))[:16]}.json",
        {row: _hash([*findings, manifest.locator(row), str(ids[row])]) for row in known},
        {row: [stamp(row)] for row in known},
        decode,
        _is_fact,
        title=f"{' and '.join(findings)} masks",
        progress=progress,
    )
    return MaskFacts({row: MaskFact(*values) for row, values in by_row.items()}, failed)


def fact_of(mask: NDArray[np.bool_]) -> MaskFact:
    """The facts of ``mask`` [H, W]."""
    columns = np.flatnonzero(mask.any(axis=0))
    first, last = (int(columns[0]), int(columns[-1])) if columns.size else (-1, -1)
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    return MaskFact(digest, int(mask.sum()), int(mask.size), first, last)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _is_fact(values: list[Any]) -> bool:
    return [type(each) for each in values] == [str, int, int, int, int]
