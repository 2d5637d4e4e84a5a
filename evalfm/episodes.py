"""A few-shot result on disk: one encoder × task × method over all numbers of shots, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from evalfm.cards import CardModel
from evalfm.data.table_bounds import check_parquet
from evalfm.errors import EvalfmError
from evalfm.facts import Count, EncoderFacts, EpisodeConfig, EpisodeData, Metric, NamedFacts, Word, read_record
from evalfm.runs import Provenance, folders_with, warn, whole
from evalfm.statistics.estimate import Estimate

RECORD = "episodes.json"
TABLE = "episodes.parquet"
CHANCE = 0.5
"""Macro AUROC of whatever knows nothing."""


class ShotsResult(CardModel):
    """Macro AUROC at one number of shots.

    Attributes:
        shots: images of each class that were learnt from; 0 where none was.
        mean: over the episodes, with its interval over episodes.
        sd: standard deviation over the episodes; None for one.
    """

    shots: Count
    mean: Metric
    sd: float | None

    @property
    def estimate(self) -> Estimate:
        """The mean."""
        return Estimate.from_json(self.mean)


class Record(CardModel):
    """Everything that episodes.json holds.

    Attributes:
        key: hash of all that decides the result.
        config: the settings as they were asked for.
        encoder, task: the cards, whole.
        method: its name and what decides its answer.
        data: name, licence, classes, from where support and queries were drawn.
        results: one for each number of shots.
        notes: cautions to print with the result.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    key: Word
    config: EpisodeConfig
    encoder: EncoderFacts
    task: NamedFacts
    method: NamedFacts
    data: EpisodeData
    results: list[ShotsResult]
    notes: list[str]
    provenance: Provenance


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
        found = cls(Path(folder))
        _ = found.record
        return found

    @cached_property
    def record(self) -> Record:
        """The content of episodes.json."""
        return read_record(self.folder / RECORD, Record, "few-shot episodes")

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return str(self.record.encoder["name"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record.task["name"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.record.method["name"])

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.record.data["name"])

    def table(self) -> pd.DataFrame:
        """One row an episode and number of shots: ``episode, shots, macro_auroc``, lists ``support`` and ``query``.

        The lists hold ids, class after class in the order of ``record.data["class_names"]``.

        Raises:
            EvalfmError: the file is gone or damaged.
        """
        path = self.folder / TABLE
        try:
            check_parquet(path)
            return pd.read_parquet(path)
        except Exception as error:
            # Whatever a damaged file makes the library raise is a fault of the file.
            told = str(error).splitlines() or [type(error).__name__]
            raise EvalfmError(f"{path} cannot be read ({told[0][:200]}); run them again with --force.") from None


def find_episodes(out: str | Path, tell: Callable[[str], None] = warn) -> list[EpisodeRun]:
    """Every whole few-shot result under ``out``, sorted by path; work in progress is never listed.

    ``tell`` is given a sentence for each that is left out because it is damaged.
    """
    return whole(folders_with(RECORD, Path(out)), EpisodeRun.read, tell)


def write_episodes(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """Write the two files of a result into ``folder``, episodes.json last."""
    table.to_parquet(folder / TABLE, index=False)
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
