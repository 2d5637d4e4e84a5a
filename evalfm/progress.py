"""How long work tells that it goes on: a bar and a line, or silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What long work calls to be seen at work."""

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield ``items`` while a bar named ``label`` advances towards ``total``."""

    def say(self, message: str) -> None:
        """Print one line above the bars."""


class Silent:
    """Progress that shows nothing."""

    def track(self, items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
        """Yield ``items`` as they are."""
        yield from items

    def say(self, message: str) -> None:
        """Say nothing."""


SILENT: Progress = Silent()
