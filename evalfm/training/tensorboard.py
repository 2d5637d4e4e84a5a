"""The learning curve as TensorBoard files, whose names tell nothing of the machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evalfm.training.checkpoint import Line

BOARD = "tensorboard"
"""The folder's name in a training's work folder and in its run."""


class Board:
    """Writes scalars live into ``folder``; without a folder nothing is written. A context manager."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> Board:
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # half a second to import

            self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, line: Line, learning_rate: float) -> None:
        """One look at val; after a resume an epoch that comes again is written again."""
        if self._writer is None:
            return
        epoch = int(line["epoch"])
        for name, value in {**line, "learning_rate": learning_rate}.items():
            if name != "epoch" and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()


def rename_events(folder: Path) -> None:
    """Give event files names without the host that TensorBoard writes into them: ``events.out.tfevents.0.evalfm``."""
    for number, path in enumerate(sorted(folder.glob("events.out.tfevents.*"))):
        path.rename(path.with_name(f"events.out.tfevents.{number}.evalfm"))
