"""Which of the stored features of an encoder are used: those of one device and way of computing, or a caution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalfm.cautions import Caution

if TYPE_CHECKING:
    from evalfm.features.store import EncoderCache, FeatureStore


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
