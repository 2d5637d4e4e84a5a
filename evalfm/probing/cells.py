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
from evalfm.probing.fitting import Fitting, Training, fit_frozen, fit_trained
from evalfm.probing.opened import Opened, compute_ahead
from evalfm.probing.pictures import draw_pictures
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import Fitted, fold_encoders, fold_tensors, make_record, predictions_table
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.sides import Deal, measured_key
from evalfm.probing.texts import reads_text, text_key
from evalfm.progress import Progress
from evalfm.runs import RECORD, WORK, InTheWay, Run, check_writable, content_key, publishing, run_folder, write_run
from evalfm.training.recipe import Recipe, Trained
from evalfm.training.tensorboard import BOARD
from evalfm.training.tuning import check_tunable, forget

FROZEN = "frozen"


@dataclass(frozen=True)
class Adapted:
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
        floor: True for a baseline that knows nothing.
        adapted: how the encoder is trained, each head with a copy of its own; None where it is frozen.
        text: sentences and tower, where a head reads text.
    """

    opened: Opened
    heads: tuple[str, ...]
    floor: bool = False
    adapted: Adapted | None = None
    text: Text | None = None

    @property
    def adaptation(self) -> str:
        """The word in paths and tables."""
        return FROZEN if self.adapted is None else self.adapted.name


def run_cell(
    cell: Cell, deals: Sequence[Deal], settings: Settings, out: Path, *, known: Known, progress: Progress
) -> list[Run]:
    """The runs of ``cell``, one per head and seed; those on disk are returned as they are unless ``known`` says no."""
    runs: list[Run] = []
    for seed, deal in enumerate(deals):
        heads = [load_head(name, deal.question.task.kind) for name in cell.heads]
        if settings.base_to_novel:
            heads = [head.for_base() for head in heads if isinstance(head, TextHead)]
        varies = settings.draws_subsets or cell.adapted is not None
        wanted = [head for head in heads if seed == 0 or not head.deterministic or varies]
        folders = {head.name: _folder(cell, head, deal, settings, seed, out) for head in wanted}
        for folder, key in folders.values():
            recover(folder, out / WORK)
            if (folder / RECORD).is_file():
                # Of a process that was killed after it had published.
                remove_unfinished(out / WORK, _training(key, "*"))
        missing = [head for head in wanted if not known.is_there(folders[head.name][0], RECORD)]
        if missing:
            check_writable(out)
            in_the_way = InTheWay.REPLACED if known.force else InTheWay.KEPT
            making = _Making(cell, deal, settings, seed, out, in_the_way, progress)
            making.run(missing, folders)
        runs += [Run.read(folders[head.name][0]) for head in wanted]
    return runs


def _folder(cell: Cell, head: Head, deal: Deal, settings: Settings, seed: int, out: Path) -> tuple[Path, str]:
    """Where the run of ``head`` stands, and its key: a hash over all that decides its result."""
    task = deal.question.task
    source = cell.opened.source
    adaptation: str | dict[str, Any] = cell.adaptation
    if cell.adapted is not None:
        check_tunable(head, cell.adapted.name)
        adaptation = {
            "name": cell.adapted.name,
            "recipe": cell.adapted.recipe.model_dump(),
            "precision": cell.opened.training_precision,
        }
        if cell.adapted.recipe.batch_norm == "batch":
            # Each process normalises its own share of a batch.
            adaptation["processes"] = cell.adapted.settings.processes
    content: dict[str, Any] = {
        "schema": 1,
        "evalfm": evalfm.__version__,
        "encoder": source.key,
        "seen": cell.opened.card["pretraining_data"],
        "task": task.model_dump(mode="json"),
        "head": {"name": head.name, "grid": head.grid},
        "adaptation": adaptation,
        "data": deal.key,
        "facts": deal.facts,
        "subset": settings.subset(),
        "seed": seed,
    }
    if cell.text is not None and reads_text(head):
        content["text"] = text_key(cell.text, deal.question.manifest.info.name)
    if task.kind == "regression" and "maps" in head.needs:
        content["masks"] = measured_key(deal.question)
    key = content_key(content)
    return run_folder(out, cell.opened.name, task.name, head.name, cell.adaptation, key), key


def _training(key: str, fold: int | str) -> str:
    """Name of the work folder of a training."""
    return f"training-{key[:16]}-{fold}"


@dataclass(frozen=True)
class _Making:
    """The making of the runs of one cell and seed; each appears whole or not at all."""

    cell: Cell
    deal: Deal
    settings: Settings
    seed: int
    out: Path
    in_the_way: InTheWay
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
        fitted: dict[str, list[Fitted]] = {head.name: [] for head in heads}
        for part in self.deal.parts:
            self._announce(part.fold, ", ".join(head.name for head in heads))
            asked = Fitting(self.seed, self.settings.threshold, self.cell.text, self.settings.base_to_novel)
            found = fit_frozen(self.cell.opened, heads, self.deal, part, asked, self.progress)
            for name, result in found.items():
                fitted[name].append(result)
        seconds = watch.seconds() / len(heads)
        for head in heads:
            self._publish(head, fitted[head.name], *folders[head.name], seconds, ())

    def _trained(self, head: Head, adapted: Adapted, folder: Path, key: str) -> None:
        watch = Stopwatch()
        if adapted.recipe.probe_start:
            self._compute_ahead(maps="maps" in head.needs)
        works, results = [], []
        for part in self.deal.parts:
            self._announce(part.fold, f"{head.name}, {adapted.name}")
            place = adopt(self.out / WORK, _training(key, part.fold or 0))
            works.append(place)
            training = Training(
                adapted.name, adapted.recipe, place, adapted.settings.workers, adapted.settings.processes
            )
            # A fresh head for every part: one that was trained once would go on from there.
            fresh = load_head(head.name, self.deal.question.task.kind)
            asked = Fitting(self.seed, self.settings.threshold)
            results.append(fit_trained(self.cell.opened, fresh, self.deal, part, asked, training, self.progress))
        self._publish(head, results, folder, key, watch.seconds(), works)
        for place in works:
            forget(place)

    def _compute_ahead(self, *, maps: bool) -> None:
        deal, opened = self.deal, self.cell.opened
        used = np.unique(np.concatenate([np.concatenate([part.train, part.val, part.test]) for part in deal.parts]))
        compute_ahead(opened.source, deal.question.rows[used], maps=maps, progress=self.progress)
        if deal.test is not None and opened.test is not None:
            compute_ahead(opened.test, deal.test.rows, maps=maps, progress=self.progress)

    def _announce(self, fold: int | None, what: str) -> None:
        label = f"{self.cell.opened.name} × {self.deal.question.task.name}"
        if fold is not None:
            label += f", fold {fold + 1} of {len(self.deal.parts)}"
        self.progress.say(f"{label}: {what}")

    def _publish(
        self, head: Head, results: Sequence[Fitted], folder: Path, key: str, seconds: float, works: Sequence[Path]
    ) -> None:
        deal, opened, settings = self.deal, self.cell.opened, self.settings
        table, rows = predictions_table(deal.question, deal.test, results)
        asked: dict[str, Any] = {**settings.model_dump(mode="json"), "floor": self.cell.floor, "seed": self.seed}
        # The task's name and not the path of its card, which may name a person or a place; the record has it whole.
        asked["task"] = deal.question.task.name
        asked["prompts"] = None if settings.prompts is None else "file"
        asked["encoder"] = {"name": opened.name, **opened.asked}
        asked["adaptation"], asked["recipe"] = self.cell.adaptation, {}
        if self.cell.adapted is not None:
            asked["recipe"] = self.cell.adapted.recipe.model_dump(mode="json")
            asked["processes"] = self.cell.adapted.settings.processes
        text = self.cell.text if reads_text(head) else None
        record = make_record(opened, deal, head, results, table, asked, key, seconds, text)
        with publishing(self.out, folder, self.in_the_way) as work:
            write_run(work, record, table, fold_tensors(results), fold_encoders(results))
            draw_pictures(work, record, table, deal.test or deal.question, rows)
            for result, place in zip(results, works, strict=False):
                board = work / BOARD if result.part.fold is None else work / BOARD / f"fold{result.part.fold}"
                shutil.copytree(place / BOARD, board)
