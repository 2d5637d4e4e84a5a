"""Images through an encoder as a feature source: stored once, or maps computed on the fly."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features.cost import Cost, measure_cost
from evalfm.features.extraction import Decoder, Item, Work, extract, extract_films, film_bytes
from evalfm.features.feature_arrays import FeatureArrays, MissingRowsError
from evalfm.features.films import FilmMemory
from evalfm.features.forward import Forward, automatic_batch_size, device_of
from evalfm.features.packing import pack
from evalfm.features.store import EncoderCache, FeatureStore, estimate_bytes, map_grids
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest

POLICIES = ("auto", "store", "stream")
FILM_MEMORY_BYTES = 500_000_000
ATTEMPTS = 3
GIGABYTE = 1e9


class EncodedSource:
    """Features of a manifest's images by one encoder; implements ``FeatureSource``.

    Pooled features are always stored. Maps are stored too (``store``), computed whenever they are asked for
    (``stream``), or stored if those of the whole manifest fit the store's budget (``auto``). Either way they
    hold the same values: float16 where it fits.

    Attributes:
        encoder: must not change while the source is used; its key names the stored features.
        encoder_calls: batches that went through the encoder so far; ``encoded_images`` counts the images.
    """

    def __init__(
        self,
        encoder: Encoder,
        manifest: Manifest,
        store: FeatureStore,
        *,
        maps: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        cache_images: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        """Nothing is read, computed or written before features are asked for.

        Args:
            encoder: on the device and in the precision it shall run.
            manifest: whose rows are meant.
            store: where features lie.
            maps: ``auto``, ``store`` or ``stream``.
            batch_size: images per call of the encoder; by its input size where None.
            workers: processes that decode images; by default one per core.
            cache_images: keep prepared films on disk, exactly, so that streamed maps decode each film once.
            progress: where long work is shown.

        Raises:
            EvalfmError: ``maps`` or ``batch_size`` is none of those.
        """
        if maps not in POLICIES:
            raise UnknownNameError("way to keep maps", maps, POLICIES)
        if batch_size is not None and batch_size < 1:
            raise EvalfmError(f"The batch size is {batch_size}; it must be 1 or more.")
        self.encoder = encoder
        self.encoder_calls = 0
        self._forward = Forward(encoder)
        self.encoded_images = 0
        self._manifest = manifest
        self._store = store
        self._maps = maps
        self._batch_size = batch_size or automatic_batch_size(encoder)
        self._workers = workers
        self._cache_images = cache_images
        self._progress = progress
        self._addresses: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._memory = FilmMemory(FILM_MEMORY_BYTES)

    @cached_property
    def cost(self) -> Cost:
        """What one image costs the encoder, measured once."""
        return measure_cost(self.encoder)

    def of(self, encoder: Encoder) -> EncodedSource:
        """The same images by another encoder, kept in the same store and way."""
        return self._like(encoder, self._manifest, self._store)

    def over(self, manifest: Manifest, store: FeatureStore) -> EncodedSource:
        """Other images by the same encoder, kept in another store in the same way."""
        return self._like(self.encoder, manifest, store)

    def _like(self, encoder: Encoder, manifest: Manifest, store: FeatureStore) -> EncodedSource:
        return EncodedSource(
            encoder,
            manifest,
            store,
            maps=self._maps,
            batch_size=self._batch_size,
            workers=self._workers,
            cache_images=self._cache_images,
            progress=self._progress,
        )

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self.encoder.card.name

    @cached_property
    def key(self) -> str:
        """The encoder's key; with how pixels are read, where the manifest says so itself."""
        rule = _reading_rule(self._manifest)
        return _hash(self.encoder.key, rule) if rule else self.encoder.key

    @property
    def pooled_dim(self) -> int:
        """Dimension of the pooled embedding."""
        return self.encoder.pooled_dim

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map, shallow to deep."""
        return self.encoder.map_channels

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map."""
        return self.encoder.map_strides

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the encoder's input."""
        return self.encoder.input_size

    @cached_property
    def maps_policy(self) -> str:
        """``store`` or ``stream``: what becomes of maps, decided once.

        ``auto`` stores them if maps of the whole manifest fit the store's budget beside those of other
        encoders, or are stored already.
        """
        if self._maps != "auto":
            return self._maps
        left = self._store.budget_bytes - self._store.map_bytes
        if self._map_bytes * len(self._manifest) <= left:
            return "store"
        lacking = self._cache.maps.missing(self._addresses_of(range(len(self._manifest))))
        return "store" if self._map_bytes * len(lacking) <= max(left, 0) else "stream"

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] and, if asked, float32 maps of ``rows`` in order; a row may come twice.

        What is not stored is computed first. Streamed maps stay on the encoder's device, all else on the CPU.

        Raises:
            EvalfmError: an image cannot be read, the store cannot be written, or there are no maps.
        """
        if maps and not self.map_channels:
            raise EvalfmError(f"{self.name} has no spatial maps; choose an encoder that has them for this head.")
        if not rows:
            return self._nothing(maps)
        if maps and self.maps_policy == "stream":
            return self._streamed(rows)
        addresses = self._addresses_of(rows)
        for _ in range(ATTEMPTS):
            self._ensure(rows, maps)
            # What turns out to be damaged is missing from then on.
            with contextlib.suppress(MissingRowsError):
                (pooled,) = self._cache.pooled.read(addresses)
                layers = self._cache.maps.read(addresses) if maps else ()
                return Features(pooled, tuple(layer.float() for layer in layers))
        raise self._forgetful()

    def missing(self, rows: Sequence[int], *, maps: bool = False) -> int:
        """How many of ``rows`` are still to be encoded before ``prefetch`` has done its work."""
        addresses = self._addresses_of(rows)
        lacking = set(self._cache.pooled.missing(addresses))
        if maps and self.map_channels and self.maps_policy == "store":
            lacking |= set(self._cache.maps.missing(addresses))
        return len(lacking)

    def prefetch(self, rows: Sequence[int], *, maps: bool = False) -> None:
        """Compute and store ahead what ``features`` of ``rows`` will need.

        Where maps are streamed that is the pooled features, and prepared films if they are cached on disk.

        Raises:
            EvalfmError: as ``features``.
        """
        streamed = maps and bool(self.map_channels) and self.maps_policy == "stream"
        self._ensure(rows, maps and bool(self.map_channels) and not streamed)
        if streamed and self._cache_images:
            self._ensure_films(self._addresses_of(rows), self._rows_by_address(rows))

    def geometry(self, row: int) -> Geometry:
        """How the film of ``row`` lies in the encoder's input."""
        if row not in self._sizes:
            address = self._addresses.get(row)
            stored = None if address is None else self._cache.pooled.size(address)
            self._sizes[row] = stored or self._manifest.size(row)
        return self.encoder.geometry_of(*self._sizes[row])

    # Storing

    @cached_property
    def _cache(self) -> EncoderCache:
        return self._store.cache(self.encoder.key)

    @cached_property
    def _map_bytes(self) -> int:
        return estimate_bytes(self, 1) - estimate_bytes(self, 1, maps=False)

    def _addresses_of(self, rows: Sequence[int]) -> list[str]:
        unknown = [row for row in dict.fromkeys(rows) if row not in self._addresses]
        if unknown:
            rule = _reading_rule(self._manifest)
            digests = self._manifest.digests(unknown, progress=self._progress)
            for row, digest in zip(unknown, digests, strict=True):
                # The same bytes read by another rule are other pixels.
                self._addresses[row] = _hash(digest, rule) if rule else str(digest)
        return [self._addresses[row] for row in rows]

    def _rows_by_address(self, rows: Sequence[int]) -> dict[str, int]:
        return dict(zip(reversed(self._addresses_of(rows)), reversed(rows), strict=True))

    def _ensure(self, rows: Sequence[int], maps: bool) -> None:
        """Extract what is missing of ``rows``; again where a chunk turns out damaged meanwhile."""
        addresses = self._addresses_of(rows)
        by_address = self._rows_by_address(rows)
        for _ in range(ATTEMPTS):
            lacking_maps = self._cache.maps.missing(addresses) if maps else []
            self._check_space(len(lacking_maps))
            self._extract([Item(address, by_address[address]) for address in lacking_maps], True)
            lacking_pooled = self._cache.pooled.missing(addresses)
            self._extract([Item(address, by_address[address]) for address in lacking_pooled], False)
            if not lacking_maps and not lacking_pooled:
                return
        raise self._forgetful()

    def _forgetful(self) -> EvalfmError:
        return EvalfmError(
            f"The feature store {self._store.folder} does not keep what is written; put it on another disk."
        )

    def _extract(self, items: Sequence[Item], maps: bool) -> None:
        if not items:
            return
        work = extract(
            self.encoder,
            items,
            self._manifest.image,
            self._cache,
            maps=maps,
            batch_size=self._batch_size,
            map_bytes=self._map_bytes,
            workers=self._workers,
            label=f"{self.name}: {'maps' if maps else 'features'} of {len(items):,} images",
            progress=self._progress,
        )
        self._count(work)

    def _count(self, work: Work) -> None:
        self.encoder_calls += work.calls
        self.encoded_images += work.images

    def _check_space(self, images: int) -> None:
        needed, free = images * self._map_bytes, self._store.free_bytes
        if needed > free:
            raise EvalfmError(
                f"Maps of {images:,} images by {self.name} need {needed / GIGABYTE:.1f} GB and the feature "
                f"store's disk has {free / GIGABYTE:.1f} GB free; compute them on the fly with --maps stream."
            )

    def _nothing(self, maps: bool) -> Features:
        grids = zip(self.map_channels, map_grids(self), strict=True) if maps else ()
        return Features(
            torch.zeros(0, self.pooled_dim),
            tuple(torch.zeros(0, channels, *grid) for channels, grid in grids),
        )

    # Computing on the fly

    def _streamed(self, rows: Sequence[int]) -> Features:
        by_address = self._rows_by_address(rows)
        addresses = list(by_address)[::-1]
        position = {address: number for number, address in enumerate(addresses)}
        order = torch.tensor([position[address] for address in self._addresses_of(rows)])
        device = device_of(self.encoder)
        parts = []
        for films in self._films(addresses, by_address):
            parts.append(self._forward(films))
            self._count(Work(1, len(films)))
        pooled = torch.cat([part.pooled.float().cpu() for part in parts])[order]
        with contextlib.suppress(MissingRowsError):
            (pooled,) = self._cache.pooled.read(self._addresses_of(rows))
        layers = zip(*(part.maps for part in parts), strict=True)
        return Features(
            pooled,
            tuple(torch.cat([pack(part).float() for part in layer])[order.to(device)] for layer in layers),
        )

    def _films(self, addresses: Sequence[str], by_address: dict[str, int]) -> Iterator[Tensor]:
        """Prepared films of ``addresses`` in batches: from memory, from disk, else decoded."""
        if self._cache_images:
            self._ensure_films(addresses, by_address)
        for first in range(0, len(addresses), self._batch_size):
            part = addresses[first : first + self._batch_size]
            found = {address: self._memory.get(address) for address in part}
            absent = [address for address, film in found.items() if film is None]
            for address, film in zip(absent, self._read_films(absent, by_address), strict=True):
                found[address] = film
                self._memory.put(address, film)
            yield torch.stack([film for film in found.values() if film is not None])

    def _read_films(self, addresses: Sequence[str], by_address: dict[str, int]) -> Sequence[Tensor]:
        if not addresses:
            return ()
        if self._cache_images:
            return tuple(film for (film,) in self._cache.images.read_each(addresses))
        items = tuple(Item(address, by_address[address]) for address in addresses)
        with Decoder(self.encoder, self._manifest.image, self._workers) as decoder:
            ((_, batch),) = decoder.batches([(items, items)])
        return tuple(film.clone() for film in batch.tensor)

    def _ensure_films(self, addresses: Sequence[str], by_address: dict[str, int]) -> None:
        films: FeatureArrays = self._cache.images
        lacking = films.missing(addresses)
        needed, free = len(lacking) * film_bytes(self.encoder), self._store.free_bytes
        if needed > free:
            raise EvalfmError(
                f"Prepared films of {len(lacking):,} images need {needed / GIGABYTE:.1f} GB and the feature "
                f"store's disk has {free / GIGABYTE:.1f} GB free; leave --cache-images out."
            )
        if lacking:
            extract_films(
                self.encoder,
                [Item(address, by_address[address]) for address in lacking],
                self._manifest.image,
                films,
                batch_size=self._batch_size,
                workers=self._workers,
                progress=self._progress,
            )


def _reading_rule(manifest: Manifest) -> str:
    """How the manifest says its pixels are read, where the files do not: part of what the pixels are."""
    bits, unit = manifest.info.bits, manifest.info.unit
    return "" if bits is None and unit is None else f"bits {bits} unit {unit}"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
