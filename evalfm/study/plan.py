"""The plan of a study, made before anything runs: its cells, what is left out, time, disk and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evalfm.data.manifest import Manifest
from evalfm.data.registered import cache_folder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import LARGEST_BUDGET, FeatureStore
from evalfm.heads import load_head
from evalfm.progress import SILENT, Progress
from evalfm.study.cell import Cell, Machine
from evalfm.study.cohorts import Asked, Manifests, Posed, assume_all, select_cohorts
from evalfm.study.config import EncoderEntry, Study
from evalfm.study.estimate import CellEstimate, Rates, Stored, copies_of, estimate_cell
from evalfm.study.grid import Grid, LeftOut, expand
from evalfm.study.trial import EncoderFacts, load_for_trial, try_encoder
from evalfm.training.recipe import recipe_of

DECODE_SECONDS = 0.03
"""Of reading a film of 1024² and bringing it to 518², where there are no films to try (PNG here: .02); one core."""
SCORE_SECONDS = 0.03
"""Of scoring the mask of one film of 1024² with its surface distances; one core."""
TRIED_FILMS = 3


@dataclass(frozen=True)
class Assumed:
    """A data set or a machine that is not at hand.

    Attributes:
        images: of the data set, dealt .7/.1/.2; None reads the study's own data.
        speed: 10¹² operations a second that the machine keeps up; None tries this one.
        decode_seconds: of reading one film by one worker; None tries films of the data, or takes a stated value.
    """

    images: int | None = None
    speed: float | None = None
    decode_seconds: float | None = None


@dataclass(frozen=True)
class PlannedCell:
    """A cell and its cost; None where it cannot be told, as for an encoder from code that needs a GPU."""

    cell: Cell
    estimate: CellEstimate | None


@dataclass(frozen=True)
class Plan:
    """What a study will do.

    Attributes:
        cells: in the order in which they run.
        left_out: combinations that make no sense.
        warnings: what will make cells fail unless it is mended, such as weights that are not here.
        assumptions: what the figures rest on, one sentence each.
    """

    study: Study
    cells: tuple[PlannedCell, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def known(self) -> list[CellEstimate]:
        """The estimates that there are."""
        return [each.estimate for each in self.cells if each.estimate is not None]

    @property
    def seconds(self) -> float:
        """Of all cells, one after the other."""
        return sum(each.seconds for each in self.known)

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
            "cells": [
                {"key": each.cell.key, **each.cell.model_dump(mode="json")}
                | {"estimate": None if each.estimate is None else vars(each.estimate)}
                for each in self.cells
            ],
            "left_out": [vars(each) for each in self.left_out],
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
            "total": {
                "cells": len(self.cells),
                "seconds": self.seconds,
                "disk_bytes": self.disk_bytes,
                "work_bytes": self.work_bytes,
                "memory_bytes": self.memory_bytes,
            },
        }


def check_study(study: Study, manifests: Manifests) -> tuple[Grid, Posed]:
    """The cells of ``study``, after every fault of all of them has been looked for.

    Raises:
        EvalfmError: names every fault that the user must mend before anything runs.
    """
    asked, faults = select_cohorts(study, manifests)
    return _checked(study, asked, faults), asked


def _checked(study: Study, asked: Posed, faults: list[str]) -> Grid:
    grid = expand(study, asked)
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
    machine: Machine | None = None,
    assumed: Assumed | None = None,
    manifests: Manifests | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Find out what ``study`` will cost; each encoder is loaded once for a trial, and nothing is written.

    Raises:
        EvalfmError: names every fault that the user must mend before anything runs.
    """
    machine, assumed, manifests = machine or Machine(), assumed or Assumed(), manifests or Manifests(progress)
    if assumed.images is None:
        grid, asked = check_study(study, manifests)
    else:
        asked, faults = assume_all(study, assumed.images)
        grid = _checked(study, asked, faults)
    planner = _Planner(study, machine, assumed, asked, progress)
    cells = planner.plan(grid.cells)
    return Plan(study, cells, tuple(grid.left_out), tuple(planner.warnings), planner.assumptions())


