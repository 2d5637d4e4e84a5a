"""Images through an encoder as a feature source: stored once, kept in memory, or computed when they are used."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.encoders.encoder import Encoder, Features
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features.addresses import Addresses, combined, reading_rule
from evalfm.features.cost import Cost, measure_cost
from evalfm.features.extraction_plan import Destination, Item, wait_for_others
from evalfm.features.forward import device_of
from evalfm.features.map_costs import POLICIES, MapCosts, MapPolicy
from evalfm.features.memory import MEMORY, MemoryBudget
from evalfm.features.pipeline import as_stored
from evalfm.features.profile import NO_TIMES, READ_MAPS, StageTimes
from evalfm.features.running_encoder import RunningEncoder, image_bytes
from evalfm.features.source import DeclaredByEncoder, map_grids, no_features
from evalfm.features.store import EncoderCache, FeaturePaths, FeatureStore, estimate_bytes
from evalfm.features.tiers import MapMemory, pinned
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest
    from evalfm.features.feature_arrays import FeatureArrays

ATTEMPTS = 3
USUAL_PASSES = 20.0
"""How often maps are read where nobody says: the epochs of the usual schedule."""


class EncodedSource(DeclaredByEncoder):
    """Features of a manifest's images by one encoder; implements ``FeatureSource``.

    Pooled features are always stored. Maps are kept in memory as far as it goes, on the encoder's device or beside the
    processor; below that they are stored on disk (``store``) or computed when they are asked for (``stream``), and
    ``auto`` takes what costs less time, if the store's budget allows the disk. They hold the same values everywhere:
    float16 where it fits.

    A source holds workers and memory until it is closed; it is a context manager.

    Attributes:
        encoder: must not change while the source is used; its key names the stored features.
        times: where seconds per stage are added.
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
        times: StageTimes = NO_TIMES,
        memory: MemoryBudget = MEMORY,
    ) -> None:
        """Nothing is read, computed or written before features are asked for.

        Args:
            encoder: on the device and in the precision it shall run.
            manifest: whose rows are meant.
            store: where features lie.
            maps: ``auto``, ``store`` or ``stream``.
            batch_size: images per call of the encoder; by its input size where None.
            workers: processes that decode images; by default one per core.
            cache_images: keep prepared images on disk, exactly, so that streamed maps decode each image once.
            progress, times: where long work is shown, and seconds per stage are added.
            memory: whose memory maps and images are kept in.

        Raises:
            EvalfmError: ``maps`` or ``batch_size`` is none of those.
        """
        if maps not in POLICIES:
            raise UnknownNameError("way to keep maps", maps, POLICIES)
        if batch_size is not None and batch_size < 1:
            raise EvalfmError(f"The batch size is {batch_size}; it must be 1 or more.")
        self.encoder = encoder
        self.times = times
        self._manifest = manifest
        self._store = store
        self._asked = maps
        self._batch_size = batch_size
        self._workers = workers
        self._cache_images = cache_images
        self._progress = progress
        self._budget = memory
        self._addresses = Addresses(manifest, progress)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._waiting = threading.Condition(self._lock)

    def __enter__(self) -> EncodedSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and give the memory back; what is asked for later takes them again."""
        with self._lock:
            for part in ("_running", "_memory"):
                if part in vars(self):
                    vars(self)[part].close()

    @property
    def encoder_calls(self) -> int:
        """Batches that went through the encoder so far."""
        return self._running.work.calls

    @property
    def encoded_images(self) -> int:
        """Images that went through the encoder so far."""
        return self._running.work.images

    @cached_property
    def cost(self) -> Cost:
        """What one image costs the encoder, measured once."""
        return measure_cost(self.encoder)

    def like(
        self, encoder: Encoder | None = None, manifest: Manifest | None = None, store: FeatureStore | None = None
    ) -> EncodedSource:
        """The same with another encoder, other images or another store, kept in the same way."""
        return EncodedSource(
            encoder or self.encoder,
            self._manifest if manifest is None else manifest,
            store or self._store,
            maps=self._asked,
            batch_size=self._batch_size,
            workers=self._workers,
            cache_images=self._cache_images,
            progress=self._progress,
            times=self.times,
            memory=self._budget,
        )

    @cached_property
    def key(self) -> str:
        """The encoder's key; with how pixels are read, where the manifest says so itself."""
        rule = reading_rule(self._manifest)
        return combined(self.encoder.key, rule) if rule else self.encoder.key

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What a run must say of where the features come from; known once they were asked for."""
        return self._paths.cautions

    @property
    def maps_policy(self) -> str:
        """``store`` or ``stream``: what becomes of maps that memory does not hold, decided once.

        Without a word from ``expect``, ``auto`` decides for the maps of the whole manifest.
        """
        if self._policy.decided is None:
            self._decide(self._addresses.of(range(len(self._manifest))), USUAL_PASSES)
        assert self._policy.decided is not None
        return self._policy.decided

    @property
    def feature_path(self) -> str:
        """Name of the path (precision, compilation, device class) of the features that are used."""
        return self._paths.used

    @property
    def batch_size(self) -> int | None:
        """Images per call of the encoder; None where it was not called, because all features were stored."""
        return self._running.batch_size if self.encoder_calls else None

    @property
    def map_costs(self) -> MapCosts | None:
        """What decided how maps are kept, where their cost was measured."""
        return self._policy.costs

    def expect(self, rows: Sequence[int], *, maps: bool = False, passes: float = USUAL_PASSES) -> None:
        """Say which rows will be used, and how often their maps will be read.

        Takes memory for the maps and decides how those that it does not hold are kept.
        """
        if maps and self.map_channels and rows:
            addresses = self._addresses.of(rows)
            with self._lock:
                self._memory.make_room(addresses)
                if self._policy.decided is None:
                    self._decide(addresses, passes)

    def features(self, rows: Sequence[int], *, maps: bool = False) -> Features:
        """Pooled float32 [N, D] on the CPU and, if asked, maps of ``rows`` in order; a row may come twice.

        Maps are float16, or float32 where an image does not fit it, on the device that keeps or computes them. What is
        not kept is computed first.

        Raises:
            EvalfmError: an image cannot be read, the store cannot be written, or there are no maps.
        """
        if maps and not self.map_channels:
            raise EvalfmError(f"{self.name} has no spatial maps; choose an encoder that has them for this head.")
        if not rows:
            return no_features(self, maps=maps)
        addresses = self._addresses.of(rows)
        if not maps:
            return Features(self._pooled(rows))
        if not self._memory.holds(addresses):
            with self._lock:
                return self._with_maps(rows, addresses)
        with self.times.stage(READ_MAPS):
            return self._memory.gather(addresses)

    def holds(self, rows: Sequence[int]) -> bool:
        """Whether memory has room for the maps of all ``rows``, which ``expect`` asks for."""
        return bool(self.map_channels) and self._memory.has_room(self._addresses.of(rows))

    def missing(self, rows: Sequence[int], *, maps: bool = False) -> int:
        """How many of ``rows`` are still to be encoded before ``prefetch`` has done its work."""
        addresses = self._addresses.of(rows)
        return len(self._destination(addresses, maps and bool(self.map_channels)).wanted(addresses))

    def prefetch(self, rows: Sequence[int], *, maps: bool = False) -> None:
        """Compute and keep ahead what ``features`` of ``rows`` will need.

        Where maps are neither stored nor fit the memory, that is the pooled features, and prepared images if they are
        kept on disk.

        Raises:
            EvalfmError: as ``features``.
        """
        if not rows:
            return
        maps = maps and bool(self.map_channels)
        with self._lock:
            self.expect(rows, maps=maps)
            self._ensure(rows, maps)
            if maps and self._images is not None:
                images = len(self._images.missing(self._addresses.of(rows)))
                nbytes = images * image_bytes(self.input_size)
                self._check_space(f"Prepared images of {images:,} rows", nbytes, "leave --cache-images out")
                self._running.keep_images(rows, self._images)

    def geometry(self, row: int) -> Geometry:
        """How the image of ``row`` lies in the encoder's input."""
        if row not in self._sizes:
            address = self._addresses.known(row)
            stored = None if address is None else self._paths.own.pooled.size(address)
            self._sizes[row] = stored or self._manifest.size(row)
        return self.encoder.geometry_of(*self._sizes[row])

    # Parts that are made when they are first needed

    @cached_property
    def _paths(self) -> FeaturePaths:
        return FeaturePaths(self._store, self.encoder.key, self.encoder.feature_path.name)

    @cached_property
    def _policy(self) -> MapPolicy:
        return MapPolicy(self._asked, self._store, self._map_bytes)

    @cached_property
    def _running(self) -> RunningEncoder:
        return RunningEncoder(
            self.encoder,
            self._manifest,
            self._addresses,
            batch_size=self._batch_size,
            workers=self._workers,
            memory=self._budget,
            times=self.times,
            progress=self._progress,
        )

    @cached_property
    def _memory(self) -> MapMemory:
        grids = map_grids(self)
        shapes = [(channels, *grid) for channels, grid in zip(self.map_channels, grids, strict=True)]
        return MapMemory(self.pooled_dim, shapes, device_of(self.encoder), self._budget)

    @property
    def _images(self) -> FeatureArrays | None:
        """Where prepared images are kept on disk, if they are: where maps are computed when they are used."""
        return self._paths.own.images if self._cache_images and self.maps_policy == "stream" else None

    @cached_property
    def _map_bytes(self) -> int:
        return estimate_bytes(self, 1) - estimate_bytes(self, 1, maps=False)

    def _destination(self, addresses: Sequence[str], maps: bool) -> Destination:
        stored = maps and self.maps_policy == "store"
        cache = self._paths.choose(addresses, maps=stored, computed=maps and not stored)
        return Destination(cache, stored, self._memory if maps else None)

    def _ensure(self, rows: Sequence[int], maps: bool) -> EncoderCache:
        """Extract what is missing of ``rows``, and say where it is now; what others encode meanwhile is waited for.

        While it waits, other threads have the lock, however often this one holds it.
        """
        addresses = self._addresses.of(rows)
        by_address = self._addresses.rows(rows)
        left: frozenset[str] | None = None
        failed, told = 0, False

        def waits(images: int) -> None:
            nonlocal told
            if not told:
                self._progress.say(f"{self.name}: waiting for {images:,} images that another process encodes.")
            told = True

        while True:
            to = self._destination(addresses, maps)
            lacking = to.wanted(addresses)
            if not lacking:
                return to.cache
            failed += left is not None and not left.issuperset(lacking)
            if failed == ATTEMPTS:
                raise self._not_kept()
            if to.store_maps:
                images = len(to.cache.maps.missing(addresses))
                remedy = "compute them on the fly with --maps stream"
                self._check_space(f"Maps of {images:,} images", images * self._map_bytes, remedy)
            chosen = [by_address[address] for address in lacking]
            items = list(map(Item, lacking, chosen, self._addresses.sharing(chosen)))
            label = f"{self.name}: {'maps' if maps else 'features'} of {len(lacking):,} images"
            left = self._running.store(items, to, label, self._images if maps else None)
            if left:
                wait_for_others([item for item in items if item.address in left], to, self._waiting.wait, waits)

    def _not_kept(self) -> EvalfmError:
        return EvalfmError(
            f"The feature store {self._store.folder} does not keep what is written; put it on another disk."
        )

    def _pooled(self, rows: Sequence[int]) -> Tensor:
        for _ in range(ATTEMPTS):
            with self._lock:
                cache = self._ensure(rows, False)
            # A damaged row is missing from now on, which a warning has said.
            with contextlib.suppress(KeyError):
                (pooled,) = cache.pooled.read(self._addresses.of(rows))
                return pooled
        raise self._not_kept()

    def _check_space(self, what: str, nbytes: int, remedy: str) -> None:
        free = self._store.free_bytes
        if nbytes > free:
            raise EvalfmError(
                f"{what} by {self.name} need {nbytes / 1e9:.1f} GB and the feature store's disk has "
                f"{free / 1e9:.1f} GB free; {remedy}."
            )

    def _decide(self, addresses: Sequence[str], passes: float) -> None:
        """Whether maps that memory does not hold are stored."""
        unique = list(dict.fromkeys(addresses))
        self._policy.decide(
            len(unique),
            lambda: self._paths.missing_maps(unique),
            passes=passes,
            held=self._memory.has_room(unique),
            recompute=lambda: self._running.seconds_per_image(decoded=self._cache_images),
        )

    def _with_maps(self, rows: Sequence[int], addresses: Sequence[str]) -> Features:
        """Rows of which memory does not hold all: those it lacks are read or computed, and kept where there is room."""
        stored = self.maps_policy == "store"
        if stored:
            self._ensure(rows, True)
        lacking, by_address = self._memory.lacking(addresses), self._addresses.rows(rows)
        if lacking:
            wanted = [by_address[address] for address in lacking]
            fresh = self._stored(wanted, lacking) if stored else self._computed(wanted, lacking)
            self._memory.put(lacking, fresh.pooled, fresh.maps)
        if self._memory.holds(addresses):
            return self._memory.gather(addresses)
        return self._memory.gather_beside(addresses, lacking, fresh)

    def _stored(self, rows: Sequence[int], addresses: Sequence[str]) -> Features:
        """From disk, extracted anew where a row turns out damaged; pinned where they go to a GPU."""
        for _ in range(ATTEMPTS):
            cache = self._ensure(rows, True)
            # A damaged row is missing from now on, which a warning has said.
            with self.times.stage(READ_MAPS), contextlib.suppress(KeyError):
                (pooled,) = cache.pooled.read(addresses)
                out = pinned(len(addresses), cache.maps.layout(addresses)) if self._running.on_gpu else None
                return Features(pooled, cache.maps.read(addresses, out))
        raise self._not_kept()

    def _computed(self, rows: Sequence[int], addresses: Sequence[str]) -> Features:
        """Through the encoder, on its device; pooled features as they are stored, where they are."""
        features, stored = self._running.compute(rows, self._images), self._destination(addresses, True).cache.pooled
        return replace(features, pooled=as_stored(features.pooled, addresses, stored))
