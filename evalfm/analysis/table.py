"""Runs compared: per task one line per encoder and head, primary metrics with intervals, baselines below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalfm.analysis.cohort import by_cohort, cohort_names, cohort_of, test_counts
from evalfm.analysis.series import averaged, line_names, seed_sd, series
from evalfm.analysis.series import encoder_label as encoder_label
from evalfm.analysis.series import model_names as model_names
from evalfm.cautions import Code, sentences
from evalfm.errors import UnknownNameError
from evalfm.metrics.metric import Metric
from evalfm.metrics.registry import metric_of
from evalfm.metrics.rows import Rows
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate

SHOWN_METRICS = 3
"""So many of a task's metrics a table shows, the primary first, and what must stand beside them (`Metric.beside`)."""

OF_EVERY_LINE: frozenset[Code] = frozenset(
    {"synthetic", "patients-unknown", "contamination", "contamination-unknown", "overlapping-episodes"}
)
"""Codes of cautions that hold of a whole table."""


@dataclass(frozen=True)
class Line:
    """One encoder × head × adaptation on one task.

    Attributes:
        encoder: its name, with what tells two lines apart that are alike else.
        adaptation: what of the encoder was trained.
        runs: one per seed, the lowest first.
        metrics: the shown metrics, averaged over the seeds.
        seed_sd: spread of the primary metric over seeds, or None for a deterministic head or a single seed.
    """

    task: str
    encoder: str
    head: str
    adaptation: str
    baseline: bool
    runs: tuple[Run, ...]
    metrics: dict[str, Estimate]
    seed_sd: float | None

    def sd(self, metric: str) -> float | None:
        """Spread of ``metric`` over the seeds; None for a single one."""
        return seed_sd(self.runs, metric)

    @property
    def episode_sd(self) -> float | None:
        """Spread of the primary metric over the episodes of a seed, the mean over seeds; None without episodes."""
        spreads = [run.record.episodes.sd for run in self.runs if run.record.episodes is not None]
        known = [each for each in spreads if each is not None]
        return sum(known) / len(known) if known else None

    def estimate(self, metric: str) -> Estimate:
        """``metric`` averaged over the seeds; absent where the runs were not measured by it."""
        return averaged(self.runs, metric)


@dataclass(frozen=True)
class TaskTable:
    """All lines of one task on one test cohort, best first, baselines last.

    Attributes:
        data: name of the data set that was tested.
        cohort: which of its images, in words that no other table of the task shares.
        cautions: what holds of every line, such as phantom data.
        unit_counts: test images, patients and positives, in words.
    """

    task: str
    title: str
    data: str
    metric_names: tuple[str, ...]
    lines: tuple[Line, ...]
    cautions: tuple[str, ...]
    unit_counts: str
    cohort: str


def task_tables(runs: Iterable[Run]) -> list[TaskTable]:
    """A table per task and test cohort among ``runs``, in their order."""
    grouped = by_cohort(runs)
    names = cohort_names(grouped)
    return [_table(found, names[cohort]) for cohort, found in grouped.items()]


def plain_runs(runs: Iterable[Run]) -> list[Run]:
    """Without those whose training images were tied to an attribute, which belong to a shortcut curve.

    Where a task has no others, those of its weakest tie stay.
    """
    every = list(runs)
    cohorts = [cohort_of(run) for run in every]
    ties: dict[tuple[str, ...], list[str]] = {}
    for run, cohort in zip(every, cohorts, strict=True):
        ties.setdefault(cohort, []).append(_tie(run))
    return [run for run, cohort in zip(every, cohorts, strict=True) if _tie(run) == min(ties[cohort])]


def _tie(run: Run) -> str:
    return str(run.record.config.associate or "")


