"""The feature store: rows of arrays on disk, addressed by the encoder's key and the image's digest."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from evalfm.features.feature_arrays import FeatureArrays
from evalfm.features.leases import LeaseFolder
from evalfm.features.source import FeatureSource, map_grids

LARGEST_BUDGET = 20_000_000_000
SHARE_OF_DISK = 0.1
FORMAT = "2"
"""Of the files below a key; features of another format are left alone and not read."""
OLD_FORMAT = "1"
LIBRARIES = ("evalfm", "torch", "timm", "transformers", "open_clip_torch", "numpy")
KINDS = ("pooled", "maps", "images")
LEASES = "leases"
"""A folder beside the kinds, as long as somebody extracts."""


class FeatureStore:
    """A folder of features, shared by runs and processes: ``<folder>/<key>/<format>/<path>/<kind>/<segment>``.

    >>> import tempfile, numpy as np
    >>> store = FeatureStore(tempfile.mkdtemp(), budget_bytes=1_000_000)
    >>> with store.cache("a" * 64).maps.writer() as writer:
    ...     writer.append(["0" * 64], [(512, 512)], [np.ones((1, 8, 4, 4), np.float32)])
    >>> store.cache("a" * 64).maps.read(["0" * 64])[0].dtype, store.paths("a" * 64)
    (torch.float16, ('float32-cpu',))
    """

    def __init__(self, folder: Path | str, budget_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self._budget_bytes = budget_bytes

    @property
    def budget_bytes(self) -> int:
        """Bytes that maps of all encoders together may take before they are computed on the fly."""
        return default_budget(self.folder) if self._budget_bytes is None else self._budget_bytes

    @property
    def map_bytes(self) -> int:
        """How many bytes stored maps of all encoders take now."""
        return _stored_bytes(self.folder)

    @property
    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the store."""
        return shutil.disk_usage(_existing(self.folder)).free

    def cache(self, key: str, path: str = "float32-cpu") -> EncoderCache:
        """Features of the encoder with ``key``, computed in the way ``path``; nothing is read or made yet.

        Features of two ways (precision, compilation, device class) lie apart and are never mixed.
        """
        _say_old_format(self.folder)
        folder = self._encoder_folder(key) / _file_name(path)
        facts = {"format": FORMAT, "path": path, "versions": _versions()}
        pooled, maps, images = (FeatureArrays(folder / kind, half=kind == "maps", facts=facts) for kind in KINDS)
        return EncoderCache(pooled, maps, images, LeaseFolder(folder / LEASES))

    def paths(self, key: str) -> tuple[str, ...]:
        """The ways in which features of the encoder with ``key`` were computed that are stored, by name."""
        folder = self._encoder_folder(key)
        return tuple(
            name for name in _names(folder) if any(FeatureArrays(folder / name / kind).any() for kind in KINDS)
        )

    def _encoder_folder(self, key: str) -> Path:
        # 128 bits of a digest tell any two encoders apart; other keys are hashed to be fit for a file name.
        name = key if re.fullmatch(r"[0-9a-f]{32,}", key) else hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:32] / FORMAT


@dataclass(frozen=True)
class EncoderCache:
    """What is stored of one encoder; the kinds lie apart, so that asking for one never touches another.

    Attributes:
        pooled: one float32 array [D] a row.
        maps: one array [C, h, w] a row and layer; float16 where it holds the values.
        images: the image on the encoder's input grid, one array [1 or 3, h, w] a row in its stored depth.
        leases: who of several processes encodes which images.
    """

    pooled: FeatureArrays
    maps: FeatureArrays
    images: FeatureArrays
    leases: LeaseFolder


def old_format_folders(folder: Path) -> int:
    """How many encoders have features of the format before, which are not read any more.

    ``rm -r FOLDER/*/1`` removes them.
    """
    return sum((folder / name / OLD_FORMAT).is_dir() for name in _names(folder))


def default_budget(folder: Path) -> int:
    """Bytes that maps may take: 20 GB, or if less 10 % of what would be free on the disk without them."""
    free = shutil.disk_usage(_existing(folder)).free
    return min(LARGEST_BUDGET, int(SHARE_OF_DISK * (free + _stored_bytes(folder))))


def estimate_bytes(source: FeatureSource, n: int, *, maps: bool = True) -> int:
    """Bytes that features of ``n`` images take on disk: pooled as float32, ``maps`` as float16."""
    values = 0
    if maps:
        for channels, (height, width) in zip(source.map_channels, map_grids(source), strict=True):
            values += channels * height * width
    return n * (4 * source.pooled_dim + 2 * values)


def _stored_bytes(folder: Path) -> int:
    """Bytes of all stored maps: a file or two for gigabytes, so that nothing is listed that could be long."""
    total = 0
    for key in _names(folder):
        for path in _names(folder / key / FORMAT):
            for file in _entries(folder / key / FORMAT / path / "maps"):
                try:
                    total += file.stat().st_size
                except FileNotFoundError:  # removed by another process meanwhile
                    continue
    return total


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder))


def _file_name(path: str) -> str:
    return path if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+.-]{,60}", path) else hashlib.sha256(path.encode()).hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of the libraries that compute features, where they are installed."""
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


_said: set[Path] = set()


def _say_old_format(folder: Path) -> None:
    """Say once in a process that features of the format before take room for nothing."""
    if folder in _said:
        return
    _said.add(folder)
    if count := old_format_folders(folder):
        warnings.warn(
            f"The feature store {folder} holds features of {count:,} encoder{'s' * (count > 1)} in an older format, "
            f"which are not read any more; `rm -r {folder}/*/{OLD_FORMAT}` frees their disk.",
            stacklevel=3,
        )


def _existing(folder: Path) -> Path:
    """``folder`` or the nearest parent that is there."""
    return next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
