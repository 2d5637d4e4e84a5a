"""From heads on an encoder to runs: fit on every part, score, measure, publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import evalfm
from evalfm.heads import load_head
from evalfm.heads.head import Context, DenseHead, Fit, Head, PooledHead
from evalfm.heads.training import fit_together, trained_together
from evalfm.probing.opened import Opened, compute_ahead
from evalfm.probing.parts import Part
from evalfm.probing.pictures import draw_pictures
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import Fitted, fold_tensors, make_record, predictions_table
from evalfm.probing.scoring import Films, Scores, score_dense, score_pooled
from evalfm.probing.settings import Settings
from evalfm.probing.sides import Deal, Side
from evalfm.progress import Progress
from evalfm.runs import RECORD, InTheWay, Run, check_writable, content_key, publishing, run_folder, write_run

ADAPTATION = "frozen"


@dataclass(frozen=True)
class Cell:
    """Heads to be fitted on one encoder, together where they read the same maps.

    Attributes:
        opened: the encoder on the question's images.
        heads: names of heads.
        floor: True for a baseline that knows nothing.
    """

    opened: Opened
    heads: tuple[str, ...]
    floor: bool = False


def run_cell(
    cell: Cell, deals: Sequence[Deal], settings: Settings, out: Path, *, force: bool, progress: Progress
) -> list[Run]:
    """The runs of ``cell``, one per head and seed; those on disk are returned as they are unless ``force``."""
    runs: list[Run] = []
    for seed, deal in enumerate(deals):
        heads = [load_head(name, deal.question.task.kind) for name in cell.heads]
        wanted = [head for head in heads if seed == 0 or not head.deterministic or settings.draws_subsets]
        folders = {head.name: _folder(cell, head, deal, settings, seed, out) for head in wanted}
        missing = [head for head in wanted if force or not (folders[head.name][0] / RECORD).is_file()]
        if missing:
            check_writable(out)
            in_the_way = InTheWay.REPLACED if force else InTheWay.KEPT
            _make(cell, missing, deal, settings, seed, folders, out, in_the_way, progress)
        runs += [Run.read(folders[head.name][0]) for head in wanted]
    return runs


def _folder(cell: Cell, head: Head, deal: Deal, settings: Settings, seed: int, out: Path) -> tuple[Path, str]:
    """Where the run of ``head`` stands, and its key: a hash over all that decides its result."""
    task = deal.question.task
    source = cell.opened.source
    content: dict[str, Any] = {
        "schema": 1,
        "evalfm": evalfm.__version__,
        "encoder": source.key,
        "task": task.model_dump(mode="json"),
        "head": {"name": head.name, "grid": head.grid},
        "adaptation": ADAPTATION,
        "data": deal.key,
        "subset": settings.subset(),
        "seed": seed,
    }
    key = content_key(content)
    return run_folder(out, cell.opened.name, task.name, head.name, ADAPTATION, key), key


def _make(
    cell: Cell,
    heads: Sequence[Head],
    deal: Deal,
    settings: Settings,
    seed: int,
    folders: dict[str, tuple[Path, str]],
    out: Path,
    in_the_way: InTheWay,
    progress: Progress,
) -> None:
    """Fit, score and publish ``heads``; each run appears whole or not at all."""
    watch = Stopwatch()
    maps = any("maps" in head.needs for head in heads)
    used = np.unique(np.concatenate([np.concatenate([part.train, part.val, part.test]) for part in deal.parts]))
    compute_ahead(cell.opened.source, deal.question.rows[used], maps=maps, progress=progress)
    if deal.test is not None and cell.opened.test is not None:
        compute_ahead(cell.opened.test, deal.test.rows, maps=maps, progress=progress)
    fitted: dict[str, list[Fitted]] = {head.name: [] for head in heads}
    for part in deal.parts:
        label = f"{cell.opened.name} × {deal.question.task.name}"
        if part.fold is not None:
            label += f", fold {part.fold + 1} of {len(deal.parts)}"
        progress.say(f"{label}: {', '.join(head.name for head in heads)}")
        for name, result in _fit_and_score(cell.opened, heads, deal, part, seed, progress).items():
            fitted[name].append(result)
    seconds = watch.seconds() / len(heads)
    for head in heads:
        folder, key = folders[head.name]
        results = fitted[head.name]
        table, rows = predictions_table(deal.question, deal.test, results)
        asked = {**settings.model_dump(mode="json"), "floor": cell.floor, "seed": seed, "adaptation": ADAPTATION}
        # The task's name and not the path of its card, which may name a person or a place; the record has it whole.
        asked["task"] = deal.question.task.name
        asked["encoder"] = {"name": cell.opened.name, **cell.opened.asked}
        record = make_record(cell.opened, deal, head, results, table, asked, key, seconds)
        with publishing(out, folder, in_the_way) as work:
            write_run(work, record, table, fold_tensors(results))
            draw_pictures(work, record, table, deal.test or deal.question, rows)


def _fit_and_score(
    opened: Opened, heads: Sequence[Head], deal: Deal, part: Part, seed: int, progress: Progress
) -> dict[str, Fitted]:
    """Fit every head on one part, dense ones in one pass over the maps, and score val and test."""
    question = deal.question
    device = torch.device(opened.device)
    context = Context(question.task.kind, question.class_names, seed, device, progress)
    side = Side(question, opened.source)
    train, val = side.examples(part.train), side.examples(part.val)
    if deal.test is None:
        test_side, test = side, side.examples(part.test)
    else:
        test_side = Side(deal.test, opened.test or opened.source)
        test = test_side.examples(np.arange(len(deal.test)))
    fits: dict[str, Fit] = {}
    for together in trained_together(heads):
        found = fit_together(together, train, val, context)
        fits |= dict(zip((head.name for head in together), found, strict=True))
    fits |= {head.name: head.fit(train, val, context) for head in heads if head.name not in fits}
    scores: dict[str, Scores] = {}
    dense = [head for head in heads if isinstance(head, DenseHead)]
    if dense:
        scored = score_dense(
            dense,
            Films(val, side.question.manifest.spacing_mm),
            Films(test, test_side.question.manifest.spacing_mm),
            question.task,
            question.class_names,
            progress,
        )
        scores |= dict(zip((head.name for head in dense), scored, strict=True))
    for head in heads:
        if isinstance(head, PooledHead):
            scores[head.name] = score_pooled(head, val, test, question.task, question.class_names)
    return {head.name: Fitted(part, fits[head.name], scores[head.name], head.tensors()) for head in heads}
