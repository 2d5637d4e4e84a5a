"""What few-shot episodes will cost: images to encode once, and a training for each episode that is fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evalfm.config import ComputeOptions, EncoderOptions, ProbeConfig
from evalfm.data.registered import cache_folder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.cores import reader_count
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.probing.few_shot.cohort import EpisodeCohort
from evalfm.probing.few_shot.config import FINE_TUNE
from evalfm.progress import SILENT, Progress
from evalfm.study.cohorts import Sizes
from evalfm.study.config import EncoderEntry
from evalfm.study.episodes import EpisodeCell, EpisodeStudy, EpisodeTask, cells
from evalfm.study.estimate import CellEstimate, Rates, StoredFeatures, estimate_cell
from evalfm.study.plan import SCORE_SECONDS, TRIED_IMAGES, decode_seconds, place
from evalfm.study.trial import EncoderFacts, Loaded, load_for_trial, try_encoder

FEATURES = "features"
"""All methods that do not train the encoder: they share one encoding of the images."""


@dataclass(frozen=True)
class EpisodeCost:
    """One line of the plan.

    Attributes:
        method: ``features`` stands for all methods that need no training of the encoder.
        shots: of each class; None where all numbers of shots share the work.
        episodes: trainings, or episodes that are solved in one batch.
        estimate: None where the encoder cannot be tried.
    """

    encoder: str
    task: str
    data: str
    method: str
    shots: int | None
    episodes: int
    estimate: CellEstimate | None


@dataclass(frozen=True)
class EpisodePlan:
    """What the episodes will cost, one encoder and task after the other.

    Attributes:
        left_out: methods that do not serve an encoder.
        warnings: what will make cells fail unless it is fixed, such as weights that are not here.
    """

    study: EpisodeStudy
    costs: tuple[EpisodeCost, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all lines."""
        return sum(each.estimate.seconds for each in self.costs if each.estimate is not None)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the figures rest on."""
        return (
            "one blank image tried on this machine",
            "a training step is three forward passes; every training goes on to its last epoch",
            "solving the episodes on stored features is not counted, nor that tasks on one data set share images",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        lines = [
            {name: value for name, value in vars(each).items() if name != "estimate"}
            | {"estimate": None if each.estimate is None else vars(each.estimate)}
            for each in self.costs
        ]
        return {
            "name": self.study.name,
            "costs": lines,
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
            "seconds": self.seconds,
        }


def plan_episodes(
    study: EpisodeStudy,
    cohorts: Mapping[EpisodeTask, EpisodeCohort],
    machine: ComputeOptions,
    progress: Progress = SILENT,
) -> EpisodePlan:
    """Find out what ``study`` will cost; each encoder is loaded once for a trial, and nothing is written.

    Raises:
        EvalfmError: an encoder is not known, or left without any method.
    """
    grid = cells(study)
    planner = _EpisodePlanner(study, cohorts, machine)
    by_encoder: dict[str, list[EpisodeCell]] = {}
    for cell in grid:
        by_encoder.setdefault(cell.encoder.model_dump_json(), []).append(cell)
    costs: list[EpisodeCost] = []
    for of_encoder in progress.track(by_encoder.values(), "trying the encoders", len(by_encoder)):
        costs += planner.of_encoder(of_encoder)
    left_out = dict.fromkeys(reason for cell in grid for reason in cell.left_out)
    return EpisodePlan(study, tuple(costs), tuple(left_out), tuple(planner.warnings))


@dataclass(frozen=True)
class _Tried:
    """An encoder after its trial on one task."""

    loaded: Loaded
    facts: EncoderFacts
    rates: Rates


@dataclass
class _EpisodePlanner:
    study: EpisodeStudy
    cohorts: Mapping[EpisodeTask, EpisodeCohort]
    machine: ComputeOptions
    warnings: list[str] = field(default_factory=list)

    def of_encoder(self, cells: list[EpisodeCell]) -> Iterator[EpisodeCost]:
        """The lines of the tasks of one encoder, which is loaded once."""
        loaded = self._loaded(cells[0].encoder)
        for cell in cells:
            tried = None if loaded is None else self._try(loaded, cell)
            names = cell.encoder.name, cell.task.name, self.study.data_of(cell.task)
            if set(cell.methods) - {FINE_TUNE}:
                estimate = None if tried is None else self._features(cell, tried)
                yield EpisodeCost(*names, FEATURES, None, self.study.episodes, estimate)
            if FINE_TUNE in cell.methods:
                episodes = self.study.episodes_of(FINE_TUNE)
                for shots in self.study.shots:
                    estimate = None if tried is None else self._training(cell, shots, episodes, tried)
                    yield EpisodeCost(*names, FINE_TUNE, shots, episodes, estimate)

    def _loaded(self, entry: EncoderEntry) -> Loaded | None:
        if EncoderRef.parse(entry.name).is_table:
            return None
        device, precision = place(self.machine)
        try:
            loaded = load_for_trial(entry.name, entry, fetch=True, device=device, precision=precision)
        except EvalfmError as error:
            self.warnings.append(f"{entry.name}: {error}")
            return None
        if loaded.warning is not None:
            self.warnings.append(loaded.warning)
        return loaded

    def _kind(self, cell: EpisodeCell) -> str:
        kind = self.cohorts[cell.task].cohort.task.kind
        return kind if kind == "binary" else "multiclass"

    def _try(self, loaded: Loaded, cell: EpisodeCell) -> _Tried:
        cohort = self.cohorts[cell.task]
        facts = try_encoder(loaded, {("linear", self._kind(cell), len(cohort.cohort.class_names))}, ())
        rows = cohort.cohort.rows[cohort.drawn.used[:TRIED_IMAGES]].tolist()
        decode = decode_seconds(loaded.encoder, cohort.cohort.manifest, rows)
        number_bytes = 4 if place(self.machine)[1] == "float32" else 2
        return _Tried(
            loaded, facts, Rates(facts.seconds, decode, SCORE_SECONDS, reader_count(self.machine.workers), number_bytes)
        )

    def _features(self, cell: EpisodeCell, tried: _Tried) -> CellEstimate:
        """Of encoding what stands in any episode and is not stored yet."""
        cohort = self.cohorts[cell.task]
        rows = cohort.cohort.rows[cohort.drawn.used].tolist()
        missing = len(rows)
        if tried.facts.warning is None:
            store = FeatureStore(cache_folder() / "features")
            missing = EncodedSource(tried.loaded.encoder, cohort.cohort.manifest, store).missing(rows, maps=False)
        return self._estimate(cell, None, 1, Sizes(len(rows), 0, 0), missing, tried)

    def _training(self, cell: EpisodeCell, shots: int, episodes: int, tried: _Tried) -> CellEstimate:
        """Of training a copy of the encoder on each support, which is its val too; no copy is kept."""
        classes = len(self.cohorts[cell.task].class_names)
        sizes = Sizes(shots * classes, shots * classes, self.study.queries * classes)
        return replace(self._estimate(cell, shots, episodes, sizes, 0, tried), disk_bytes={})

    def _estimate(
        self, cell: EpisodeCell, shots: int | None, seeds: int, sizes: Sizes, missing: int, tried: _Tried
    ) -> CellEstimate:
        stored = StoredFeatures(missing, 0, 0, "stream")
        images = sizes.train + sizes.test
        cost = self._cell(cell, shots, seeds)
        return estimate_cell(cost, self._kind(cell), [sizes], images, tried.facts, stored, tried.rates)

    def _cell(self, cell: EpisodeCell, shots: int | None, seeds: int) -> ProbeConfig:
        """The cell of a study that costs as much."""
        trained = shots is not None
        recipe = self.study.whole_recipe.model_dump(exclude={"rank", "alpha"}) if trained else {}
        options = {name: getattr(cell.encoder, name) for name in EncoderOptions.model_fields}
        options |= {name: getattr(self.machine, name) for name in ComputeOptions.model_fields}
        return ProbeConfig(
            **options,
            encoder=cell.encoder.name,
            task=cell.task.name,
            heads=("linear",),
            adaptation="full" if trained else "frozen",
            recipe=recipe,
            data=self.study.data_of(cell.task),
            shots=shots,
            seeds=seeds,
            baselines="none",
        )
