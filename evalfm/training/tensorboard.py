"""The learning curve as TensorBoard files, whose names and content do not name the machine."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from evalfm.training.checkpoint import CurveLine

BOARD = "tensorboard"
"""The folder's name in a training's work folder and in its run."""


class Board:
    """Writes scalars live into ``folder``; without a folder nothing is written. A context manager."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> Board:
        if self._folder is not None:
            # TensorBoard's own writer puts the host's name into that of its file.
            from tensorboard.summary.writer.record_writer import RecordWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            number = len(list(self._folder.glob("events.out.tfevents.*")))
            self._writer = RecordWriter((self._folder / f"events.out.tfevents.{number}.evalfm").open("wb"))
            self._write(file_version="brain.Event:2")
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, line: CurveLine, learning_rate: float) -> None:
        """One validation; after a resume an epoch that comes again is written again."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = {**line, "learning_rate": learning_rate}
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
            if name != "epoch" and isinstance(value, (int, float)) and math.isfinite(value)
        ]
        self._write(step=int(line["epoch"]), summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()
