"""Images through an encoder once, into the store alone: for what reads each feature a single time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evalfm.encoders.encoder import Encoder
from evalfm.features.encoded import USUAL_PASSES, EncodedSource
from evalfm.features.segment_format import Layout
from evalfm.features.store import FeatureStore

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest


class StoredSource(EncodedSource):
    """As ``EncodedSource``, but maps go to the store and take no memory."""

    def __init__(self, encoder: Encoder, manifest: Manifest, store: FeatureStore, **options: Any) -> None:
        """``options`` are those of ``EncodedSource`` but ``maps``."""
        super().__init__(encoder, manifest, store, maps="store", **options)

    def expect(self, rows: Sequence[int], *, maps: bool = False, passes: float = USUAL_PASSES) -> None:
        """Take no memory: a map that is read once is not kept."""

    def addresses(self, rows: Sequence[int]) -> list[str]:
        """The address in the store of the image of each row: identical images have one."""
        return self._addresses.of(rows)

    def map_layout(self, rows: Sequence[int]) -> Layout:
        """Shape [C, h, w] and dtype of each map of ``rows`` together: float16, or float32 where one row needs it.

        Raises:
            MissingRowsError: a row is not stored.
        """
        addresses = self._addresses.of(rows)
        return self._destination(addresses, True).cache.maps.layout(addresses)
