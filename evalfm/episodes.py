"""A few-shot result on disk: one encoder × task × method over all numbers of shots, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from evalfm.data.table_bounds import check_parquet
from evalfm.errors import EvalfmError
from evalfm.record import (
    Count,
    DataFacts,
    LoadedEncoder,
    Metric,
    Result,
    Section,
    WholeSection,
    Word,
    read_record,
    write_record,
)
from evalfm.run import folders_with, warn, whole

RECORD = "episodes.json"
TABLE = "episodes.parquet"
CHANCE = 0.5
"""Macro AUROC of a constant answer."""


class ShotsResult(Section):
    """Macro AUROC at one number of shots.

    Attributes:
        shots: images of each class that were learnt from; 0 where none was.
        mean: over the episodes, with its interval over episodes.
        sd: standard deviation over the episodes; None for one.
    """

    shots: Count
    mean: Metric
    sd: float | None


class EpisodeRunConfig(WholeSection):
    """The settings of few-shot episodes, enough to run them again."""

    queries: Count
    where: str | None = None
    seed: int | None = None
    episodes: int | None = None
    strength: float | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    prompts: str | None = None
    encoder: LoadedEncoder = LoadedEncoder()


class EpisodeTaskSection(WholeSection):
    """The task's card."""

    name: Word
    kind: str | None = None


class MethodSection(WholeSection):
    """A few-shot method and its settings."""

    name: Word


class EpisodeData(DataFacts):
    """The data of few-shot episodes: from where support and queries were drawn; ``images`` of the cohort were used."""

    images: Count | None = None
    images_of_cohort: Count | None = None
    support_from: str | None = None
    query_from: str | None = None


class EpisodeRecord(Result):
    """Everything that episodes.json holds; ``results`` has one entry for each number of shots."""

    config: EpisodeRunConfig
    task: EpisodeTaskSection
    method: MethodSection
    data: EpisodeData
    results: list[ShotsResult]


@dataclass(frozen=True)
class EpisodeRun:
    """A finished few-shot result on disk."""

    folder: Path

    @classmethod
    def read(cls, folder: str | Path) -> EpisodeRun:
        """Open the result in ``folder``.

        Raises:
            EvalfmError: there is no whole one.
        """
        run = cls(Path(folder))
        _ = run.record
        return run

    @cached_property
    def record(self) -> EpisodeRecord:
        """The content of episodes.json."""
        return read_record(self.folder / RECORD, EpisodeRecord, "few-shot episodes")

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.record.encoder.name

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.task.name

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.method.name

    @property
    def data(self) -> str:
        """The data set's name."""
        return self.record.data.name

    def table(self) -> pd.DataFrame:
        """One row an episode and number of shots: ``episode, shots, macro_auroc``, lists ``support`` and ``query``.

        The lists hold ids, class after class in the order of ``record.data.class_names``.

        Raises:
            EvalfmError: the file is gone or damaged.
        """
        path = self.folder / TABLE
        try:
            check_parquet(path)
            return pd.read_parquet(path)
        except Exception as error:
            # Whatever a damaged file makes the library raise is a fault of the file.
            lines = str(error).splitlines() or [type(error).__name__]
            raise EvalfmError(f"{path} cannot be read ({lines[0][:200]}); run them again with --force.") from None


def find_episodes(out: str | Path, say: Callable[[str], None] = warn) -> list[EpisodeRun]:
    """Every whole few-shot result under ``out``, sorted by path; work in progress is never listed.

    ``say`` is given a sentence for each that is left out because it is damaged.
    """
    return whole(folders_with(RECORD, Path(out)), EpisodeRun.read, say)


def write_episodes(folder: Path, record: EpisodeRecord, table: pd.DataFrame) -> None:
    """Write the two files of a result into ``folder``, episodes.json last."""
    table.to_parquet(folder / TABLE, index=False)
    write_record(folder / RECORD, record)
