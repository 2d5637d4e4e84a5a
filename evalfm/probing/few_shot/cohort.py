"""A cohort in episodes: its classes, and which images each episode learns from and scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalfm.config import SplitOptions
from evalfm.data.assign_splits import split_units
from evalfm.data.episodes import Episodes, draw_episodes
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.cohort import load_cohort
from evalfm.probing.few_shot.config import EpisodeConfig
from evalfm.probing.labelled import data_key
from evalfm.progress import SILENT, Progress
from evalfm.tasks.cohort import Cohort

KINDS = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True)
class EpisodeCohort:
    """A cohort with its episodes.

    Attributes:
        drawn: positions into the cohort's rows.
        class_names: of all classes; a binary task's two.
        split: whether support and queries come from train and test of a split.
        images: hash of the cohort's images and their truth.
    """

    cohort: Cohort
    drawn: Episodes
    class_names: tuple[str, ...]
    split: bool
    images: str

    def key(self, episodes: int) -> str:
        """Hash of the images, their truth and which of them stand in the first ``episodes``, in hex."""
        digest = hashlib.sha256(self.images.encode())
        for positions in (self.drawn.support[:episodes], self.drawn.query[:episodes]):
            digest.update(f"{positions.shape}{positions.tolist()}".encode())
        return digest.hexdigest()


def draw_cohort(
    config: EpisodeConfig, data: str | Path | Manifest | None, progress: Progress = SILENT
) -> EpisodeCohort:
    """Read the data, select the cohort and draw the episodes, before anything is computed.

    Raises:
        EvalfmError: the data have faults, the task has no classes, or a class has too few images.
    """
    cohort = load_cohort(config.task, SplitOptions(where=config.where), data, progress)
    task, manifest = cohort.task, cohort.manifest
    if task.kind not in KINDS:
        remedy = "take one of its labels, as --task LABEL" if task.kind == "multilabel" else "take a task of classes"
        raise EvalfmError(
            f"Episodes take n images of each class, and an image of the {task.kind} task {task.name} is of no one "
            f"class; {remedy}."
        )
    names = cohort.class_names
    if task.kind == "binary":
        names = (f"no {names[0]}", names[0])
    if len(names) < 2:
        raise EvalfmError(f"{task.name} has one class only, {names[0]}; take data with two or more.")
    has_split = "split" in manifest.table.columns
    drawn = draw_episodes(
        cohort.target.astype(np.intp),
        split_units(manifest, cohort.rows, progress=progress),
        [str(each) for each in manifest.table["id"].to_numpy()[cohort.rows]],
        names,
        shots=max(config.shots),
        queries=config.queries,
        episodes=config.episodes,
        seed=config.seed,
        split=manifest.splits[cohort.rows] if has_split else None,
    )
    return EpisodeCohort(cohort, drawn, names, has_split, data_key(cohort, []))
