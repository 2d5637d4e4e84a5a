"""What workers of every sort can be asked: those on this machine, and those of a cluster."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from evalfm.workers.job import Job, Message


class Crew(Protocol):
    """Workers by number, each with a device of its own; a context manager, on leaving which all of them end.

    Entering starts every worker and waits until each is ready. A worker does one job at a time.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all workers: at once, whatever they do; what they had stored or finished stays."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each worker is called where one speaks of it, such as ``GPU 1``; as many as there are workers."""

    @property
    def where(self) -> str:
        """How many workers there are, and where, in words."""

    def send(self, worker: int, job: Job) -> None:
        """Let an idle worker begin with ``job``; returns at once."""

    def listen(self, seconds: float) -> list[tuple[int, Message]]:
        """What workers say, each with its number and in its order; empty after ``seconds`` of silence.

        A job ends with ``Returned``, ``Raised`` or ``Lost``. A worker that is ``Lost`` says nothing more.
        """

    def restart(self, worker: int) -> None:
        """Start a lost worker anew; returns when it is ready.

        Raises:
            EvalfmError: it cannot be started.
        """
