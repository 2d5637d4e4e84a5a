"""An encoder at work on a manifest's images: it reads them, or keeps them prepared on disk, and computes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from evalfm.encoders.encoder import Encoder, Features
from evalfm.encoders.preprocessing import Prepared
from evalfm.errors import EvalfmError
from evalfm.features.cost import seconds_per_image
from evalfm.features.extraction_plan import Destination, Item
from evalfm.features.forward import automatic_batch_size, device_of
from evalfm.features.pipeline import ENCODED, BatchReader, Pipeline, Work, extract
from evalfm.features.readers import BATCHES_AHEAD, ImageReader, PreparedBatch, read_ahead, stacked
from evalfm.features.tiers import in_one_dtype
from evalfm.progress import SILENT, Progress
from evalfm.workers.cores import reader_count

if TYPE_CHECKING:
    from evalfm.data.geometry import Geometry
    from evalfm.data.manifest import Manifest
    from evalfm.features.addresses import Addresses
    from evalfm.features.feature_arrays import FeatureArrays
    from evalfm.features.memory import MemoryBudget
    from evalfm.features.profile import StageTimes

TRIED_IMAGES = 2
"""Images that are read to see how long one takes, where none has been encoded yet."""


def encoded_here() -> int:
    """Images that have gone through any encoder in this process, for the store, for memory or to be streamed.

    Read before and after, and added up over processes, it tells whether they encoded each image once.

    >>> encoded_here() >= 0
    True
    """
    return ENCODED.count


class RunningEncoder:
    """Runs an encoder over rows of a manifest; one reader serves all calls and is kept until ``close``.

    Attributes:
        work: batches and images that went through the encoder so far, and the seconds.
        batch_size: images per call.
    """

    def __init__(
        self,
        encoder: Encoder,
        manifest: Manifest,
        addresses: Addresses,
        *,
        batch_size: int | None,
        workers: int | None,
        memory: MemoryBudget,
        times: StageTimes,
        progress: Progress,
    ) -> None:
        self.work = Work()
        self._chosen_batch_size = batch_size
        self._encoder = encoder
        self._manifest = manifest
        self._addresses = addresses
        self._workers = workers
        self._budget = memory
        self._times = times
        self._progress = progress
        self._readers: dict[bool, ImageReader] = {}
        weakref.finalize(self, _close, self._readers)

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        _close(self._readers)

    @cached_property
    def batch_size(self) -> int:
        """Images per call of the encoder; where nobody chose, found when it is first needed."""
        return self._chosen_batch_size or automatic_batch_size(self._encoder)

    @cached_property
    def on_gpu(self) -> bool:
        """Whether what is brought to the encoder's device should be pinned."""
        return device_of(self._encoder).type == "cuda"

    def seconds_per_image(self, *, decoded: bool) -> float:
        """Of an image, as it took so far, else by a trial.

        Args:
            decoded: whether prepared images are kept, so that none is decoded again.
        """
        if self.work.images > 2 * self.batch_size:
            return self.work.seconds / self.work.images
        rows = range(0 if decoded else min(TRIED_IMAGES, len(self._manifest)))
        started = time.perf_counter()
        for row in rows:
            self._encoder.preparer(self._manifest.image(row))
        decoding = (time.perf_counter() - started) / max(1, len(rows)) / reader_count(self._workers)
        # Workers decode while the encoder computes.
        return max(seconds_per_image(self._encoder), decoding)

    def store(
        self, items: Sequence[Item], to: Destination, label: str, images: FeatureArrays | None = None
    ) -> frozenset[str]:
        """Compute features of ``items`` and keep them as ``to`` says.

        Args:
            items: what to encode, each address once.
            to: where features go.
            label: what the bar is called.
            images: where prepared images are kept on disk, if they are.

        Returns:
            Addresses that were left to other processes, which are encoding them.

        Raises:
            EvalfmError: an image cannot be read, features are not finite, or the disk is full.
        """
        done = extract(
            self._pipeline,
            self._source(images),
            items,
            to,
            batch_size=self.batch_size,
            times=self._times,
            label=label,
            progress=self._progress,
        )
        self.work += done.work
        return done.left

    def compute(self, rows: Sequence[int], images: FeatureArrays | None = None) -> Features:
        """Features of ``rows`` with packed maps on the encoder's device; decoded images stay in memory as it goes.

        Raises:
            EvalfmError: an image cannot be read, or features are not finite.
        """
        batches = [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        reader = self._source(images, keep=True)
        started = time.perf_counter()
        parts = list(self._pipeline.encode(reader.batches(batches), maps=True))
        self.work += Work(len(parts), len(rows), time.perf_counter() - started)
        levels = zip(*(part.maps for part in parts), strict=True)
        return Features(torch.cat([part.pooled for part in parts]), tuple(in_one_dtype(level) for level in levels))

    def keep_images(self, rows: Sequence[int], images: FeatureArrays) -> None:
        """Keep prepared images of ``rows`` on disk.

        Raises:
            EvalfmError: an image cannot be read, or the disk is full.
        """
        self._kept(images).keep(rows, self.batch_size, self._progress)

    @cached_property
    def _pipeline(self) -> Pipeline:
        return Pipeline(self._encoder, times=self._times)

    def _source(self, images: FeatureArrays | None, *, keep: bool = False) -> BatchReader:
        return self._reader(keep=keep) if images is None else self._kept(images)

    def _kept(self, images: FeatureArrays) -> PreparedImages:
        return PreparedImages(
            images,
            self._reader(),
            lambda row: self._addresses.of([row])[0],
            self._encoder.geometry_of,
            pin=self.on_gpu,
        )

    def _reader(self, *, keep: bool = False) -> ImageReader:
        """The reader; the first that shall keep images in memory takes the place of one that does not."""
        if True in self._readers:
            return self._readers[True]
        if keep:
            _close(self._readers)
        if keep not in self._readers:
            self._readers[keep] = ImageReader(
                self._encoder.preparer,
                self._manifest,
                workers=self._workers,
                memory=self._budget,
                pin=self.on_gpu,
                keep=keep,
                progress=self._progress,
            )
        return self._readers[keep]


def _close(readers: dict[bool, ImageReader]) -> None:
    while readers:
        readers.popitem()[1].close()


ATTEMPTS = 3


class PreparedImages:
    """Reads batches as an ``ImageReader`` does, from disk where they are kept there; what is missing is kept first."""

    def __init__(
        self,
        stored: FeatureArrays,
        reader: ImageReader,
        address_of: Callable[[int], str],
        geometry_of: Callable[[int, int], Geometry],
        *,
        pin: bool = False,
    ) -> None:
        """``address_of`` gives a row's address, ``geometry_of`` the geometry of an image of a height and width."""
        self._stored, self._reader = stored, reader
        self._address_of, self._geometry_of = address_of, geometry_of
        self._pin = pin

    def batches(self, parts: Iterable[Sequence[int]]) -> Iterator[PreparedBatch]:
        """Prepared images of each of ``parts``, in order.

        Raises:
            EvalfmError: an image cannot be read, or the store does not keep what is written.
        """
        return read_ahead(parts, self._batch, BATCHES_AHEAD)

    def keep(self, rows: Sequence[int], batch_size: int, progress: Progress = SILENT) -> None:
        """Write those of ``rows`` that are not on disk; an image that stands in several rows once.

        Raises:
            EvalfmError: an image cannot be read, or the disk is full.
        """
        by_address = {self._address_of(row): row for row in reversed(rows)}
        lacking = [by_address[address] for address in self._stored.missing(list(by_address)[::-1])]
        if not lacking:
            return
        parts = [lacking[first : first + batch_size] for first in range(0, len(lacking), batch_size)]
        with self._stored.writer() as writer:
            for batch in progress.track(self._reader.batches(parts), "decoding images", len(parts)):
                sizes = [geometry.source for geometry in batch.geometries]
                writer.append([self._address_of(row) for row in batch.rows], sizes, [batch.pixels.numpy()])

    def _batch(self, rows: Sequence[int]) -> PreparedBatch:
        addresses = [self._address_of(row) for row in rows]
        for _ in range(ATTEMPTS):
            self.keep(rows, len(rows))
            try:
                read = [pixels.numpy() for (pixels,) in self._stored.read_each(addresses)]
            except KeyError:  # Damaged: missing from now on.
                continue
            sizes = [self._stored.size(address) for address in addresses]
            geometries = [self._geometry_of(*size) for size in sizes if size is not None]
            images = [Prepared(pixels, geometry, "") for pixels, geometry in zip(read, geometries, strict=True)]
            return PreparedBatch(tuple(rows), stacked(images, pin=self._pin), tuple(geometries))
        raise EvalfmError("The feature store does not keep prepared images; leave --cache-images out.")


def image_bytes(input_size: tuple[int, int]) -> int:
    """Bytes of one prepared image of three channels of 8 bits, more than a grey one of 16.

    >>> image_bytes((224, 224))
    150528
    """
    height, width = input_size
    return 3 * height * width
