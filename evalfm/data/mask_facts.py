"""What each mask is, decoded once and remembered: that it is readable, its pixels, extent and digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalfm.data.atomic import write_atomically
from evalfm.data.columns import MASK_SUFFIX
from evalfm.data.digests import WORKERS, stamp_of
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
    sidecar = cache_folder() / "masks" / f"{_hash(str(root))[:16]}.json"
    remembered = _read(sidecar)
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

    def decode(row: int) -> tuple[int, MaskFact | None, str]:
        try:
            masks = [mask for finding in findings if (mask := manifest.mask(row, finding)) is not None]
            return row, fact_of(np.asarray(np.logical_or.reduce(masks))), ""
        except (EvalfmError, OSError) as error:
            return row, None, str(error)

    # Two rows may be of one image, each with a mask of its own.
    ids = manifest.table["id"].to_numpy(dtype=object)
    names = {row: _hash([*findings, manifest.locator(row), str(ids[row])]) for row in known}
    stamps = {row: stamp(row) for row in known}
    by_row, failed = {}, {}
    for row in known:
        entry = remembered.get(names[row])
        if entry is not None and entry[0] == stamps[row]:
            by_row[row] = MaskFact(*entry[1:])
    wanted = [row for row in known if row not in by_row]
    if wanted:
        with ThreadPoolExecutor(WORKERS) as pool:
            decoded = progress.track(pool.map(decode, wanted), f"{' and '.join(findings)} masks", len(wanted))
            for row, fact, reason in decoded:
                if fact is None:
                    failed[row] = reason
                else:
                    by_row[row] = fact
        fresh = {names[row]: [stamps[row], *by_row[row]] for row in wanted if row in by_row}
        write_atomically(sidecar, json.dumps(remembered | fresh).encode())
    return MaskFacts(by_row, failed)


def fact_of(mask: NDArray[np.bool_]) -> MaskFact:
    """The facts of ``mask`` [H, W]."""
    columns = np.flatnonzero(mask.any(axis=0))
    first, last = (int(columns[0]), int(columns[-1])) if columns.size else (-1, -1)
    digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
    return MaskFact(digest, int(mask.sum()), int(mask.size), first, last)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read(sidecar: Path) -> dict[str, list[Any]]:
    """What was remembered; a damaged file is as good as none, since all of it can be computed again."""
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        name: entry
        for name, entry in (content.items() if isinstance(content, dict) else ())
        if isinstance(entry, list)
        and len(entry) == 1 + len(MaskFact._fields)
        and all(isinstance(each, str) for each in entry[:2])
        and all(isinstance(each, int) for each in entry[2:])
    }
