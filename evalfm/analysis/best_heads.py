"""Which head speaks for an encoder that stands in several lines of a table: chosen on val, never on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from evalfm.analysis.pairing import AverageOver, usual_metric
from evalfm.analysis.series import encoder_label
from evalfm.analysis.table import Line, TaskTable
from evalfm.errors import EvalfmError
from evalfm.metrics.metric import Metric, over_patients
from evalfm.metrics.registry import measurable
from evalfm.metrics.rows import Rows, Scored
from evalfm.run import Run
from evalfm.split_options import SMALLER
from evalfm.statistics.estimate import Estimate


@dataclass(frozen=True)
class HeadByVal:
    """One encoder of several lines, and the line that is best on val.

    Attributes:
        encoder: its name.
        metric: by which; the same as on test.
        lines: head and adaptation of each line, in the order of the table.
        values: the metric on val of each line, averaged over folds and seeds; None where it has none.
        images: how many val images there are.
        best: place of the best among ``lines``; None where none could be chosen.
        reason: why none could.
    """

    encoder: str
    metric: str
    lines: tuple[tuple[str, str, str], ...]
    values: tuple[float | None, ...]
    images: int
    best: int | None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """What was chosen, in words."""
        if self.best is None:
            return f"No head of {self.encoder} could be chosen on val ({self.reason})."
        named = [f"{_use(line)} {value:.3f}" for line, value in zip(self.lines, self.values, strict=True)]
        others = ", ".join(each for place, each in enumerate(named) if place != self.best)
        on_val = f"{self.metric} on {self.images} val images; {others}"
        return f"Best head of {self.encoder} by val: {named[self.best]} ({on_val})."

    @property
    def chosen(self) -> tuple[str, str, str] | None:
        """Encoder, head and adaptation of the best line."""
        return None if self.best is None else self.lines[self.best]

    @property
    def passed_over(self) -> dict[str, str]:
        """The lines that are not the best on val, by name, and why they are left out."""
        if self.best is None:
            return {}
        value, best = self.values[self.best], _use(self.lines[self.best])
        return {
            " · ".join(line): f"its {best} is {'as good' if other == value else 'better'} on val "
            f"({self.metric} {value:.3f} against {other:.3f})"
            for line, other in zip(self.lines, self.values, strict=True)
            if line != self.chosen
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def best_heads(
    table: TaskTable, metric: str | None = None, average_over: AverageOver = "image"
) -> tuple[HeadByVal, ...]:
    """For every encoder of several lines of ``table``, heads or adaptations, the line that is best on val.

    Lines on other numbers of training images are no heads of one encoder. Of equals the first head by name is taken.

    Args:
        table: of one task and cohort.
        metric: by which; by default the one that ``compare`` takes.
        average_over: what counts once in a mean.
    """
    of_encoder: dict[tuple[str, ...], list[Line]] = {}
    for line in table.lines:
        if not line.baseline:
            of_encoder.setdefault(_encoder(line.runs[0]), []).append(line)
    several = {key: lines for key, lines in of_encoder.items() if len(lines) > 1}
    if not several or any(line.episode_sd is not None for line in table.lines):
        return ()
    try:
        name = metric or usual_metric(table.lines[0].runs[0]).name
    except EvalfmError:
        # Of a package that is not installed: nothing can be measured by it.
        return ()
    return tuple(_best(key[0], sorted(lines, key=_named), name, average_over) for key, lines in several.items())


def one_line_each(table: TaskTable, heads: Sequence[HeadByVal]) -> TaskTable:
    """``table`` with the line of each encoder that val has chosen, and all those of encoders with one or no choice."""
    left_out = {line for each in heads if each.best is not None for line in each.lines if line != each.chosen}
    return replace(table, lines=tuple(line for line in table.lines if line.baseline or _named(line) not in left_out))


def _encoder(run: Run) -> tuple[str, ...]:
    """What is one encoder: its weights and input, trained on so many images."""
    config = run.record.config
    subset = (str(getattr(config, name)) for name in SMALLER)
    return encoder_label(run), str(run.record.provenance.weights_digest), *subset


def _named(line: Line) -> tuple[str, str, str]:
    return line.encoder, line.head, line.adaptation


def _use(line: tuple[str, str, str]) -> str:
    return line[1] if line[2] == "frozen" else f"{line[1]}, {line[2]}"


def _best(encoder: str, lines: Sequence[Line], metric: str, average_over: AverageOver) -> HeadByVal:
    named = tuple(map(_named, lines))
    try:
        found = [_on_val(line, metric, average_over) for line in lines]
        if any(images != found[0][1] for _, images in found):
            raise EvalfmError("its heads were validated on different images")
        values = tuple(float(np.mean([*by_fold.values()])) for by_fold, _ in found)
    except EvalfmError as error:
        return HeadByVal(encoder, metric, named, (None,) * len(lines), 0, None, str(error).rstrip("."))
    better = [_badness(lines[0].runs[0], metric, value) for value in values]
    return HeadByVal(encoder, metric, named, values, len({each for _, each in found[0][1]}), int(np.argmin(better)))


def _badness(run: Run, metric: str, value: float) -> float:
    """Small where ``value`` is good."""
    facts = _measurable(run, run.test_predictions(), metric)[0]
    return facts.badness(value)


def _on_val(line: Line, metric: str, average_over: AverageOver) -> tuple[Mapping[int, float], set[tuple[int, str]]]:
    """The metric on val of each fold, the mean over seeds; and fold and id of every val image.

    Raises:
        EvalfmError: it cannot be had of one.
    """
    found: dict[int, list[float]] = {}
    images: set[tuple[int, str]] = set()
    for run in line.runs:
        table = run.predictions()
        val = table[table["split"] == "val"]
        if val.empty:
            raise EvalfmError(f"the run of {run.head} keeps no val predictions; make it again with --force")
        fold = val["fold"] if "fold" in val else val["split"].map({"val": 0})
        for number, rows in val.groupby(fold):
            one_fold = rows.drop(columns="fold", errors="ignore").reset_index(drop=True)
            facts, of = _measurable(run, one_fold, metric)
            measured = (over_patients(facts) if average_over == "patient" else facts).measure(of)
            if isinstance(measured, Estimate):
                raise EvalfmError(f"{metric} on val: {measured.reason}")
            value = measured.statistic.on_the_data()
            if not np.isfinite(value):
                raise EvalfmError(f"{metric} on val: {measured.undefined}")
            found.setdefault(int(number), []).append(value)
            images |= {(int(number), str(each)) for each in rows["id"]}
    return {number: float(np.mean(values)) for number, values in found.items()}, images


def _measurable(run: Run, table: pd.DataFrame, metric: str) -> tuple[Metric, Rows]:
    # The best on val is the best also on few patients, of whom no AUROC would be reported.
    scored = Scored(table, tuple(run.record.data.class_names), run.record.data.patients_known, fewest_patients=1)
    found = measurable(run.kind, scored, [metric])
    if metric not in found:
        raise EvalfmError(f"{metric} is not measured on val")
    return found[metric]