def _table(runs: Sequence[Run], cohort: str) -> TaskTable:
    record = runs[0].record
    names = _shown_metrics(runs[0])
    grouped = series(runs)
    called = line_names([each[0] for each in grouped])
    lines = [_line(each, name, names) for each, name in zip(grouped, called, strict=True)]
    primary = facts_of(names[0], runs)

    def order(line: Line) -> tuple[bool, float]:
        # A run of an older version may have a first metric by which nothing is ranked any more.
        return line.baseline, 0.0 if primary.better is None else primary.badness(line.metrics[names[0]].value)

    return TaskTable(
        task=record.task.name,
        title=record.task.title,
        data=record.data.test_name,
        metric_names=names,
        lines=tuple(sorted(lines, key=order)),
        cautions=tuple(dict.fromkeys(each for run in runs for each in sentences(run.record.cautions, OF_EVERY_LINE))),
        unit_counts=test_counts(runs[0]),
        cohort=cohort,
    )


def facts_of(name: str, runs: Iterable[Run]) -> Metric:
    """The facts of the metric ``name``; of one that another package brought, which may not be here, as the runs say."""
    for run in runs:
        said = run.record.plugged_metrics.get(name)
        if said is not None:
            return Metric(name, (run.kind,), _not_here, unit=said.unit, better=said.better, beside=said.beside)
    return metric_of(name)


def _not_here(rows: Rows) -> Estimate:
    return Estimate.absent("the package of the metric is not asked", unit=rows.unit)


def _shown_metrics(run: Run) -> tuple[str, ...]:
    """The first metrics that the task names, class by class where there are several; else the run's first ones.

    What a metric must not be read without comes with it, also beyond their number; an expectation does not count.
    """
    record = run.record
    classes = record.data.class_names
    named = [name for metric in record.task.metrics for name in (metric, *(f"{metric}_{each}" for each in classes))]
    found = [name for name in named if name in record.metrics] or list(record.metrics)
    shown: dict[str, None] = {}
    for name in found:
        if sum(facts_of(each, [run]).better is not None for each in shown) < SHOWN_METRICS:
            together = (name, *(each for each in facts_of(name, [run]).beside if each in record.metrics))
            shown |= dict.fromkeys(together)
    return tuple(shown)


def every_metric(table: TaskTable) -> tuple[str, ...]:
    """Every metric that a run of ``table`` has, those of the table first."""
    of_runs = (name for line in table.lines for run in line.runs for name in run.metrics)
    return tuple(dict.fromkeys([*table.metric_names, *of_runs]))


def with_metrics(table: TaskTable, names: Sequence[str]) -> TaskTable:
    """``table`` with these metrics in place of its own, in the same order of lines.

    Raises:
        UnknownNameError: no run of the table has such a metric.
    """
    known = every_metric(table)
    for name in names:
        if name not in known:
            raise UnknownNameError(f"metric of {table.task} in these runs", name, known)
    lines = [replace(line, metrics={name: line.estimate(name) for name in names}) for line in table.lines]
    return replace(table, metric_names=tuple(names), lines=tuple(lines))


def _line(runs: Sequence[Run], encoder: str, names: Sequence[str]) -> Line:
    first = runs[0]
    metrics = {name: averaged(runs, name) for name in names}
    spread = seed_sd(runs, names[0])
    return Line(first.task, encoder, first.head, first.adaptation, first.is_baseline, tuple(runs), metrics, spread)


def as_json(table: TaskTable) -> dict[str, Any]:
    """A table as plain values."""
    return {
        "task": table.task,
        "title": table.title,
        "data": table.data,
        "cohort": table.cohort,
        "counts": table.unit_counts,
        "cautions": list(table.cautions),
        "lines": [
            {
                "encoder": line.encoder,
                "head": line.head,
                "adaptation": line.adaptation,
                "baseline": line.baseline,
                "seeds": [run.seed for run in line.runs],
                "seed_sd": line.seed_sd,
                "episode_sd": line.episode_sd,
                "seed_sds": {name: line.sd(name) for name in line.metrics},
                "metrics": {name: estimate.to_json() for name, estimate in line.metrics.items()},
                "runs": [str(run.folder) for run in line.runs],
            }
            for line in table.lines
        ],
    }
