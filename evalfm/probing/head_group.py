"""From heads on an encoder to runs: fit on every part, score, measure, publish."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import evalfm
from evalfm.data.work_folders import adopt, recover, remove_unfinished
from evalfm.heads import load_head
from evalfm.heads.head import Head, Text
from evalfm.heads.text.classifier import TextHead
from evalfm.probing.existing import Known
from evalfm.probing.fitting import FitOptions, Training, fit_frozen, fit_trained
from evalfm.probing.labelled import SplitAssignment, measured_key
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import HeadResult, fold_encoders, fold_tensors, make_record, predictions_table
from evalfm.probing.session import EncoderSession, compute_ahead
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.texts import reads_text, text_key
from evalfm.progress import Progress
from evalfm.run import RECORD, WORK, IfExists, Run, check_writable, content_key, publishing, run_folder, write_run
from evalfm.training.recipe import Recipe, Trained
from evalfm.training.tensorboard import BOARD
from evalfm.training.tuning import check_trainable, forget

FROZEN = "frozen"


@dataclass(frozen=True)
class FineTuneConfig:
    """How the encoder of a cell is trained with each head."""

    name: Trained
    recipe: Recipe
    settings: EncoderSettings


@dataclass(frozen=True)
class Cell:
    """Heads to be fitted on one encoder, together where they read the same maps.

    Attributes:
        opened: the encoder on the question's images.
        heads: names of heads.
        baseline: True for a baseline that knows nothing.
        adapted: how the encoder is trained, each head with a copy of its own; None where it is frozen.
        text: sentences and tower, where a head reads text.
    """

    session: EncoderSession
    heads: tuple[str, ...]
    baseline: bool = False
    adapted: FineTuneConfig | None = None
    text: Text | None = None

    @property
    def adaptation(self) -> str:
        """The word in paths and tables."""
        return FROZEN if self.adapted is None else self.adapted.name


def run_cell(
    cell: Cell,
    assignments: Sequence[SplitAssignment],
    settings: Settings,
    out: Path,
    *,
    known: Known,
    progress: Progress,
) -> list[Run]:
    """The runs of ``cell``, one per head and seed; those on disk are returned as they are unless ``known`` says no."""
    runs: list[Run] = []
    for seed, assignment in enumerate(assignments):
        heads = [load_head(name, assignment.cohort.task.kind) for name in cell.heads]
        if settings.base_to_novel:
            heads = [head.for_base() for head in heads if isinstance(head, TextHead)]
        varies = settings.draws_subsets or cell.adapted is not None
        wanted = [head for head in heads if seed == 0 or not head.deterministic or varies]
        folders = {head.name: _folder(cell, head, assignment, settings, seed, out) for head in wanted}
        for folder, key in folders.values():
            recover(folder, out / WORK)
            if (folder / RECORD).is_file():
                # Of a process that was killed after it had published.
                remove_unfinished(out / WORK, _training(key, "*"))
        missing = [head for head in wanted if not known.is_there(folders[head.name][0], RECORD)]
        if missing:
            check_writable(out)
            if_exists = IfExists.REPLACED if known.force else IfExists.KEPT
            making = RunBuilder(cell, assignment, settings, seed, out, if_exists, progress)
            making.run(missing, folders)
        runs += [Run.read(folders[head.name][0]) for head in wanted]
    return runs


def _folder(
    cell: Cell, head: Head, assignment: SplitAssignment, settings: Settings, seed: int, out: Path
) -> tuple[Path, str]:
    """Where the run of ``head`` stands, and its key: a hash over all that decides its result."""
    task = assignment.cohort.task
    source = cell.session.source
    adaptation: str | dict[str, Any] = cell.adaptation
    if cell.adapted is not None:
        check_trainable(head, cell.adapted.name)
        adaptation = {
            "name": cell.adapted.name,
            "recipe": cell.adapted.recipe.model_dump(),
            "precision": cell.session.training_precision,
        }
        if cell.adapted.recipe.batch_norm == "batch":
            # Each process normalises its own share of a batch.
            adaptation["processes"] = cell.adapted.settings.processes
    content: dict[str, Any] = {
        "schema": 1,
        "evalfm": evalfm.__version__,
        "encoder": source.key,
        "seen": cell.session.card["pretraining_data"],
        "task": task.model_dump(mode="json"),
        "head": {"name": head.name, "grid": head.grid},
        "adaptation": adaptation,
        "data": assignment.key,
        "facts": assignment.facts,
        "subset": settings.subset(),
        "seed": seed,
    }
    if cell.text is not None and reads_text(head):
        content["text"] = text_key(cell.text, assignment.cohort.manifest.info.name)
    if task.kind == "regression" and "maps" in head.needs:
        content["masks"] = measured_key(assignment.cohort)
    key = content_key(content)
    return run_folder(out, cell.session.name, task.name, head.name, cell.adaptation, key), key


def _training(key: str, fold: int | str) -> str:
    """Name of the work folder of a training."""
    return f"training-{key[:16]}-{fold}"


@dataclass(frozen=True)
class RunBuilder:
    """The making of the runs of one cell and seed; each appears whole or not at all."""

    cell: Cell
    assignment: SplitAssignment
    settings: Settings
    seed: int
    out: Path
    if_exists: IfExists
    progress: Progress

    def run(self, heads: Sequence[Head], folders: dict[str, tuple[Path, str]]) -> None:
        """Fit, score and publish ``heads``: frozen ones together, trained ones one after the other."""
        if self.cell.adapted is None:
            self._frozen(heads, folders)
            return
        for head in heads:
            self._trained(head, self.cell.adapted, *folders[head.name])

    def _frozen(self, heads: Sequence[Head], folders: dict[str, tuple[Path, str]]) -> None:
        watch = Stopwatch()
        self._compute_ahead(maps=any("maps" in head.needs for head in heads))
        fitted: dict[str, list[HeadResult]] = {head.name: [] for head in heads}
        for split in self.assignment.splits:
            self._announce(split.fold, ", ".join(head.name for head in heads))
            asked = FitOptions(self.seed, self.settings.threshold, self.cell.text, self.settings.base_to_novel)
            found = fit_frozen(self.cell.session, heads, self.assignment, split, asked, self.progress)
            for name, result in found.items():
                fitted[name].append(result)
        seconds = watch.seconds() / len(heads)
        for head in heads:
            self._publish(head, fitted[head.name], *folders[head.name], seconds, ())

    def _trained(self, head: Head, adapted: FineTuneConfig, folder: Path, key: str) -> None:
        watch = Stopwatch()
        if adapted.recipe.probe_start:
            self._compute_ahead(maps="maps" in head.needs)
        works, results = [], []
        for split in self.assignment.splits:
            self._announce(split.fold, f"{head.name}, {adapted.name}")
            place = adopt(self.out / WORK, _training(key, split.fold or 0))
            works.append(place)
            training = Training(
                adapted.name, adapted.recipe, place, adapted.settings.workers, adapted.settings.processes
            )
            # A fresh head for every part: one that was trained once would go on from there.
            fresh = load_head(head.name, self.assignment.cohort.task.kind)
            asked = FitOptions(self.seed, self.settings.threshold)
            results.append(
                fit_trained(self.cell.session, fresh, self.assignment, split, asked, training, self.progress)
            )
        self._publish(head, results, folder, key, watch.seconds(), works)
        for place in works:
            forget(place)

    def _compute_ahead(self, *, maps: bool) -> None:
        assignment, session = self.assignment, self.cell.session
        used = np.unique(
            np.concatenate([np.concatenate([split.train, split.val, split.test]) for split in assignment.splits])
        )
        compute_ahead(session.source, assignment.cohort.rows[used], maps=maps, progress=self.progress)
        if assignment.test is not None and session.test is not None:
            compute_ahead(session.test, assignment.test.rows, maps=maps, progress=self.progress)

    def _announce(self, fold: int | None, what: str) -> None:
        label = f"{self.cell.session.name} × {self.assignment.cohort.task.name}"
        if fold is not None:
            label += f", fold {fold + 1} of {len(self.assignment.splits)}"
        self.progress.say(f"{label}: {what}")

    def _publish(
        self, head: Head, results: Sequence[HeadResult], folder: Path, key: str, seconds: float, works: Sequence[Path]
    ) -> None:
        assignment, session, settings = self.assignment, self.cell.session, self.settings
        table, rows = predictions_table(assignment.cohort, assignment.test, results)
        asked: dict[str, Any] = {**settings.model_dump(mode="json"), "baseline": self.cell.baseline, "seed": self.seed}
        # The task's name and not the path of its card, which may name a person or a place; the record has it whole.
        asked["task"] = assignment.cohort.task.name
        asked["prompts"] = None if settings.prompts is None else "file"
        asked["encoder"] = {"name": session.name, **session.requested}
        asked["adaptation"], asked["recipe"] = self.cell.adaptation, {}
        if self.cell.adapted is not None:
            asked["recipe"] = self.cell.adapted.recipe.model_dump(mode="json")
            asked["processes"] = self.cell.adapted.settings.processes
        text = self.cell.text if reads_text(head) else None
        record = make_record(session, assignment, head, results, table, asked, key, seconds, text)
        with publishing(self.out, folder, self.if_exists) as work:
            write_run(work, record, table, fold_tensors(results), fold_encoders(results))
            # With matplotlib, which only a run that is made needs.
            from evalfm.probing.pictures import draw_pictures

            draw_pictures(work, record, table, assignment.test or assignment.cohort, rows)
            for result, place in zip(results, works, strict=False):
                board = work / BOARD if result.split.fold is None else work / BOARD / f"fold{result.split.fold}"
                shutil.copytree(place / BOARD, board)
