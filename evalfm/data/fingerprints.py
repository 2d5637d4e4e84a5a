"""What an image looks like in 5 kB, the same after rescaling, recompression, inversion and shifts in intensity.

A fingerprint is a perceptual hash of two fields. The thumbnail holds ranks of 32 × 32 cell means, so that any rising
change of intensity leaves it as it is, an inverted image has its negative, and the correlation of two is Spearman's.
Chests are alike at that size; the detail, ranks of 64 × 64 cell means less their blurred selves, tells ribs from other
ribs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from evalfm.data.atomic import write_atomically
from evalfm.data.digests import WORKERS
from evalfm.data.locators import file_of
from evalfm.data.manifest import Manifest
from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

SIDE = 32
DETAIL = 64
BLUR = 2.0
"""Cells; standard deviation of the blur that the detail is taken from."""

CHUNK = 1000
CONTRACT = 1
"""Raised when fingerprints change, so that stored ones are not mixed with new ones."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of some rows of a manifest.

    Attributes:
        rows: [N] rows that could be decoded, in order.
        thumbs: [N, 1024] uint8, ranks of the cells from 0 to 255.
        details: [N] of int8 [4096], on disk until looked at.
        failed: why the other rows have none.
    """

    rows: NDArray[np.int64]
    thumbs: NDArray[np.uint8]
    details: list[NDArray[np.int8]]
    failed: dict[int, str]


def cells_of(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of [C, H, W] over ``side`` × ``side`` cells and all channels."""
    grey = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).mean(0, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(grey[None], side)[0, 0].numpy()


@dataclass(frozen=True, eq=False)
class Print:
    """Thumbnail [1024] and detail [4096] of one image."""

    thumb: NDArray[np.uint8]
    detail: NDArray[np.int8]


def fingerprint(pixels: NDArray[np.float32]) -> Print:
    """The fingerprint of an image [C, H, W]."""
    ranks = rankdata(cells_of(pixels, SIDE)) - 1
    thumb = np.round(ranks * (255 / (SIDE * SIDE - 1))).astype(np.uint8)
    fine = rankdata(cells_of(pixels, DETAIL)).reshape(DETAIL, DETAIL)
    detail = (fine - gaussian_filter(fine, BLUR)).reshape(-1)
    spread = float(detail.std()) or 1.0
    return Print(thumb, np.clip(np.round(detail * (32 / spread)), -127, 127).astype(np.int8))


def fingerprints(manifest: Manifest, progress: Progress = SILENT) -> Fingerprints:
    """Fingerprints of every image, decoded in threads and kept in the cache, where a killed pass goes on.

    Images that cannot be decoded are passed by and named in ``failed``.
    """
    cache = _PrintCache(manifest.root)
    stamps = {row: _stamp(manifest, row) for row in range(len(manifest))}
    known = cache.read()
    wanted = [row for row, stamp in stamps.items() if stamp is not None and stamp not in known]
    failed = {row: "the file is absent" for row, stamp in stamps.items() if stamp is None}
    shown = iter(progress.track(_made(manifest, wanted, failed), "fingerprints", len(wanted)))
    while chunk := list(islice(shown, CHUNK)):
        made = {stamp: value for row, value in chunk if (stamp := stamps[row]) is not None and value is not None}
        cache.add(made)
        known |= made
    known_rows = [(row, known[stamp]) for row, stamp in stamps.items() if stamp is not None and stamp in known]
    return Fingerprints(
        np.array([row for row, _ in known_rows], dtype=np.int64),
        np.stack([each.thumb for _, each in known_rows]) if known_rows else np.zeros((0, SIDE * SIDE), np.uint8),
        [each.detail for _, each in known_rows],
        dict(sorted(failed.items())),
    )


def _made(manifest: Manifest, rows: Sequence[int], failed: dict[int, str]) -> Iterator[tuple[int, Print | None]]:
    def make(row: int) -> tuple[int, Print | None]:
        try:
            return row, fingerprint(np.asarray(manifest.image(row).pixels))
        except (EvalfmError, OSError) as error:
            failed[row] = str(error)
            return row, None

    with ThreadPoolExecutor(WORKERS) as pool:
        # A few chunks at a time, so that a kill loses little and no queue grows.
        for first in range(0, len(rows), CHUNK):
            yield from pool.map(make, rows[first : first + CHUNK])


def _stamp(manifest: Manifest, row: int) -> str | None:
    """Names what was decoded: locator, size and time of its file, and how the manifest has it read."""
    locator = manifest.locator(row)
    try:
        status = (manifest.root / file_of(locator)).stat()
    except OSError:
        return None
    content = (locator, status.st_size, status.st_mtime_ns, manifest.info.bits, manifest.info.unit)
    return hashlib.sha256(repr(content).encode()).hexdigest()


class _PrintCache:
    """Fingerprints of the images under one root, in files that are only ever added."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(f"{CONTRACT} {root.resolve()}".encode()).hexdigest()[:16]
        self._folder = cache_folder() / "fingerprints" / name

    def read(self) -> dict[str, Print]:
        """What is kept, details left on disk; a damaged file is as good as none."""
        prints: dict[str, Print] = {}
        for path in sorted(self._folder.glob("*.npz")):
            try:
                details = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
                with np.load(path, allow_pickle=False) as held:
                    stamps, thumbs = held["stamps"].tolist(), held["thumbs"]
                prints |= dict(zip(stamps, map(Print, thumbs, details), strict=True))
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                continue
        return prints

    def add(self, made: dict[str, Print]) -> None:
        """Keep a chunk, whole or not at all."""
        if not made:
            return
        name = hashlib.sha256("".join(made).encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        details, rest = io.BytesIO(), io.BytesIO()
        np.save(details, np.stack([each.detail for each in made.values()]))
        np.savez(
            rest,
            stamps=np.array(list(made)),
            thumbs=np.stack([each.thumb for each in made.values()]),
        )
        # The archive goes last: without it the details are not looked at.
        write_atomically(self._folder / f"{name}.npy", details.getvalue())
        write_atomically(self._folder / f"{name}.npz", rest.getvalue())
