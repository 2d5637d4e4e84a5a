"""How a metric grows with labels: against training images, and against the shots of few-shot episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from evalfm.analysis.pairing import over_seeds
from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Table, Value, table
from evalfm.analysis.series import line_names, settings_but
from evalfm.analysis.table import Line, TaskTable
from evalfm.run import Run
from evalfm.split_options import SMALLER


def more_labels(name: str, summaries: Sequence[TaskTable], metric: str) -> tuple[Markup | None, Table | None]:
    """The metric against training images, of lines that were trained on several subsets and differ in these alone."""
    lines = [line for summary in summaries for line in summary.lines if not line.baseline]
    several = _named([mine for mine in _but(lines, *SMALLER) if len({round(_images(line)) for line in mine}) > 1])
    if not several:
        return None, None
    curves = [(called, [(round(_images(line)), over_seeds(line, metric)) for line in mine]) for called, mine in several]
    rows: list[list[Value]] = [
        [called, images, one] for called, line in curves for images, one in sorted(line, key=lambda point: point[0])
    ]
    seeded = any(len(line.runs) > 1 for _, mine in several for line in mine)
    averaged = "Averaged over seeds, inside every resample of patients too; seeds draw the training images."
    caption = averaged if seeded else "One seed of each."
    return charts.more_labels(metric, curves), table(name, ["line", "train images", metric], rows, caption)


def more_shots(name: str, summary: TaskTable) -> tuple[Markup | None, Table]:
    """The metric of few-shot episodes against shots: curves of several numbers of them, and a row for every line."""
    (metric,) = summary.metric_names
    grouped = _named([sorted(mine, key=_shots) for mine in _but(summary.lines, "shots")])
    curves = [(called, [(_shots(line), line.metrics[metric]) for line in mine]) for called, mine in grouped if mine[1:]]
    rows: list[list[Value]] = [
        [
            called,
            _shots(line),
            line.runs[0].record.config.episodes,
            len(line.runs),
            line.metrics[metric],
            line.episode_sd,
        ]
        for called, mine in grouped
        for line in mine
    ]
    header = ["line", "shots of each class", "episodes", "seeds", metric, "sd over episodes"]
    return charts.more_shots(metric, curves) if curves else None, table(name, header, rows)


def labels_of(run: Run) -> int:
    """Its training images."""
    return run.record.data.splits.train.images


def _but(lines: Sequence[Line], *names: str) -> list[list[Line]]:
    """``lines`` in groups that differ in the settings ``names`` alone."""
    grouped: dict[str, list[Line]] = {}
    for line in lines:
        grouped.setdefault(settings_but(line.runs[0], *names), []).append(line)
    return list(grouped.values())


def _named(groups: Sequence[list[Line]]) -> list[tuple[str, list[Line]]]:
    """``groups`` with what each is called."""
    called = line_names([mine[0].runs[0] for mine in groups])
    return [
        (f"{name} · {mine[0].head} · {mine[0].adaptation}" + (" (baseline)" if mine[0].baseline else ""), mine)
        for name, mine in zip(called, groups, strict=True)
    ]


def _shots(line: Line) -> int:
    return line.runs[0].record.config.shots or 0


def _images(line: Line) -> float:
    """Training images, the mean over seeds: a fraction of the patients is not always as many images."""
    return float(np.mean([labels_of(run) for run in line.runs]))
