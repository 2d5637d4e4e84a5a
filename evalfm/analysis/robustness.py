"""How much features, scores and metric of finished runs change where the images are perturbed: what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from evalfm.analysis.figures import describe
from evalfm.analysis.pages import Section
from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Signed, Table, Value, table
from evalfm.cards import read_json
from evalfm.data.perturbations import FAMILIES, Perturbation
from evalfm.errors import EvalfmError
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate

ROBUSTNESS = "robustness.json"
SHIFT = "share of the way"
LOGARITHMIC = ("dose", "gamma", "jpeg", "downsample")
"""Families of which equal ratios of strengths are equally far apart on a chart."""
WORDS = (
    "Images are perturbed at their own resolution before each encoder prepares them, alike for all encoders; each is "
    "answered by the head that has not seen it, at the threshold that the run chose. Share of the way: the mean of "
    "1 − cosine between the features of the perturbed and the clean image, over that between images of different "
    "patients; 0 where nothing moves, 1 where an image is as far from itself as from anybody else's. Intervals are "
    "95 % over patients, and of these trained heads: training variance is not counted, and no p is corrected."
)
INDEX_WORDS = (
    "Robustness index: of the nearest images of other patients that share the class or {by} alone, the share with the "
    "class; {k} neighbours by cosine. Chance is what random neighbours would have on these images, and an index below "
    "it says that {by} decides more than the class. Intervals leave out groups of patients, with neighbours found anew."
)


@dataclass(frozen=True)
class PerturbationEffect:
    """What one perturbation at one strength changes, on the test images of one run.

    Attributes:
        perturbation, strength: as in ``evalfm.data.perturbations``; ``label`` names both with the unit.
        cosine: mean cosine of the perturbed image's features to those of the clean one.
        shift: the same as a share of the way to the image of another patient (``shift_share``).
        score: mean change of the score (probability, measurement, or predicted area), perturbed minus clean; absent
            where an image has several scores.
        absolute: mean of the absolute change of the scores.
        flipped: share of the decisions at the run's own threshold, or of the most probable classes, that change; absent
            where a run decides nothing.
        metric: change of the run's primary metric, paired by image; None with the ``reason``.
        reason: why ``metric`` is None.
    """

    perturbation: str
    strength: float
    label: str
    cosine: Estimate
    shift: Estimate
    score: Estimate
    absolute: Estimate
    flipped: Estimate
    metric: Difference | None
    reason: str | None = None


@dataclass(frozen=True)
class NeighbourIndex:
    """The robustness index of one run's features.

    Attributes:
        by: column of the site or scanner.
        k: neighbours of each image.
        index: the index with its interval, or the reason why it cannot be given.
        chance: the index that neighbours drawn at random would have.
        images: how many it is over; of those with a known site.
    """

    by: str
    k: int
    index: Estimate
    chance: float | None
    images: int


@dataclass(frozen=True)
class RunRobustness:
    """One run.

    Attributes:
        run: its key.
        encoder, head, adaptation, task: of the run.
        data: name of the data set.
        metric: name of the primary metric.
        clean: it on the unperturbed images, with its interval.
        images, patients: on which it was measured.
        unit: ``patients``, or ``images`` where patients are unknown.
        baseline: whether it is a baseline.
        effects: one per perturbation and strength.
        index: with ``by``.
        cautions: sentences that stand beside it.
    """

    run: str
    encoder: str
    head: str
    adaptation: str
    task: str
    data: str
    metric: str
    clean: Estimate
    images: int
    patients: int
    unit: str
    baseline: bool
    effects: tuple[PerturbationEffect, ...]
    index: NeighbourIndex | None = None
    cautions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Encoder, head and what was trained."""
        return f"{self.encoder} · {self.head} · {self.adaptation}" + (" (baseline)" if self.baseline else "")