@dataclass
class _Planner:
    """Goes through the cells in order and remembers what earlier ones will have stored."""

    study: Study
    machine: Machine
    assumed: Assumed
    asked: Posed
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    decode: dict[str, float] = field(default_factory=dict)
    seen: dict[tuple[str, str, str], int] = field(default_factory=dict)
    map_bytes: float = 0.0
    policies: dict[tuple[str, str], str] = field(default_factory=dict)

    def plan(self, cells: list[Cell]) -> tuple[PlannedCell, ...]:
        """Every cell with its cost; one encoder is in memory at a time."""
        self.store = FeatureStore(cache_folder() / "features")
        by_encoder: dict[str, list[Cell]] = {}
        for cell in cells:
            by_encoder.setdefault(_start(cell).model_dump_json(), []).append(cell)
        found: dict[str, CellEstimate | None] = {}
        for text, of_encoder in self.progress.track(by_encoder.items(), "trying the encoders", len(by_encoder)):
            found |= self._of_encoder(EncoderEntry.model_validate_json(text), of_encoder)
        return tuple(PlannedCell(cell, found[cell.key]) for cell in cells)

    def assumptions(self) -> tuple[str, ...]:
        """What the figures rest on."""
        images, speed = self.assumed.images, self.assumed.speed
        told = []
        if images is not None:
            told.append(f"{images:,} images for every task, dealt .7/.1/.2, whatever its cohort or test_where")
            told.append(f"{LARGEST_BUDGET / 1e9:.0f} GB for stored maps; what does not fit is computed in every pass")
        told.append(
            "one blank film tried on this machine"
            if speed is None
            else f"{speed:g} · 10¹² operations a second, counted on the model"
        )
        told.append("a training step is three forward passes; every training goes on to its last epoch")
        decode = ", ".join(sorted({f"{seconds * 1e3:.0f} ms" for seconds in self.decode.values()}))
        if decode:
            told.append(f"{decode} to read a film, by {self.machine.workers} workers, not overlapped")
        told.append(
            f"{SCORE_SECONDS * 1e3:.0f} ms to score a film's mask; baselines but random weights are not counted"
        )
        return tuple(told)

    def _of_encoder(self, entry: EncoderEntry, cells: list[Cell]) -> dict[str, CellEstimate | None]:
        if EncoderRef.parse(entry.name).is_table:
            return dict.fromkeys((cell.key for cell in cells), None)
        device, precision = self._place()
        try:
            loaded = load_for_trial(entry, fetch=self.assumed.speed is None, device=device, precision=precision)
            heads = {
                (head, card.kind, self.asked[cell.task, cell.data].classes)
                for cell in cells
                for card in [self.asked[cell.task, cell.data].card]
                for head in cell.heads
            }
            recipes = [recipe_of(cell.adaptation, cell.recipe) for cell in cells if cell.adaptation == "lora"]
            facts = try_encoder(loaded, heads, {recipe.rank for recipe in recipes if recipe is not None})
        except EvalfmError as error:
            self.warnings.append(f"{entry.name}: {error}")
            return dict.fromkeys((cell.key for cell in cells), None)
        if facts.warning is not None:
            self.warnings.append(facts.warning)
        found: dict[str, CellEstimate | None] = {}
        for cell in cells:
            asked = self.asked[cell.task, cell.data]
            rates = self._rates(loaded.encoder, facts, asked)
            stored = self._stored(loaded.encoder, facts, asked, cell)
            parts = asked.sizes[cell.subset]
            images = len(asked.rows) if asked.manifest is not None else max(part.total for part in parts)
            kind = asked.card.kind
            found[cell.key] = estimate_cell(cell, kind, parts, images, facts, stored, rates, self.machine)
        return found

    def _place(self) -> tuple[str, str]:
        """Device and precision of the trial; assumed machines need no GPU here."""
        if self.assumed.speed is not None:
            return "cpu", "float32"
        return place(self.machine)

    def _rates(self, encoder: Encoder, facts: EncoderFacts, asked: Asked) -> Rates:
        speed = self.assumed.speed
        # What computes without counted operations (a classical descriptor) is as fast as here.
        seconds = facts.flops / (speed * 1e12) if speed is not None and facts.flops else facts.seconds
        if asked.data not in self.decode:
            self.decode[asked.data] = self._decode_seconds(encoder, asked)
        half = speed is not None if self.machine.precision == "auto" else self.machine.precision != "float32"
        half = half or self._place()[1] != "float32"
        return Rates(
            seconds,
            self.decode[asked.data],
            SCORE_SECONDS,
            self.machine.workers,
            2 if half else 4,
            None if speed is None else speed * 1e12,
        )

    def _decode_seconds(self, encoder: Encoder, asked: Asked) -> float:
        if self.assumed.decode_seconds is not None:
            return self.assumed.decode_seconds
        if asked.manifest is None or not len(asked.rows):
            return DECODE_SECONDS
        return decode_seconds(encoder, asked.manifest, asked.rows[:TRIED_FILMS].tolist())

    def _stored(self, encoder: Encoder, facts: EncoderFacts, asked: Asked, cell: Cell) -> Stored:
        """What is missing for ``cell`` after all cells before it."""
        kind = asked.card.kind
        reads_maps = any("maps" in load_head(name, kind).needs for name in cell.heads)
        entry = _start(cell).model_dump_json()
        if asked.manifest is not None:
            count, rows = len(asked.rows), asked.rows.tolist()
            source = EncodedSource(encoder, asked.manifest, self.store, maps=self.machine.maps)
            lacking = count if facts.warning is not None else source.missing(rows, maps=False)
            whole = len(asked.manifest)
        else:
            count = whole = lacking = max(part.total for part in asked.sizes[cell.subset])
        policy = self._policy((entry, asked.data), facts, whole * copies_of(cell, facts)) if reads_maps else "stream"
        lacking_maps = lacking if reads_maps else 0
        if reads_maps and asked.manifest is not None and facts.warning is None and policy == "store":
            stored = EncodedSource(encoder, asked.manifest, self.store, maps="store")
            lacking_maps = stored.missing(rows, maps=True)
        missing = self._first(entry, asked.data, "pooled", lacking)
        missing_maps = self._first(entry, asked.data, "maps", lacking_maps) if policy == "store" and reads_maps else 0
        films = self._first(entry, asked.data, "films", count) if policy == "stream" and reads_maps else 0
        return Stored(missing, missing_maps, films, policy)

    def _policy(self, key: tuple[str, str], facts: EncoderFacts, images: int) -> str:
        """What becomes of the maps of an encoder on a data set: as the store will decide when it comes to it."""
        if self.machine.maps != "auto":
            return self.machine.maps
        if key not in self.policies:
            if self.assumed.images is None:
                left = self.store.budget_bytes - self.store.map_bytes - self.map_bytes
            else:
                left = LARGEST_BUDGET - self.map_bytes
            needed = float(facts.map_bytes * images)
            self.policies[key] = "store" if needed <= left else "stream"
            if self.policies[key] == "store":
                self.map_bytes += needed
        return self.policies[key]

    def _first(self, encoder: str, data: str, what: str, count: int) -> int:
        """How many of ``count`` no earlier cell of the plan will have stored: the largest count so far is taken off."""
        key = (encoder, data, what)
        before = self.seen.get(key, 0)
        self.seen[key] = max(before, count)
        return max(0, count - before)


def place(machine: Machine) -> tuple[str, str]:
    """The device and precision that ``machine`` stands for here."""
    on_gpu = torch.cuda.is_available() if machine.device == "auto" else machine.device != "cpu"
    device = "cuda" if on_gpu and machine.device == "auto" else machine.device
    device = "cpu" if device == "auto" else device
    fast = on_gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    auto = "bfloat16" if fast else "float32"
    return device, auto if machine.precision == "auto" else machine.precision


def decode_seconds(encoder: Encoder, manifest: Manifest, rows: Sequence[int]) -> float:
    """Of reading and preparing one film, by trying ``rows``."""
    started = time.perf_counter()
    for row in rows:
        encoder.prepare(manifest.image(row))
    return (time.perf_counter() - started) / len(rows)


def _start(cell: Cell) -> EncoderEntry:
    """The encoder that a cell loads: from scratch with random weights."""
    return cell.encoder.model_copy(update={"weights": "random"}) if cell.adaptation == "scratch" else cell.encoder
