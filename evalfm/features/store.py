"""The feature store: rows of arrays on disk, by the encoder's key and the image's digest, and which are used."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from evalfm.cautions import Caution
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
        """Bytes that maps of all encoders together may take before they are computed on the fly.

        By default 20 GB, or if less 10 % of what would be free on the disk without them.
        """
        if self._budget_bytes is not None:
            return self._budget_bytes
        return min(LARGEST_BUDGET, int(SHARE_OF_DISK * (self.free_bytes + self.map_bytes)))

    @property
    def map_bytes(self) -> int:
        """How many bytes stored maps of all encoders take now."""
        total = 0
        # A file or two for gigabytes, so that nothing is listed that could be long.
        for key in _names(self.folder):
            for path in _names(self.folder / key / FORMAT):
                for file in _entries(self.folder / key / FORMAT / path / "maps"):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process meanwhile
                        total += file.stat().st_size
        return total

    @property
    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the store."""
        folder = self.folder.absolute()
        return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

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


def estimate_bytes(source: FeatureSource, n: int, *, maps: bool = True) -> int:
    """Bytes that features of ``n`` images take on disk: pooled as float32, ``maps`` as float16."""
    values = 0
    if maps:
        for channels, (height, width) in zip(source.map_channels, map_grids(source), strict=True):
            values += channels * height * width
    return n * (4 * source.pooled_dim + 2 * values)


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


class FeaturePaths:
    """The stored features of one encoder, by the path on which they were computed (``FeaturePath.name``).

    The encoder's own path is used, and computed where rows are missing. Another path of the same precision, such as
    that of a GPU, is used in its place where it holds everything that is asked for and the own one does not; a caution
    says so. Should it later lack something, the own path is used from then on, and another caution says that.

    Attributes:
        cautions: what a run must say of the paths.
    """

    def __init__(self, store: FeatureStore, key: str, own: str) -> None:
        """``key`` is the encoder's, ``own`` the name of the path on which it computes."""
        self._store, self._key, self._own = store, key, own
        self._name: str | None = None
        self._caches: dict[str, EncoderCache] = {}
        self.cautions: tuple[Caution, ...] = ()

    def choose(self, addresses: Sequence[str], *, maps: bool = False, computed: bool = False) -> EncoderCache:
        """What is stored on the path that is used for ``addresses``.

        Args:
            addresses: of the images that are asked for.
            maps: whether their stored maps are.
            computed: whether features of them are computed in any case, so that only the own path will do.
        """

        def whole(name: str) -> bool:
            cache = self._cache(name)
            return not cache.pooled.missing(addresses) and not (maps and cache.maps.missing(addresses))

        if self._name is None:
            self._name = self._own
            if not computed and not whole(self._own):
                others = (each for each in self._store.paths(self._key) if self._is_like_own(each) and whole(each))
                self._name = next(others, self._own)
            if self._name != self._own:
                self._add(
                    f"Features were not computed here: stored ones of {self._name} were used in place of {self._own}."
                )
        elif self._name != self._own and (computed or not whole(self._name)):
            self._add(
                f"Features of two paths were used: {self._name} at first and {self._own} from where it held no more."
            )
            self._name = self._own
        return self._cache(self._name)

    def missing_maps(self, addresses: Sequence[str]) -> int:
        """Of how many of ``addresses`` the path that holds most has no maps."""
        names = [self._own, *filter(self._is_like_own, self._store.paths(self._key))]
        return min(len(self._cache(name).maps.missing(addresses)) for name in names)

    @property
    def used(self) -> str:
        """Name of the path that is used; the encoder's own until features were asked for."""
        return self._name or self._own

    @property
    def own(self) -> EncoderCache:
        """What is stored on the encoder's own path."""
        return self._cache(self._own)

    def _cache(self, name: str) -> EncoderCache:
        if name not in self._caches:
            self._caches[name] = self._store.cache(self._key, name)
        return self._caches[name]

    def _is_like_own(self, name: str) -> bool:
        """Whether ``name`` is another path of the same precision, on another device or compiled where ours is not."""
        return name != self._own and _precision(name) == _precision(self._own)

    def _add(self, sentence: str) -> None:
        self.cautions = (*self.cautions, Caution("feature-path", sentence))


def _precision(path: str) -> str:
    """The precision in a path's name, such as ``bfloat16-autocast`` in ``bfloat16-autocast-compiled-cuda``."""
    *words, _ = path.split("-")
    return "-".join(word for word in words if word != "compiled")
