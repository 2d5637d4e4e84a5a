"""What was made to look for a shortcut: can the features tell an attribute, what does a tie in train cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evalfm.analysis.cohort import Cohort, cohort_of
from evalfm.analysis.pairing import over_seeds, pair
from evalfm.analysis.series import input_words, line_names, settings_but
from evalfm.analysis.table import Line, task_tables
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.split_options import SMALLER
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate
from evalfm.tasks.kinds import kind_of

NEGATIVES = re.compile(r"(?P<finding>\w+) == 0$")
"""How the cohort of a decodability run ends."""
FEWEST_POINTS = 2


@dataclass(frozen=True)
class Decoded:
    """How well a probe on the features tells an attribute among images without a finding.

    Attributes:
        auroc: for the attribute, .5 where the features do not hold it.
        baseline: of the same probe on random weights of the same architecture; None where there is no such run.
        difference: AUROC minus the baseline's, paired; None with the ``reason``.
    """

    finding: str
    attribute: str
    data: str
    encoder: str
    head: str
    auroc: Estimate
    baseline: Estimate | None
    difference: Difference | None
    reason: str | None


@dataclass(frozen=True)
class Point:
    """One strength of the tie between label and attribute in train, with the metric on untied test images."""

    strength: float
    images: int
    estimate: Estimate


@dataclass(frozen=True)
class Curve:
    """A metric against the strength of the tie in train.

    Attributes:
        points: by strength, averaged over seeds.
        slope: of the straight line through all points, per unit of phi, paired over the same test images; below 0 where
            a tie in train harms. None with the ``reason``.
    """

    task: str
    data: str
    attribute: str
    model: str
    metric: str
    points: tuple[Point, ...]
    slope: Difference | None
    reason: str | None


def decodability(runs: Iterable[Run]) -> list[Decoded]:
    """Of every run of an attribute among negatives (``--where "pneumothorax == 0"``), with its baseline."""
    decodings = [run for run in runs if _finding(run) is not None]
    found = []
    for table in task_tables(decodings):
        for line in (each for each in table.lines if not each.baseline):
            run = line.runs[0]
            matching = [each for each in table.lines if _is_untrained(each, line) and _alike(each, line)]
            difference, reason = (
                None,
                "no run on random weights of the same architecture (--baselines all; what has no weights has none)",
            )
            if matching:
                try:
                    (difference,) = pair([line, matching[0]]).differences([(0, 1)])
                    reason = ""
                except EvalfmError as error:
                    reason = str(error)
            found.append(
                Decoded(
                    str(_finding(run)),
                    run.record.task.target[0],
                    table.cohort,
                    line.encoder,
                    line.head,
                    over_seeds(line, "auroc"),
                    over_seeds(matching[0], "auroc") if matching else None,
                    difference,
                    reason or None,
                )
            )
    return found


def shortcut_curves(runs: Iterable[Run]) -> list[Curve]:
    """Of every line that was trained with an attribute tied to the label at several strengths."""
    tied = [run for run in runs if run.record.config.associate and not run.is_baseline]
    grouped: dict[tuple[Cohort, str, str], list[Line]] = {}
    words: dict[Cohort, tuple[str, str, str]] = {}
    for table in task_tables(tied):
        for line in table.lines:
            first = line.runs[0]
            cohort = cohort_of(first)
            words[cohort] = (table.task, table.cohort, table.metric_names[0])
            grouped.setdefault((cohort, _tie(first)[0], settings_but(first, "associate")), []).append(line)
    # One name for all strengths of a curve, which a table tells apart.
    names = line_names([lines[0].runs[0] for lines in grouped.values()])
    curves = []
    for ((cohort, attribute, _), lines), name in zip(grouped.items(), names, strict=True):
        task, data, metric = words[cohort]
        model = f"{name} · {lines[0].head} · {lines[0].adaptation}"
        curves.append(_curve((task, data, attribute, model, metric), lines))
    return curves


def _curve(key: tuple[str, str, str, str, str], lines: Sequence[Line]) -> Curve:
    ordered = sorted(lines, key=lambda line: _tie(line.runs[0])[1])
    strengths = np.array([_tie(line.runs[0])[1] for line in ordered])
    points = tuple(
        Point(float(strength), line.runs[0].record.data.splits.train.images, over_seeds(line, key[4]))
        for strength, line in zip(strengths, ordered, strict=True)
    )
    slope, reason = None, None
    if len(set(strengths.tolist())) < max(len(ordered), FEWEST_POINTS):
        reason = "a slope needs several strengths, each made once on the same data and settings"
    else:
        centred = strengths - strengths.mean()
        try:
            (slope,) = pair(ordered).contrasts((centred / (centred @ centred))[None, :])
        except EvalfmError as error:
            reason = str(error)
    task, data, attribute, model, metric = key
    return Curve(task, data, attribute, model, metric, points, slope, reason)


def _tie(run: Run) -> tuple[str, float]:
    attribute, _, strength = str(run.record.config.associate).partition("=")
    return attribute.strip(), float(strength)


def _finding(run: Run) -> str | None:
    found = NEGATIVES.search(run.record.config.where or "")
    return found["finding"] if found and kind_of(run.record.task.kind).one_label else None


def _is_untrained(baseline: Line, line: Line) -> bool:
    """Whether ``baseline`` has random weights of the architecture of ``line``, at its input, under the same head."""
    drawn, run = baseline.runs[0], line.runs[0]
    same = drawn.encoder == run.encoder and input_words(drawn) == input_words(run) and drawn.head == run.head
    return baseline.baseline and drawn.record.provenance.random_weights and same


def _alike(one: Line, other: Line) -> bool:
    """Whether two lines of one cohort were made in the same way."""
    first, second = one.runs[0].record.config, other.runs[0].record.config
    return all(getattr(first, name) == getattr(second, name) for name in SMALLER)
