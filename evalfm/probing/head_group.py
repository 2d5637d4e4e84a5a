"""From heads on an encoder to runs: fit on every split, score, measure, publish."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import evalfm
from evalfm.config import ProbeConfig
from evalfm.data.work_folders import adopt, recover, remove_unfinished
from evalfm.features.encoded import EncodedSource
from evalfm.heads import load_head
from evalfm.heads.head import Head, Text
from evalfm.heads.text.classifier import TextHead
from evalfm.heads.trained import TrainedHead
from evalfm.heads.training import planned_reads
from evalfm.metrics.registry import plugins_of
from evalfm.probing.episodes import FineTuning, grid_of, measured_on, solve, table_of
from evalfm.probing.existing import Known
from evalfm.probing.fitting import FitOptions, Training, fit_frozen, fit_trained
from evalfm.probing.labelled import SplitAssignment, measured_key
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import (
    HeadResult,
    TestResult,
    fold_encoders,
    fold_tensors,
    make_record,
    measured_by,
    predictions_table,
    refits_table,
)
from evalfm.probing.refitting import NOTHING_LEARNT, draws_of, has_refits, wants_refits
from evalfm.probing.session import EncoderSession, compute_ahead
from evalfm.probing.splits import Split
from evalfm.probing.texts import reads_text, text_key
from evalfm.progress import Progress
from evalfm.publishing import IfExists, check_writable, content_key, publishing, run_folder, write_run
from evalfm.record import Chosen, Record, RefitSection
from evalfm.run import RECORD, WORK, Run
from evalfm.training.recipe import Recipe
from evalfm.training.tensorboard import BOARD
from evalfm.training.tuning import check_trainable, forget

FROZEN = "frozen"
PREDICTIONS = 2
"""Passes over val, and about as many over the rest, once heads are trained: to choose thresholds, and to score."""


@dataclass(frozen=True)
class HeadGroup:
    """Heads to be fitted on one encoder, together where they read the same maps.

    Attributes:
        session: the encoder on the cohort's images.
        heads: names of heads.
        config: the options that they are fitted by; an encoder that is trained is copied for each head.
        baseline: True for a baseline.
        text: sentences and tower, where a head reads text.
    """

    session: EncoderSession
    heads: tuple[str, ...]
    config: ProbeConfig
    baseline: bool = False
    text: Text | None = None


def run_group(
    group: HeadGroup, assignments: Sequence[SplitAssignment], *, known: Known, progress: Progress
) -> list[Run]:
    """The runs of ``group``, one per head and seed; those on disk are returned as they are unless ``known`` says no."""
    config, out = group.config, group.config.out
    runs: list[Run] = []
    for seed, assignment in enumerate(assignments):
        heads = [load_head(name, assignment.cohort.task.kind) for name in group.heads]
        if config.base_to_novel:
            heads = [head.for_base() for head in heads if isinstance(head, TextHead)]
        varies = config.draws_subsets or config.adaptation != FROZEN
        wanted = [head for head in heads if seed == 0 or not head.deterministic or varies]
        folders = {head.name: place_of(group, head, assignment, seed) for head in wanted}
        for folder, key in folders.values():
            recover(folder, out / WORK)
            if (folder / RECORD).is_file():
                # Of a process that was killed after it had published.
                remove_unfinished(out / WORK, _training(key, "*"))
        missing = [head for head in wanted if not known.is_there(folders[head.name][0], RECORD)]
        if missing:
            check_writable(out)
            if_exists = IfExists.REPLACED if known.force else IfExists.KEPT
            RunBuilder(group, assignment, seed, if_exists, progress).run(missing, folders)
        runs += [Run.read(folders[head.name][0]) for head in wanted]
    return runs


def encode_ahead_of(session: EncoderSession, heads: Sequence[Head], assignments: Sequence[SplitAssignment]) -> None:
    """Store what ``heads`` will read of stored features; see ``measure.encode_ahead``."""
    reads_maps = any("maps" in head.needs for head in heads)
    rows = np.unique(np.concatenate([assignment.cohort.rows[assignment.used] for assignment in assignments]))
    passes = max(
        passes_over_maps(heads, assignment.splits, len(assignment.used)) if reads_maps else 0.0
        for assignment in assignments
    )
    test = assignments[0].test
    parts = [(session.source, rows, passes), (session.test, None if test is None else test.rows, 1.0)]
    for source, wanted, often in parts:
        if not isinstance(source, EncodedSource) or wanted is None:
            continue
        source.expect(wanted.tolist(), maps=reads_maps, passes=often)
        if not reads_maps or (source.maps_policy == "store" and not source.holds(wanted.tolist())):
            source.prefetch(wanted.tolist(), maps=reads_maps)


def place_of(group: HeadGroup, head: Head, assignment: SplitAssignment, seed: int) -> tuple[Path, str]:
    """Where the run of ``head`` stands, and its key: a hash over all that decides its result."""
    config, task, source = group.config, assignment.cohort.task, group.session.source
    adaptation: str | dict[str, Any] = config.adaptation
    recipe = config.whole_recipe
    if recipe is not None:
        check_trainable(head, config.adaptation)
        adaptation = {
            "name": config.adaptation,
            "recipe": recipe.model_dump(),
            "precision": group.session.training_precision,
        }
        if recipe.batch_norm == "batch":
            # Each process normalises its own share of a batch.
            adaptation["processes"] = len(group.session.devices)
    content: dict[str, Any] = {
        "schema": 1,
        "evalfm": evalfm.__version__,
        "encoder": source.key,
        "seen": group.session.card["pretraining_data"],
        "task": task.model_dump(mode="json"),
        "head": {"name": head.name, "grid": grid_of(head, config)},
        "adaptation": adaptation,
        "data": assignment.key,
        "facts": assignment.facts,
        "options": config.key_options(),
        "seed": seed,
    }
    if has_refits(config, head, assignment, source.pooled_dim):
        # Which are part of what the run holds, so that asking for others makes another run.
        content["refits"] = [config.refits, config.refit_choice]
    if group.text is not None and reads_text(head):
        content["text"] = text_key(group.text, assignment.cohort.manifest.info.name)
    plugged = {name: [plugin.version, plugin.code] for name, plugin in plugins_of(task.metrics).items()}
    if plugged:
        content["metrics"] = plugged
    if assignment.cohort.kind.measured and "maps" in head.needs:
        content["masks"] = measured_key(assignment.cohort)
    key = content_key(content)
    return run_folder(config.out, group.session.name, task.name, head.name, config.adaptation, key), key


def passes_over_maps(heads: Sequence[Head], splits: Sequence[Split], images: int) -> float:
    """How often the maps of one of ``images`` are read, on average: in training, and twice to predict and measure."""
    schedules = {head.schedule for head in heads if isinstance(head, TrainedHead) and head.reads_maps}
    sizes = [(len(split.train), max(1, len(split.val))) for split in splits]
    reads = sum(sum(planned_reads(schedule, *size)) for schedule in schedules for size in sizes)
    return reads / max(1, images) + PREDICTIONS


def _training(key: str, fold: int | str) -> str:
    """Name of the work folder of a training."""
    return f"training-{key[:16]}-{fold}"


@dataclass(frozen=True)
class RunBuilder:
    """Makes the runs of one group and seed; each appears whole or not at all."""

    group: HeadGroup
    assignment: SplitAssignment
    seed: int
    if_exists: IfExists
    progress: Progress

    def run(self, heads: Sequence[Head], folders: dict[str, tuple[Path, str]]) -> None:
        """Fit, score and publish ``heads``: frozen ones together, trained ones one after the other."""
        recipe = self.group.config.whole_recipe
        if self.group.config.episodes is not None:
            self._episodes(heads, recipe, folders)
            return
        if recipe is None:
            self._frozen(heads, folders)
            return
        for head in heads:
            self._trained(head, recipe, *folders[head.name])

    def _frozen(self, heads: Sequence[Head], folders: dict[str, tuple[Path, str]]) -> None:
        watch, config = Stopwatch(), self.group.config
        self._compute_ahead(heads)
        fitted: dict[str, list[HeadResult]] = {head.name: [] for head in heads}
        dimensions = self.group.session.source.pooled_dim
        again = [head.name for head in heads if has_refits(config, head, self.assignment, dimensions)]
        for head in heads:
            if head.name not in again and wants_refits(config, head):
                self.progress.say(
                    f"No refits of {head.name} on so many images: comparisons speak of this trained head."
                )
        # A draw depends on patients and truth alone, so it is one for all heads, folds and encoders.
        draws = draws_of(self.assignment, config.refits, choose=config.refit_choice) if again else None
        of_heads = {} if draws is None or not draws.numbers else dict.fromkeys(again, draws)
        options = FitOptions(self.seed, config.threshold, self.group.text, config.base_to_novel, of_heads)
        for split in self.assignment.splits:
            self._announce(split.fold, ", ".join(head.name for head in heads))
            results = fit_frozen(self.group.session, heads, self.assignment, split, options, self.progress)
            for name, result in results.items():
                fitted[name].append(result)
        seconds = watch.seconds() / len(heads)
        for head in heads:
            section = NOTHING_LEARNT if not head.learns else draws.section if draws and head.name in again else None
            self._publish_results(head, fitted[head.name], *folders[head.name], seconds, (), section)

    def _episodes(self, heads: Sequence[Head], recipe: Recipe | None, folders: dict[str, tuple[Path, str]]) -> None:
        (split,), cohort = self.assignment.splits, self.assignment.cohort
        session, config = self.group.session, self.group.config
        assert split.episodes is not None
        if recipe is None:
            self._compute_ahead(heads)
        for head in heads:
            watch, works = Stopwatch(), []
            folder, key = folders[head.name]
            self._announce(None, f"{head.name}, {config.adaptation}, {config.subset.label}")
            grid, chosen = grid_of(head, config), Chosen()
            if recipe is None or config.adaptation == "frozen":
                solved = solve(session, cohort, split.episodes, head, config, self.group.text)
            else:
                works.append(adopt(config.out / WORK, _training(key, 0)))
                training = Training(config.adaptation, recipe, works[0], config.workers)
                tuning = FineTuning(session, cohort, head.name, training, self.seed, self.progress)
                solved, chosen = tuning.solve(split.episodes), Chosen(head={"epoch": "lowest loss on the support"})
            table = table_of(cohort, split.episodes, solved.aurocs)
            measured = measured_on(split, solved, grid, chosen)
            with self._publishing(head, measured, folder, key, watch.seconds()) as (work, record):
                write_run(work, record, table, {})
            for place in works:
                forget(place)

    def _trained(self, head: Head, recipe: Recipe, folder: Path, key: str) -> None:
        watch, config = Stopwatch(), self.group.config
        adaptation = config.adaptation
        assert adaptation != "frozen"
        if recipe.probe_start:
            self._compute_ahead([head])
        works, results = [], []
        options = FitOptions(self.seed, config.threshold)
        for split in self.assignment.splits:
            self._announce(split.fold, f"{head.name}, {adaptation}")
            place = adopt(config.out / WORK, _training(key, split.fold or 0))
            works.append(place)
            training = Training(adaptation, recipe, place, config.workers)
            # A new head for every split: one that was trained once would go on from there.
            new = load_head(head.name, self.assignment.cohort.task.kind)
            results.append(
                fit_trained(self.group.session, new, self.assignment, split, options, training, self.progress)
            )
        self._publish_results(head, results, folder, key, watch.seconds(), works)
        for place in works:
            forget(place)

    def _compute_ahead(self, heads: Sequence[Head]) -> None:
        assignment, session = self.assignment, self.group.session
        maps = any("maps" in head.needs for head in heads)
        used = assignment.used
        passes = passes_over_maps(heads, assignment.splits, len(used))
        rows = assignment.cohort.rows[used]
        compute_ahead(session.source, rows, maps=maps, progress=self.progress, passes=passes)
        if assignment.test is not None and session.test is not None:
            compute_ahead(session.test, assignment.test.rows, maps=maps, progress=self.progress, passes=1)

    def _announce(self, fold: int | None, what: str) -> None:
        label = f"{self.group.session.name} × {self.assignment.cohort.task.name}"
        if fold is not None:
            label += f", fold {fold + 1} of {len(self.assignment.splits)}"
        self.progress.say(f"{label}: {what}")

    def _publish_results(
        self,
        head: Head,
        results: Sequence[HeadResult],
        folder: Path,
        key: str,
        seconds: float,
        works: Sequence[Path],
        refits: RefitSection | None = None,
    ) -> None:
        assignment = self.assignment
        table, rows = predictions_table(assignment.cohort, assignment.test, results)
        measured = measured_by(assignment, head, results, table, halves=self.group.config.base_to_novel)
        again = refits_table(assignment.cohort, assignment.test, results)
        with self._publishing(head, measured, folder, key, seconds, refits) as (work, record):
            write_run(work, record, table, fold_tensors(results), fold_encoders(results), again)
            # With matplotlib, which only a run that is made needs.
            from evalfm.probing.pictures import draw_pictures

            draw_pictures(work, record, table, assignment.test or assignment.cohort, rows)
            for result, place in zip(results, works, strict=False):
                board = work / BOARD if result.split.fold is None else work / BOARD / f"fold{result.split.fold}"
                shutil.copytree(place / BOARD, board)

    @contextmanager
    def _publishing(
        self,
        head: Head,
        measured: TestResult,
        folder: Path,
        key: str,
        seconds: float,
        refits: RefitSection | None = None,
    ) -> Iterator[tuple[Path, Record]]:
        """The folder to write a run into, and its record."""
        text = self.group.text if reads_text(head) else None
        record = make_record(
            self.group.session, self.assignment, head, measured, self._config(), key, seconds, text, refits
        )
        with publishing(self.group.config.out, folder, self.if_exists) as work:
            yield work, record

    def _config(self) -> dict[str, Any]:
        """The options as a run records them: no path, and the recipe whole."""
        config, session = self.group.config, self.group.session
        recipe = config.whole_recipe
        return {
            **config.recorded(),
            "baseline": self.group.baseline,
            "seed": self.seed,
            # The task's name and not the path of its card, which may name a person or a place; the record has it whole.
            "task": self.assignment.cohort.task.name,
            "encoder": {"name": session.name, **session.requested},
            "recipe": {} if recipe is None else recipe.model_dump(mode="json"),
            **({} if recipe is None else {"processes": len(session.devices)}),
        }
