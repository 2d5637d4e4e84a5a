"""A run: one encoder × task × head × adaptation × split × seed on disk, whole or not at all.

A folder holds ``run.json`` (:mod:`evalfm.record`: configuration, cards, choices, figures with intervals, provenance,
but nothing private), ``predictions.parquet`` (one row per val and test image, from which every comparison is made)
and ``head.safetensors``, with ``encoder.safetensors`` where the encoder was trained and ``refits.parquet`` where the
head was fitted again on resampled patients of train and val. Runs are read here and written
by :mod:`evalfm.publishing`; reading needs no torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from evalfm.errors import EvalfmError
from evalfm.paths import file_digest, user_path
from evalfm.predictions import LESIONS, read_episodes, read_lesions, read_predictions
from evalfm.record import Record, read_record
from evalfm.refits import REFITS, read_refits
from evalfm.statistics.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

RECORD = "run.json"
HEAD = "head.safetensors"
ENCODER = "encoder.safetensors"
WORK = ".work"
MARK = "evalfm"
"""Under which predictions say in their Parquet file what they are; pandas keeps it as ``attrs``."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    folder: Path

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Open the run in ``folder``.

        Raises:
            EvalfmError: there is no whole run there.
        """
        run = cls(user_path(folder, "The run"))
        if not (run.folder / RECORD).is_file():
            raise EvalfmError(f"{folder} is no run: it has no {RECORD}; `evalfm ls runs` lists those under runs/.")
        _ = run.record
        return run

    @cached_property
    def record(self) -> Record:
        """The content of run.json."""
        return read_record(self.folder / RECORD, Record, "a run")

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.record.encoder.name

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.task.name

    @property
    def head(self) -> str:
        """The head's name."""
        return self.record.head.name

    @property
    def adaptation(self) -> str:
        """Which weights were trained: ``frozen``, ``lora``, ``full`` or ``scratch``."""
        return self.record.config.adaptation

    @property
    def kind(self) -> str:
        """The kind of its task, or ``base-to-novel`` where classes were tried in halves."""
        return self.record.kind

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return self.record.task.metrics[0]

    @property
    def seed(self) -> int:
        """The seed's number."""
        return self.record.config.seed

    @property
    def is_baseline(self) -> bool:
        """True for a baseline, which has not seen the disease."""
        return self.record.config.baseline

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Every metric on test."""
        return self.record.metrics

    def estimate(self, metric: str) -> Estimate:
        """A metric on test; absent where this run was not measured by it."""
        absent = Estimate.absent("not measured by the version that made the run; run it again with --force")
        return self.metrics.get(metric, absent)

    def predictions(self) -> pd.DataFrame:
        """One row per val and test example, with the kind's columns and the declared attributes.

        Raises:
            EvalfmError: there is no such table, or it is not what the record says, or the run is of episodes.
        """
        if self.record.episodes is not None:
            raise EvalfmError(
                f"{self.folder} is of few-shot episodes, which overlap and have no predictions to compare or to look "
                "into; `evalfm report` and `evalfm ls runs` show its figures."
            )
        return read_predictions(self.folder, self.kind, self.record.data)

    def test_predictions(self) -> pd.DataFrame:
        """The rows of ``predictions`` that are of test, numbered from 0."""
        table = self.predictions()
        return table[table["split"] == "test"].reset_index(drop=True)

    def refits(self) -> dict[int, pd.DataFrame]:
        """``test_predictions`` as refits on resampled patients of train and val answer them, by the number of the draw.

        Empty where the run holds none.

        Raises:
            EvalfmError: the table is gone, or not what the record says.
        """
        section = self.record.refits
        if section is None or not section.numbers:
            return {}
        self._check_own(REFITS)
        return read_refits(self.folder, self.kind, self.record.data, section.numbers, self.test_predictions())

    def lesions(self) -> pd.DataFrame | None:
        """Of masks a row for each lesion and each candidate of the test images; None where the run has none.

        Raises:
            EvalfmError: the table is damaged.
        """
        self._check_own(LESIONS)
        return read_lesions(self.folder, self.record.data)

    def _check_own(self, name: str) -> None:
        """Refuse a table that is whole, and another run's: it would be read as this one's without a word."""
        path, digest = self.folder / name, self.record.tables.get(name)
        if digest is not None and path.is_file() and file_digest(path) != digest:
            raise EvalfmError(f"{path} is not the table that this run was written with; copy the whole run again.")

    def episodes(self) -> pd.DataFrame:
        """Of few-shot episodes one row each: ``episode, shots, macro_auroc``, lists ``support`` and ``query`` of ids.

        The lists go class after class; of a binary task first the images without the finding.

        Raises:
            EvalfmError: there is no such table, or it is damaged.
        """
        return read_episodes(self.folder)

    def head_tensors(self) -> dict[str, Tensor]:
        """What the head learnt.

        Raises:
            EvalfmError: the file is gone or damaged.
        """
        return _tensors(self.folder / HEAD)

    def encoder_tensors(self) -> dict[str, Tensor]:
        """What of the encoder was trained with the head; empty where it was frozen.

        Raises:
            EvalfmError: the file is damaged.
        """
        path = self.folder / ENCODER
        return _tensors(path) if path.is_file() else {}


def _tensors(path: Path) -> dict[str, Tensor]:
    # A finished run is read without torch; only what it learnt needs it.
    import torch
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
        wild = [name for name, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    except Exception as error:
        # Whatever a damaged file makes the library raise is a fault of the file.
        lines = str(error).splitlines() or [type(error).__name__]
        raise EvalfmError(f"{path} cannot be read ({lines[0][:200]}); copy the whole run again.") from None
    if wild:
        raise EvalfmError(f"{path} holds what is no finite number ({wild[0][:100]}); copy the whole run again.")
    return tensors


def warn(sentence: str) -> None:
    """Say that something was left out, to whoever calls from Python."""
    warnings.warn(sentence, stacklevel=3)


def find_runs(out: str | Path, *, with_predictions: bool = False, say: Callable[[str], None] = warn) -> list[Run]:
    """Every whole run under ``out``, sorted by path; work in progress is never listed.

    Args:
        out: a folder that holds runs, or a run's own.
        with_predictions: look at the predictions, or episodes, of each run too, which whoever compares runs needs.
        say: is given a sentence for each run that is left out because it is damaged; by default a warning.

    Raises:
        EvalfmError: ``out`` is a run's own folder, and the run is damaged.

    >>> find_runs("no-runs-here")
    []
    """

    def read(folder: Path) -> Run:
        run = Run.read(folder)
        if with_predictions:
            run.predictions() if run.record.episodes is None else run.episodes()
        return run

    root = user_path(out, "The folder of runs")
    if (root / RECORD).is_file():
        return [read(root)]
    return whole(folders_with(RECORD, root), read, say)


def whole(folders: Iterable[Path], read: Callable[[Path], Item], say: Callable[[str], None]) -> list[Item]:
    """What ``read`` makes of each folder; of one that is damaged ``say`` is given the reason."""
    items = []
    for folder in folders:
        try:
            items.append(read(folder))
        except EvalfmError as error:
            say(f"Left out: {error}")
    return items


def folders_with(record: str, root: Path) -> list[Path]:
    """Folders from ``root`` down that hold a file called ``record``, sorted; work in progress is left out."""
    folders = []
    for folder, inside, files in os.walk(root):
        # Not entered at all: what another process writes there comes and goes.
        inside[:] = [name for name in inside if name != WORK]
        if record in files:
            folders.append(Path(folder))
    return sorted(folders)
