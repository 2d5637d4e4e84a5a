"""Seconds per stage of the way from an image to a result, where ``--profile`` asks for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

DECODE, RESIZE = "decode", "resize"
WAIT = "wait for images"
UPLOAD, ENCODE, DOWNLOAD = "upload", "encode", "download"
WRITE, READ_MAPS = "write", "read maps"
TRAINING, PREDICTION = "head training", "prediction"

MEANING = {
    DECODE: "processor seconds, all workers",
    RESIZE: "processor seconds, all workers",
    WAIT: "encoder idle, no image ready",
    UPLOAD: "images to the device",
    ENCODE: "forward passes",
    DOWNLOAD: "features to main memory",
    WRITE: "encoder idle, store busy",
    READ_MAPS: "from memory or disk",
    TRAINING: "with reading features",
    PREDICTION: "with reading features and scoring",
}
"""What the seconds of each stage are, in the order in which an image goes through them.

``upload``, ``encode`` and ``download`` are seconds of the device, by its events, on a GPU, and of the computing thread
on a CPU. Stages overlap, so they do not add up to the time of the whole.
"""


class StageTimes:
    """Adds up seconds by stage; threads may add at once.

    >>> times = StageTimes()
    >>> times.add("decode", 1.5)
    >>> times.add("decode", 0.5)
    >>> with times.stage("encode"):
    ...     pass
    >>> times.to_json()["decode"]
    2.0
    >>> print(times.table()[1])
    decode                   2.0  processor seconds, all workers
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def measures(self) -> bool:
        """Whether anybody asked for the seconds; what costs time to measure is left out otherwise."""
        return True

    def add(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to ``stage``."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def update(self, seconds: Mapping[str, float]) -> None:
        """Add seconds of several stages."""
        for stage, each in seconds.items():
            self.add(stage, each)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A context whose seconds on the clock are added to the stage ``name``."""
        return self._timed(name)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def to_json(self) -> dict[str, float]:
        """Seconds by stage, in the order of the stages; those that did not occur are left out."""
        with self._lock:
            known = dict(self._seconds)
        ordered = [*(stage for stage in MEANING if stage in known), *(stage for stage in known if stage not in MEANING)]
        return {stage: round(known[stage], 3) for stage in ordered}

    def table(self) -> list[str]:
        """Lines of a small table, at most 80 columns wide."""
        rows = [f"{stage:<18} {seconds:9.1f}  {MEANING.get(stage, '')}" for stage, seconds in self.to_json().items()]
        return [f"{'stage':<18} {'seconds':>9}  of what", *(row.rstrip() for row in rows)]


class _NoTimes(StageTimes):
    """Measures nothing."""

    @property
    def measures(self) -> bool:
        return False

    def add(self, stage: str, seconds: float) -> None:
        pass

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


NO_TIMES: StageTimes = _NoTimes()
"""Where nobody asked: takes everything and keeps nothing."""
