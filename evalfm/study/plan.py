"""The plan of a study, made before anything runs: its cells, what is left out, time, disk and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from evalfm.config import MachineOptions, ProbeConfig, Shard
from evalfm.data.registered import cache_folder
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.forward import device_of
from evalfm.features.memory import MEMORY
from evalfm.features.store import LARGEST_BUDGET, FeatureStore
from evalfm.heads import load_head
from evalfm.progress import SILENT, Progress
from evalfm.study.cohorts import Manifests, TaskCohort, TaskCohorts, assume_all, select_cohorts
from evalfm.study.config import Assumed, Study
from evalfm.study.estimate import (
    SCORE_SECONDS,
    CellEstimate,
    EncoderFacts,
    Missing,
    copies_of,
    estimate_cell,
    load_for_trial,
    try_encoder,
)
from evalfm.study.grid import Grid, LeftOut, expand
from evalfm.workers.cores import reader_count
from evalfm.workers.devices import resolve

DECODE_SECONDS = 0.03
"""Of reading an image of 1024² and bringing it to 518², where there are none to try (PNG here: .02); one core."""
TRIED_IMAGES = 3


@dataclass(frozen=True)
class PlannedCell:
    """A cell and its cost; None where it is unknown, as for an encoder from code that needs a GPU.

    Attributes:
        supervised: whether the cell stands beside the grid.
    """

    cell: ProbeConfig
    estimate: CellEstimate | None
    supervised: bool = False


@dataclass(frozen=True)
class Plan:
    """What a study will do.

    Attributes:
        cells: in the order in which they run.
        left_out: combinations that make no sense.
        warnings: what will make cells fail unless it is fixed, such as weights that are not here.
        assumptions: what the figures rest on, one sentence each.
        shard: whose cells they are; None is all of the study, which has ``every`` so many.
        together: how many processes share the cells.
    """

    study: Study
    cells: tuple[PlannedCell, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    shard: Shard | None = None
    every: int = 0
    together: int = 1

    @property
    def known(self) -> list[CellEstimate]:
        """The estimates that there are."""
        return [each.estimate for each in self.cells if each.estimate is not None]

    @property
    def seconds(self) -> float:
        """Of all cells, shared evenly by the processes."""
        return sum(each.seconds for each in self.known) / self.together

    @property
    def disk_bytes(self) -> dict[str, float]:
        """What stays on disk, by name."""
        total: dict[str, float] = {}
        for each in self.known:
            for name, count in each.disk_bytes.items():
                total[name] = total.get(name, 0.0) + count
        return {name: count for name, count in total.items() if count}

    @property
    def work_bytes(self) -> float:
        """The most that checkpoints take at any time."""
        return max((each.work_bytes for each in self.known), default=0.0)

    @property
    def memory_bytes(self) -> float:
        """Of the largest cell."""
        return max((each.memory_bytes for each in self.known), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "study": self.study.name,
            "title": self.study.title,
            "shard": None if self.shard is None else {"number": self.shard.number, "of": self.shard.count},
            "cells": [
                {"key": each.cell.key, "supervised": each.supervised}
                | each.cell.model_dump(mode="json", exclude={*MachineOptions.model_fields, "out", "force"})
                | {"estimate": None if each.estimate is None else vars(each.estimate)}
                for each in self.cells
            ],
            "left_out": [vars(each) for each in self.left_out],
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
            "total": {
                "cells": len(self.cells),
                "cells_of_all_shards": self.every,
                "seconds": self.seconds,
                "disk_bytes": self.disk_bytes,
                "work_bytes": self.work_bytes,
                "memory_bytes": self.memory_bytes,
            },
        }


def check_study(study: Study, manifests: Manifests) -> tuple[Grid, TaskCohorts]:
    """The cells of ``study``, after every fault of all of them has been looked for.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.
    """
    cohorts, faults = select_cohorts(study, manifests)
    return _checked(study, cohorts, faults), cohorts


def _checked(study: Study, cohorts: TaskCohorts, faults: list[str]) -> Grid:
    grid = expand(study, cohorts)
    faults = list(dict.fromkeys([*faults, *grid.faults]))
    if len(faults) == 1:
        raise EvalfmError(faults[0])
    if faults:
        raise EvalfmError(f"The study {study.name} has {len(faults)} faults:\n" + "\n".join(f"- {x}" for x in faults))
    if not grid.cells:
        raise EvalfmError(f"The study {study.name} has no cell to run; every combination was left out.")
    return grid


def make_plan(
    study: Study,
    machine: MachineOptions | None = None,
    assumed: Assumed | None = None,
    manifests: Manifests | None = None,
    progress: Progress = SILENT,
    shard: Shard | None = None,
) -> Plan:
    """Find out what ``study``, or a shard of it, will cost; each encoder is loaded once, and nothing is written.

    Raises:
        EvalfmError: names every fault that the user must fix before anything runs.
    """
    machine, assumed, manifests = machine or MachineOptions(), assumed or Assumed(), manifests or Manifests(progress)
    if assumed.images is None:
        grid, cohorts = check_study(study, manifests)
    else:
        cohorts, faults = assume_all(study, assumed.images)
        grid = _checked(study, cohorts, faults)
    planner = _Planner(study, machine, assumed, cohorts, progress)
    cells = planner.plan(grid.of(shard))
    facts = (tuple(grid.left_out), tuple(planner.warnings), planner.assumptions())
    together = 1 if machine.executor == "ray" else len(resolve(machine.devices))
    return Plan(study, cells, *facts, shard, len(grid.cells), together)


@dataclass
class _Planner:
    """Goes through the cells in order and remembers what earlier ones will have stored."""

    study: Study
    machine: MachineOptions
    assumed: Assumed
    cohorts: TaskCohorts
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    decode: dict[str, float] = field(default_factory=dict)
    seen: dict[tuple[str, str, str], int] = field(default_factory=dict)
    maps: dict[tuple[str, str], int] = field(default_factory=dict)

    def plan(self, grid: Grid) -> tuple[PlannedCell, ...]:
        """Every cell with its cost; one encoder is in memory at a time."""
        self.store = FeatureStore(cache_folder() / "features")
        by_encoder: dict[str, list[ProbeConfig]] = {}
        for cell in grid.cells:
            by_encoder.setdefault(_encoder_of(cell), []).append(cell.on(self.machine))
        estimates: dict[str, CellEstimate] = {}
        for cells in self.progress.track(by_encoder.values(), "trying the encoders", len(by_encoder)):
            if not EncoderRef.parse(cells[0].encoder).is_table:
                try:
                    estimates |= self._of_encoder(cells)
                except EvalfmError as error:
                    self.warnings.append(f"{cells[0].encoder}: {error}")
        return tuple(PlannedCell(cell, estimates.get(cell.key), cell.key in grid.supervised) for cell in grid.cells)

    def assumptions(self) -> tuple[str, ...]:
        """What the figures rest on."""
        images, speed, processes = self.assumed.images, self.assumed.speed, len(resolve(self.machine.devices))
        said = ["one blank image tried on this machine"]
        if speed is not None:
            said = [f"{speed:g} · 10¹² operations a second, counted on the model"]
        if images is not None:
            said[:0] = [
                f"{images:,} images for every task, split .7/.1/.2, whatever its cohort or test_where",
                f"{LARGEST_BUDGET / 1e9:.0f} GB for stored maps; what does not fit is computed in every pass",
            ]
        if processes > 1:
            said.append(f"{processes} processes that share the cells evenly and do not slow each other down")
        said.append("a training step is three forward passes; every training goes on to its last epoch")
        decode = ", ".join(sorted({f"{seconds * 1e3:.0f} ms" for seconds in self.decode.values()}))
        if decode:
            said.append(f"{decode} to read an image, by {reader_count(self.machine.workers)} workers, not overlapped")
        if self.machine.cache_images:
            said.append("prepared images are not counted: every pass is taken to read its images, and they take disk")
        score = f"{SCORE_SECONDS * 1e3:.0f} ms to score the mask of an image"
        return (*said, f"{score}; baselines but random weights, and the memory of heads, are not counted")

    def _of_encoder(self, cells: list[ProbeConfig]) -> dict[str, CellEstimate]:
        """The cost of ``cells``, which have one encoder.

        Raises:
            EvalfmError: it cannot be tried here.
        """
        speed, kept, here = self.assumed.speed, self.machine.precision, {}
        if speed is None:
            here = {"device": resolve(self.machine.devices)[0], "precision": kept}
        encoder, warning = load_for_trial(cells[0].encoder, cells[0], fetch=speed is None, **here)
        of_cells = [(cell, self.cohorts[cell.task, str(cell.data)]) for cell in cells]
        heads = {(head, of.card.kind, of.classes) for cell, of in of_cells for head in cell.heads or ()}
        whole = kept == "float32" or (kept == "auto" and speed is None and encoder.precision == "float32")
        facts = try_encoder(encoder, heads, None if speed is None else speed * 1e12, 4 if whole else 2)
        if warning is not None:
            self.warnings.append(warning)
        estimates = {}
        for cell, cohort in of_cells:
            splits = cohort.sizes_of(cell)
            images = len(cohort.rows) if cohort.manifest is not None else max(split.total for split in splits)
            read = self._read_seconds(encoder, cohort)
            missing = self._missing(cell, encoder, facts, cohort, images, drawn=warning is not None)
            estimates[cell.key] = estimate_cell(cell, cohort.card.kind, splits, images, facts, missing, read)
        return estimates

    def _read_seconds(self, encoder: Encoder, cohort: TaskCohort) -> float:
        """Of reading an image, shared by the workers; the first encoder of a data set tries it."""
        if cohort.data not in self.decode:
            seconds, tried = self.assumed.decode_seconds, cohort.rows[:TRIED_IMAGES].tolist()
            if seconds is None and cohort.manifest is not None and tried:
                started = time.perf_counter()
                for row in tried:
                    encoder.prepare(cohort.manifest.image(row))
                seconds = (time.perf_counter() - started) / len(tried)
            self.decode[cohort.data] = DECODE_SECONDS if seconds is None else seconds
        return self.decode[cohort.data] / reader_count(self.machine.workers)

    def _missing(
        self, cell: ProbeConfig, encoder: Encoder, facts: EncoderFacts, cohort: TaskCohort, images: int, *, drawn: bool
    ) -> Missing:
        """What neither the store nor a cell before ``cell`` has; ``drawn`` weights are not those of stored features."""
        entry, kind = (_encoder_of(cell), cohort.data), cohort.card.kind
        here = cohort.manifest is not None and not drawn

        def lacking(what: str) -> int:
            count = images
            if here:
                assert cohort.manifest is not None
                source = EncodedSource(encoder, cohort.manifest, self.store, maps="store")
                count = source.missing(cohort.rows.tolist(), maps=what == "maps")
            before = self.seen.get((*entry, what), 0)
            self.seen[*entry, what] = max(before, count)
            return max(0, count - before)

        pooled = lacking("pooled")
        if not any("maps" in load_head(name, kind).needs for name in cell.heads or ()):
            return Missing(pooled)
        needed, place = facts.map_bytes * images * copies_of(cell, facts), device_of(encoder)
        if self._stores(entry, needed):
            return Missing(pooled, lacking("maps"))
        free = MEMORY.free("host" if place.type == "cpu" else str(place)) if self.assumed.speed is None else 0
        return Missing(pooled, 0, "memory" if needed <= free else "stream")

    def _stores(self, entry: tuple[str, str], needed: int) -> bool:
        """Whether maps of an encoder on a data set are stored: as asked for, else where the budget still has room."""
        if self.machine.maps != "auto":
            return self.machine.maps == "store"
        if entry not in self.maps:
            budget = LARGEST_BUDGET if self.assumed.images else self.store.budget_bytes - self.store.map_bytes
            self.maps[entry] = needed if needed <= budget - sum(self.maps.values()) else 0
        return self.maps[entry] > 0


def _encoder_of(cell: ProbeConfig) -> str:
    """The encoder that a cell loads, by name and options."""
    return cell.model_dump_json(include={"encoder", *EncoderOptions.model_fields})
