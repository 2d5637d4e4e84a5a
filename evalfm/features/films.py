"""Prepared films kept in memory up to a limit, the least recently used leave first."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class FilmMemory:
    """Prepared films [C, h, w] by address, at most ``limit_bytes`` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._films: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, address: str) -> Tensor | None:
        """The film at ``address``, or None where it is not kept."""
        film = self._films.get(address)
        if film is not None:
            self._films.move_to_end(address)
        return film

    def put(self, address: str, film: Tensor) -> None:
        """Keep ``film``, unless it alone is over the limit."""
        if film.nbytes > self._limit_bytes or address in self._films:
            return
        self._films[address] = film
        self._bytes += film.nbytes
        while self._bytes > self._limit_bytes:
            _, oldest = self._films.popitem(last=False)
            self._bytes -= oldest.nbytes
