"""Says, first and last, that a result is about the phantom where no data set was named."""

from __future__ import annotations

from evalfm.progress import Progress

NOTICE = (
    "Phantom data: no --data was given, so these are synthetic radiographs; the figures say nothing about patients."
)


def print_notice(data: str | None, progress: Progress) -> None:
    """Print the notice where ``data`` is the phantom."""
    if data in (None, "phantom"):
        progress.say(NOTICE)
