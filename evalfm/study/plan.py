"""The plan of a study, made before anything runs: its cells, what is left out, time, disk and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evalfm.config import ComputeOptions, EncoderOptions, MachineOptions, ProbeConfig, Shard
from evalfm.data.manifest import Manifest
from evalfm.data.registered import cache_folder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.cores import reader_count
from evalfm.features.encoded import USUAL_PASSES, EncodedSource
from evalfm.features.map_policy import cheaper_policy
from evalfm.features.memory import MEMORY
from evalfm.features.store import LARGEST_BUDGET, FeatureStore
from evalfm.heads import load_head
from evalfm.progress import SILENT, Progress
from evalfm.study.cohorts import Manifests, TaskCohort, TaskCohorts, assume_all, select_cohorts
from evalfm.study.config import Assumed, Study
from evalfm.study.estimate import CellEstimate, Rates, StoredFeatures, copies_of, estimate_cell
from evalfm.study.grid import Grid, LeftOut, expand
from evalfm.study.trial import EncoderFacts, load_for_trial, try_encoder
from evalfm.workers.devices import resolve

DECODE_SECONDS = 0.03
"""Of reading an image of 1024² and bringing it to 518², where there are none to try (PNG here: .02); one core."""
SCORE_SECONDS = 0.03
"""Of scoring the mask of one image of 1024² with its surface distances; one core."""
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
    map_bytes: float = 0.0
    policies: dict[tuple[str, str], str] = field(default_factory=dict)

    def plan(self, grid: Grid) -> tuple[PlannedCell, ...]:
        """Every cell with its cost; one encoder is in memory at a time."""
        self.store = FeatureStore(cache_folder() / "features")
        by_encoder: dict[str, list[ProbeConfig]] = {}
        for cell in grid.cells:
            by_encoder.setdefault(_encoder_of(cell), []).append(cell.on(self.machine))
        estimates: dict[str, CellEstimate | None] = {}
        for of_encoder in self.progress.track(by_encoder.values(), "trying the encoders", len(by_encoder)):
            estimates |= self._of_encoder(of_encoder)
        return tuple(PlannedCell(cell, estimates[cell.key], cell.key in grid.supervised) for cell in grid.cells)

    def assumptions(self) -> tuple[str, ...]:
        """What the figures rest on."""
        images, speed = self.assumed.images, self.assumed.speed
        said = []
        if images is not None:
            said.append(f"{images:,} images for every task, split .7/.1/.2, whatever its cohort or test_where")
            said.append(f"{LARGEST_BUDGET / 1e9:.0f} GB for stored maps; what does not fit is computed in every pass")
        said.append(
            "one blank image tried on this machine"
            if speed is None
            else f"{speed:g} · 10¹² operations a second, counted on the model"
        )
        if machine_shares := len(resolve(self.machine.devices)) - 1:
            said.append(f"{machine_shares + 1} processes that share the cells evenly and do not slow each other down")
        said.append("a training step is three forward passes; every training goes on to its last epoch")
        decode = ", ".join(sorted({f"{seconds * 1e3:.0f} ms" for seconds in self.decode.values()}))
        if decode:
            said.append(f"{decode} to read an image, by {reader_count(self.machine.workers)} workers, not overlapped")
        said.append(
            f"{SCORE_SECONDS * 1e3:.0f} ms to score the mask of an image; baselines but random weights are not counted"
        )
        return tuple(said)

    def _of_encoder(self, cells: list[ProbeConfig]) -> dict[str, CellEstimate | None]:
        name = cells[0].encoder
        if EncoderRef.parse(name).is_table:
            return dict.fromkeys((cell.key for cell in cells), None)
        device, precision = self._place()
        try:
            loaded = load_for_trial(
                name, cells[0], fetch=self.assumed.speed is None, device=device, precision=precision
            )
            heads = {
                (head, cohort.card.kind, cohort.classes)
                for cell in cells
                for cohort in [self._cohort(cell)]
                for head in cell.heads or ()
            }
            recipes = [cell.whole_recipe for cell in cells if cell.adaptation == "lora"]
            facts = try_encoder(loaded, heads, {recipe.rank for recipe in recipes if recipe is not None})
        except EvalfmError as error:
            self.warnings.append(f"{name}: {error}")
            return dict.fromkeys((cell.key for cell in cells), None)
        if facts.warning is not None:
            self.warnings.append(facts.warning)
        estimates: dict[str, CellEstimate | None] = {}
        for cell in cells:
            cohort = self._cohort(cell)
            rates = self._rates(loaded.encoder, facts, cohort)
            stored = self._stored(loaded.encoder, facts, cohort, cell)
            splits = cohort.sizes_of(cell)
            images = len(cohort.rows) if cohort.manifest is not None else max(split.total for split in splits)
            estimates[cell.key] = estimate_cell(cell, cohort.card.kind, splits, images, facts, stored, rates)
        return estimates

    def _cohort(self, cell: ProbeConfig) -> TaskCohort:
        return self.cohorts[cell.task, str(cell.data)]

    def _place(self) -> tuple[str, str]:
        """Device and precision of the trial; assumed machines need no GPU here."""
        if self.assumed.speed is not None:
            return "cpu", "float32"
        return place(self.machine)

    def _rates(self, encoder: Encoder, facts: EncoderFacts, cohort: TaskCohort) -> Rates:
        speed = self.assumed.speed
        # What computes without counted operations (a classical descriptor) is as fast as here.
        seconds = facts.flops / (speed * 1e12) if speed is not None and facts.flops else facts.seconds
        if cohort.data not in self.decode:
            self.decode[cohort.data] = self._decode_seconds(encoder, cohort)
        half = speed is not None if self.machine.precision == "auto" else self.machine.precision != "float32"
        half = half or self._place()[1] != "float32"
        return Rates(
            seconds,
            self.decode[cohort.data],
            SCORE_SECONDS,
            reader_count(self.machine.workers),
            2 if half else 4,
            None if speed is None else speed * 1e12,
        )

    def _decode_seconds(self, encoder: Encoder, cohort: TaskCohort) -> float:
        if self.assumed.decode_seconds is not None:
            return self.assumed.decode_seconds
        if cohort.manifest is None or not len(cohort.rows):
            return DECODE_SECONDS
        return decode_seconds(encoder, cohort.manifest, cohort.rows[:TRIED_IMAGES].tolist())

    def _stored(self, encoder: Encoder, facts: EncoderFacts, cohort: TaskCohort, cell: ProbeConfig) -> StoredFeatures:
        """What is missing for ``cell`` after all cells before it."""
        kind = cohort.card.kind
        reads_maps = any("maps" in load_head(name, kind).needs for name in cell.heads or ())
        entry = _encoder_of(cell)
        if cohort.manifest is not None:
            count, rows = len(cohort.rows), cohort.rows.tolist()
            source = EncodedSource(encoder, cohort.manifest, self.store, maps=self.machine.maps)
            lacking = count if facts.warning is not None else source.missing(rows, maps=False)
            whole = len(cohort.manifest)
        else:
            count = whole = lacking = max(split.total for split in cohort.sizes_of(cell))
        images, held, policy = whole * copies_of(cell, facts), False, "stream"
        if reads_maps:
            held = self.assumed.speed is None and facts.map_bytes * whole <= MEMORY.free(self._memory_place())
            recompute = max(
                facts.seconds, self.decode.get(cohort.data, DECODE_SECONDS) / reader_count(self.machine.workers)
            )
            policy = self._policy((entry, cohort.data), facts, images, held, recompute)
        lacking_maps = lacking if reads_maps else 0
        if reads_maps and cohort.manifest is not None and facts.warning is None and policy == "store":
            stored = EncodedSource(encoder, cohort.manifest, self.store, maps="store")
            lacking_maps = stored.missing(rows, maps=True)
        missing = self._first(entry, cohort.data, "pooled", lacking)
        missing_maps = self._first(entry, cohort.data, "maps", lacking_maps) if policy == "store" and reads_maps else 0
        prepared = self._first(entry, cohort.data, "prepared", count) if policy == "stream" and reads_maps else 0
        return StoredFeatures(missing, missing_maps, prepared, policy, held)

    def _memory_place(self) -> str:
        device = self._place()[0]
        return "host" if device == "cpu" else str(torch.zeros(0, device=device).device)

    def _policy(
        self, key: tuple[str, str], facts: EncoderFacts, images: int, held: bool, recompute_seconds: float
    ) -> str:
        """What becomes of the maps of an encoder on a data set: as the source will decide when it comes to it."""
        if self.machine.maps != "auto":
            return self.machine.maps
        if key not in self.policies:
            if self.assumed.images is None:
                left = self.store.budget_bytes - self.store.map_bytes - self.map_bytes
            else:
                left = LARGEST_BUDGET - self.map_bytes
            needed = float(facts.map_bytes * images)
            self.policies[key] = "store" if needed <= left else "stream"
            if self.assumed.speed is None and self.policies[key] == "store":
                self.policies[key], _ = cheaper_policy(
                    images,
                    lambda: images,
                    facts.map_bytes,
                    left,
                    self.store.folder,
                    passes=USUAL_PASSES,
                    held=held,
                    recompute=lambda: recompute_seconds,
                )
            if self.policies[key] == "store":
                self.map_bytes += needed
        return self.policies[key]

    def _first(self, encoder: str, data: str, what: str, count: int) -> int:
        """How many of ``count`` no earlier cell of the plan will have stored: the largest count so far is taken off."""
        key = (encoder, data, what)
        before = self.seen.get(key, 0)
        self.seen[key] = max(before, count)
        return max(0, count - before)


def place(machine: ComputeOptions) -> tuple[str, str]:
    """The device and precision that ``machine`` stands for here."""
    device = resolve(machine.devices)[0]
    fast = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    auto = "bfloat16" if fast else "float32"
    return device, auto if machine.precision == "auto" else machine.precision


def decode_seconds(encoder: Encoder, manifest: Manifest, rows: Sequence[int]) -> float:
    """Of reading and preparing one image, by trying ``rows``."""
    started = time.perf_counter()
    for row in rows:
        encoder.prepare(manifest.image(row))
    return (time.perf_counter() - started) / len(rows)


def _encoder_of(cell: ProbeConfig) -> str:
    """The encoder that a cell loads, by name and options."""
    return cell.model_dump_json(include={"encoder", *EncoderOptions.model_fields})