@dataclass(frozen=True)
class Robustness:
    """Several runs under the same perturbations.

    Attributes:
        runs: in the order in which they were named.
        left_out: runs that could not be measured, and why.
        seed: of what perturbations draw.
    """

    runs: tuple[RunRobustness, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``robustness.json``."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Robustness:
        """Take back what ``to_json`` gave and a file holds.

        Raises:
            EvalfmError: the file is none.
        """
        try:
            content = dict(read_json(path))
            if content.pop("schema") != 1:
                raise ValueError
            return _ROBUSTNESS.validate_python(content)
        except (EvalfmError, ValidationError, ValueError, KeyError, TypeError):
            raise EvalfmError(
                f"{path} is no {ROBUSTNESS} of schema 1; write it again with `evalfm robustness --out`."
            ) from None

    @cached_property
    def names(self) -> dict[str, str]:
        """What each run is called, by its key; with the start of the key where two are called alike."""
        called = [each.name for each in self.runs]
        return {
            each.run: each.name if called.count(each.name) == 1 else f"{each.name} ({each.run[:8]})"
            for each in self.runs
        }

    @property
    def tasks(self) -> Iterator[tuple[str, str, list[RunRobustness]]]:
        """Runs of one task and data set, with the names of both."""
        ordered = sorted(self.runs, key=lambda each: (each.task, each.data))
        for (task, data), runs in groupby(ordered, key=lambda each: (each.task, each.data)):
            yield task, data, list(runs)


_ROBUSTNESS = TypeAdapter(Robustness)


def effects_table(name: str, run: RunRobustness) -> Table:
    """A row for every perturbation of one run."""
    header = ["perturbation", "cosine", SHIFT, "score", "|score|", "flipped", run.metric]
    rows: list[list[Value]] = [
        [
            each.label,
            each.cosine,
            each.shift,
            each.score if each.score.value is None else Signed(each.score.value, each.score.low, each.score.high),
            each.absolute,
            each.flipped,
            Signed.of(each.metric) or Estimate.absent(each.reason or "not measured"),
        ]
        for each in run.effects
    ]
    caption = (
        f"Perturbed minus clean: mean change of the score, mean absolute change, share of decisions that flip, change "
        f"of {run.metric}."
    )
    return table(name, header, rows, caption)


def strongest_table(name: str, robustness: Robustness) -> Table:
    """A row for every run: the share of the way under each family at its strongest."""
    families = list(dict.fromkeys(each.perturbation for run in robustness.runs for each in run.effects))
    rows: list[list[Value]] = []
    for run in robustness.runs:
        last = {each.perturbation: each for each in sorted(run.effects, key=_severity)}
        row: list[Value] = [run.task, robustness.names[run.run]]
        rows.append([*row, *(last[each].shift if each in last else None for each in families)])
    labels = {each.perturbation: each.label for run in robustness.runs for each in sorted(run.effects, key=_severity)}
    return table(name, ["task", "run", *(labels[each] for each in families)], rows)


def index_table(name: str, robustness: Robustness) -> Table:
    """A row for every run of which a robustness index was asked."""
    rows: list[list[Value]] = [
        [run.task, robustness.names[run.run], run.index.by, run.index.images, run.index.index, run.index.chance]
        for run in robustness.runs
        if run.index is not None
    ]
    return table(name, ["task", "run", "by", "images", "robustness index", "chance"], rows)


def robustness_section(number: int, robustness: Robustness) -> Section:
    """The section of a report; ``number`` keeps the names of its tables apart from those of others."""
    below = []
    for place, (task, data, runs) in enumerate(robustness.tasks):
        first = runs[0]
        counted = f"{first.patients} patients, " if first.unit == "patients" else "patients unknown, "
        part = Section(f"{task} on {data}", counts=f"{counted}{first.images} images that no run has seen")
        for family in FAMILIES:
            for heading, drawn in _charts(family, runs, robustness):
                if drawn is not None:
                    part.drawings.append((heading, drawn))
        for each in runs:
            if each.effects:
                heading = f"{robustness.names[each.run]}: {each.metric} {describe(each.clean)} on clean images"
                part.folded.append((heading, effects_table(f"robustness-{number}-{place}-{each.run[:8]}", each)))
        below.append(part)
    tables: list[tuple[str, Table]] = []
    words = []
    if any(run.effects for run in robustness.runs):
        words.append(WORDS)
        heading = "Share of the way to another patient's image, at the strongest of each"
        tables.append((heading, strongest_table(f"robustness-{number}-strongest", robustness)))
    indices = [run.index for run in robustness.runs if run.index is not None]
    if indices:
        words.append(INDEX_WORDS.format(by=indices[0].by, k=indices[0].k))
        tables.append(("Neighbours by class or by site", index_table(f"robustness-{number}-index", robustness)))
    return Section(
        "Feature robustness",
        f"robustness-{number}",
        cautions=list(dict.fromkeys(each for run in robustness.runs for each in run.cautions)),
        words=" ".join(words),
        tables=tables,
        leading=len(tables),
        sections=below,
        absent=[f"{name}: {why}" for name, why in robustness.left_out],
    )


def _charts(name: str, runs: list[RunRobustness], robustness: Robustness) -> Iterator[tuple[str, Markup | None]]:
    """Share of the way against the strength, a line per encoder, and change of the metric, a line per run."""
    family = FAMILIES[name]
    shifts: dict[str, charts.Points] = {}
    changes: dict[str, charts.Points] = {}
    for run in runs:
        effects = [each for each in run.effects if each.perturbation == name]
        if len({each.strength for each in effects}) < 2:
            continue
        called = robustness.names[run.run]
        # Heads share the features of a frozen encoder.
        shifts.setdefault(
            run.encoder if run.adaptation == "frozen" else called, [(each.strength, each.shift) for each in effects]
        )
        known = [(each.strength, each.metric) for each in effects if each.metric is not None]
        changes[called] = [(at, Estimate(found.value, found.low, found.high)) for at, found in known]
    label, logarithmic = f"{name}, {family.unit}" if family.unit else name, name in LOGARITHMIC
    yield name, charts.strengths(family.words, label, SHIFT, list(shifts.items()), logarithmic=logarithmic)
    change = f"change of {runs[0].metric}"
    yield (
        f"{name}: {runs[0].metric}",
        charts.strengths(family.words, label, change, list(changes.items()), logarithmic=logarithmic),
    )


def _severity(effect: PerturbationEffect) -> float:
    return Perturbation(effect.perturbation, effect.strength).severity
