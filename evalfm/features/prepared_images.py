"""Prepared images kept on disk in their stored depth, so that an encoder that runs often decodes each once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from evalfm.encoders.preprocessing import Prepared
from evalfm.errors import EvalfmError
from evalfm.features.readers import PreparedBatch, stacked
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.geometry import Geometry
    from evalfm.features.feature_arrays import FeatureArrays
    from evalfm.features.readers import ImageReader

ATTEMPTS = 3
BATCHES_AHEAD = 2
"""Batches read while one is computed."""


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
        waiting: deque[Future[PreparedBatch]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for rows in parts:
                waiting.append(pool.submit(self._batch, tuple(rows)))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

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

    def _batch(self, rows: tuple[int, ...]) -> PreparedBatch:
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
            return PreparedBatch(rows, stacked(images, pin=self._pin), tuple(geometries))
        raise EvalfmError("The feature store does not keep prepared images; leave --cache-images out.")


def image_bytes(input_size: tuple[int, int]) -> int:
    """Bytes of one prepared image of three channels of 8 bits, more than a grey one of 16.

    >>> image_bytes((224, 224))
    150528
    """
    height, width = input_size
    return 3 * height * width
