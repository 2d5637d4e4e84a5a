"""Runs of one task brought onto the same test rows: what each says of each image, or why they cannot be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.table import Line
from evalfm.analysis.training import TrainingSample
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics.metric import Contrast, Metric
from evalfm.metrics.registry import check_metrics, measurable, metric_names, metrics_of
from evalfm.metrics.rows import Rows, Scored
from evalfm.run import Run
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import Average, Patients, Statistic
from evalfm.tasks.kinds import kind_of

Values = NDArray[np.float64]


@dataclass(frozen=True)
class PairedRuns:
    """One metric of several runs on the same rows.

    Attributes:
        name: of the metric, of one class where the runs have several.
        metric: itself.
        contrast: by which the runs are paired.
        rows: of each run.
        measured: of each run.
    """

    name: str
    metric: Metric
    contrast: Contrast
    rows: tuple[Rows, ...]
    measured: tuple[Measured, ...]

    @property
    def fewest(self) -> int:
        """Patients in the smallest group that it needs."""
        first = self.measured[0]
        return first.n if first.fewest is None else first.fewest


@dataclass(frozen=True)
class Paired:
    """Several lines on the same test rows.

    Attributes:
        of_runs: the metric of every run of every line, line by line.
        seeds: runs of each line.
        unit: what counts as a patient.
        training: how far another training sample would have moved the runs; None where nobody knows.
    """

    of_runs: PairedRuns
    seeds: tuple[int, ...]
    unit: str
    training: TrainingSample | None = None

    @property
    def metric(self) -> str:
        """Name of that by which the lines are compared."""
        return self.of_runs.name

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self.of_runs.metric.lower_is_better

    @property
    def patients(self) -> Patients:
        """Of the rows."""
        return self.of_runs.rows[0].scored.patients

    def _statistics(self, line: int) -> list[Statistic]:
        first = sum(self.seeds[:line])
        return [each.statistic for each in self.of_runs.measured[first : first + self.seeds[line]]]

    def statistic(self, line: int) -> Statistic:
        """The metric of a line, averaged over its seeds, as a function of patient weights."""
        return Average(self._statistics(line), "seeds")

    def seed_sd(self, line: int) -> float | None:
        """Spread of the metric over the seeds of a line; None for a single one."""
        values = [statistic.on_the_data() for statistic in self._statistics(line)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def measured(self, line: int) -> Measured:
        """The same with what its estimate must tell."""
        return replace(self.of_runs.measured[sum(self.seeds[:line])], statistic=self.statistic(line))

    def differences(self, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
        """First minus second of each pair of lines, seeds averaged; training variance is counted as in ``contrasts``.

        Raises:
            EvalfmError: there are too few patients.
        """
        weights = np.zeros((len(pairs), len(self.seeds)))
        for row, (one, other) in enumerate(pairs):
            weights[row, one], weights[row, other] = 1, -1
        return self.contrasts(weights)

    def contrasts(self, weights: Values) -> list[Difference]:
        """Weighted sums of the metric over lines, one per row of ``weights`` [M, lines], seeds averaged.

        Their errors, intervals and p count what another training sample would have changed where the runs tell it
        (``Difference.speaks_of``): by refits, by draws of few images, or by folds. Seeds never stand for it.

        Raises:
            EvalfmError: there are too few patients.
        """
        of_run = np.repeat(np.asarray(weights) / self.seeds, self.seeds, axis=1)
        try:
            found = self.of_runs.contrast.test(self.of_runs.rows, of_run)
        except ValueError as error:
            raise EvalfmError(f"The runs cannot be compared: {error}.") from None
        return found if self.training is None else self.training.counted(found, np.asarray(weights, dtype=np.float64))


def pair(lines: Sequence[Line], metric: str | None = None) -> Paired:
    """``lines`` of one task on the test rows that they share, which must be all of them.

    Args:
        lines: at least one.
        metric: by which; by default the task's primary one where it can be paired, else the usual one of its kind.

    Raises:
        EvalfmError: test patients, truths, folds, classes or label sources differ (says between which), or there are
            too few patients.
    """
    first = lines[0].runs[0]
    kind, start = first.kind, _tested(first)
    name = metric or usual_metric(first).name
    names = tuple(first.record.data.class_names)
    truth = kind_of(kind).truth_columns(names)
    tables = []
    for run in (run for line in lines for run in line.runs):
        tables.append(_tested(run))
        _check(first, start, run, tables[-1], truth)
    try:
        of_runs = pair_tables(kind, name, tables, names, first.record.data.unit)
    except UnknownNameError:
        raise
    except EvalfmError as error:
        raise EvalfmError(f"{first.task} cannot be compared: {error}") from None
    unit = first.record.data.unit
    runs = tuple(line.runs for line in lines)
    training = TrainingSample(runs, names, unit, name, of_runs.metric, of_runs.contrast, of_runs.rows, of_runs.measured)
    return Paired(of_runs, tuple(map(len, runs)), unit, training)


def pair_tables(
    kind: str, name: str, tables: Sequence[pd.DataFrame], class_names: tuple[str, ...], unit: str = "patients"
) -> PairedRuns:
    """The metric ``name`` of test predictions of the same images in the same order.

    Raises:
        EvalfmError: the metric is none, cannot be paired, or there are too few patients for it.
    """
    every = [measurable(kind, Scored(table, class_names, unit == "patients"), [name]) for table in tables]
    found = {each: metric.contrast for each, (metric, _) in every[0].items()}
    able = [*(metric.name for metric in _pairable(kind, name)), *(each for each, contrast in found.items() if contrast)]
    contrast = found.get(name)
    if name not in found and name in able:
        raise EvalfmError(f"the task has several masks per image; name one, such as --metric {name}_{class_names[0]}.")
    if contrast is None:
        known = list(dict.fromkeys(able))
        try:
            check_metrics([name], kind, class_names)
        except UnknownNameError:
            raise UnknownNameError(f"metric of {kind} runs that can be compared in pairs", name, known) from None
        raise EvalfmError(
            f"no paired test of {name} is built in; compare by {', '.join(known)}, or see it with its interval by "
            f"`evalfm ls runs --metrics {name}`."
        )
    rows = tuple(contrast.prepare([of_run[name][1] for of_run in every]))
    metric = every[0][name][0]
    measured = []
    for each in map(metric.measure, rows):
        if isinstance(each, Estimate):
            raise EvalfmError(f"{name}: {each.reason}. Test on more data, or with --folds.")
        measured.append(each)
    return PairedRuns(name, metric, contrast, rows, tuple(measured))


def usual_metric(run: Run) -> Metric:
    """The primary metric of the task where it can be paired, else the first that can.

    Raises:
        EvalfmError: another package brought it, which is not installed here.
    """
    said = run.record.plugged_metrics.get(run.primary)
    if said is not None and run.primary not in metric_names():
        raise EvalfmError(
            f"{run.task} is compared by {run.primary} of {said.package}, which is not installed; install it, or name "
            "another with --metric."
        )
    able = _pairable(run.kind, run.primary)
    return next((metric for metric in able if metric.name == run.primary), able[0])


def _pairable(kind: str, name: str) -> list[Metric]:
    """Those of ``kind`` that can be paired, and the plug-in called ``name`` if it can."""
    return [metric for metric in metrics_of(kind, [name]) if metric.contrast and kind in metric.kinds]


def _tested(run: Run) -> pd.DataFrame:
    """The test rows of a run in the order of their ids."""
    return run.test_predictions().sort_values("id", kind="stable").reset_index(drop=True)


def _check(first: Run, own: pd.DataFrame, other: Run, theirs: pd.DataFrame, truth: Sequence[str]) -> None:
    between = f"{_name(first)} and {_name(other)} cannot be paired: "
    mine, its = first.record.data, other.record.data
    if mine.label_source != its.label_source:
        sources = f"{_words(mine.label_source)} and {_words(its.label_source)}"
        raise EvalfmError(f"{between}their labels come from {sources}.")
    if mine.class_names != its.class_names:
        classes = f"{', '.join(mine.class_names)} and {', '.join(its.class_names)}"
        raise EvalfmError(f"{between}their classes are {classes}.")
    if own["id"].tolist() != theirs["id"].tolist():
        shared = len(set(own["id"]) & set(theirs["id"]))
        raise EvalfmError(
            f"{between}they were tested on {len(own)} and {len(theirs)} images, {shared} of them the same; "
            "run both on one split."
        )
    if None not in (mine.test_digest, its.test_digest) and mine.test_digest != its.test_digest:
        raise EvalfmError(
            f"{between}images of the same ids differ, so these are two data sets named {mine.test_name!r}; "
            "compare the runs of one at a time."
        )
    if ("fold" in own) != ("fold" in theirs):
        raise EvalfmError(f"{between}only one of them has folds; run both in the same way.")
    for column in ["patient", *truth, *(["fold"] if "fold" in own else [])]:
        # An unknown label is as equal to another unknown one as any other value.
        if column not in theirs or not own[column].equals(theirs[column].astype(own[column].dtype)):
            raise EvalfmError(f"{between}the column {column!r} of their predictions differs on the same images.")


def _words(source: Mapping[str, str]) -> str:
    return ", ".join(f"{label} {where}" for label, where in source.items())


def _name(run: Run) -> str:
    return f"{run.encoder}/{run.head}-{run.adaptation} ({run.record.key[:8]})"


def over_seeds(line: Line, metric: str) -> Estimate:
    """``metric`` of a line of one or several seeds, with its interval or the reason why there is none."""
    first = line.runs[0].estimate(metric)
    values = [value for run in line.runs if (value := run.estimate(metric).value) is not None]
    if len(line.runs) == 1 or not values:
        return first
    try:
        paired = pair([line], metric)
    except EvalfmError as error:
        return Estimate(sum(values) / len(values), n=first.n, unit=first.unit, reason=str(error))
    return estimates({metric: paired.measured(0)}, paired.patients, unit=first.unit)[metric]
