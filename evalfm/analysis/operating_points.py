"""A yes-or-no task at the threshold nobody looked at and at the one that val chose, beside calling all positive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalfm.analysis.table import Line, TaskTable
from evalfm.config import THRESHOLD_RULE
from evalfm.metrics.registry import metrics_in
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate

METRICS = sorted(
    metrics_in("operating points", "binary"),
    key=lambda metric: (not metric.constant, not (metric.default or metric.calibrated)),
)
"""First what a constant answer has too, last what neither threshold nor temperature moves."""
HEADER = ("encoder", "head", "threshold", *(metric.name for metric in METRICS))
DEFAULT, ALL_POSITIVE = "default, .5", "every image called positive"
"""What stands under ``threshold`` where val chose none."""


@dataclass(frozen=True)
class OperatingPoint:
    """One run at one threshold.

    Attributes:
        threshold: in words.
        estimates: in the order of ``HEADER`` after the words; None where it does not apply.
    """

    encoder: str
    head: str
    threshold: str
    estimates: tuple[Estimate | None, ...]


def operating_points(table: TaskTable) -> list[OperatingPoint]:
    """Two lines for each line of ``table`` that is no baseline, and one for the constant answer; none for other kinds.

    Lines on other test images have a constant answer of their own. Brier score and ECE stand before temperature scaling
    in the default line and after it in the other; neither threshold nor temperature moves AUROC.
    """
    found: list[OperatingPoint] = []
    constants: dict[float | None, Estimate] = {}
    first = METRICS[0].constant
    lines = [line for line in table.lines if not line.baseline and first in line.runs[0].metrics]
    for line in lines:
        plain = tuple(_of(line, metric.default or metric.name) for metric in METRICS)
        chosen = tuple(_of(line, metric.calibrated or metric.name) for metric in METRICS)
        found.append(OperatingPoint(line.encoder, line.head, DEFAULT, plain))
        found.append(OperatingPoint(line.encoder, line.head, chosen_in_words(line.runs), chosen))
        constant = line.estimate(first)
        constants.setdefault(constant.value, constant)
    blank = [None] * (len(HEADER) - 4)
    return found + [OperatingPoint("constant", "–", ALL_POSITIVE, (each, *blank)) for each in constants.values()]


def _of(line: Line, metric: str) -> Estimate | None:
    """Averaged over the seeds; None where the runs were not measured by it."""
    return line.estimate(metric) if any(metric in run.metrics for run in line.runs) else None


def shown_points(table: TaskTable) -> list[OperatingPoint]:
    """The points of ``table`` where they are wanted, else none."""
    return operating_points(table) if wanted([run for line in table.lines for run in line.runs]) else []


def as_json(table: TaskTable) -> list[dict[str, Any]]:
    """What is shown of the points, as plain values; a number that does not apply is None."""
    return [
        {"encoder": point.encoder, "head": point.head, "threshold": point.threshold}
        | {
            name: None if estimate is None else estimate.to_json()
            for name, estimate in zip(HEADER[3:], point.estimates, strict=True)
        }
        for point in shown_points(table)
    ]


def wanted(runs: Sequence[Run]) -> bool:
    """Whether a head among ``runs`` reads text, or a rule of its own chose the operating point: then they are shown."""
    return any(run.record.prompts or _rule(run) != THRESHOLD_RULE for run in runs)


def _rule(run: Run) -> str:
    return run.record.config.threshold


def chosen_in_words(runs: Sequence[Run]) -> str:
    """The rule and what it chose on val: one value, or the range over folds and seeds."""
    chosen = [each for run in runs for each in run.record.chosen.each]
    thresholds = sorted(value for each in chosen for value in each.thresholds.values() if value is not None)
    temperatures = sorted(value for each in chosen for value in each.temperatures.values() if value is not None)
    rule = _rule(runs[0])
    given = rule.replace(".", "", 1).isdecimal()
    words = f"{rule}, not chosen on val" if given else f"{rule} on val, {_range(thresholds)}"
    return f"{words}; temperature {_range(temperatures)}" if temperatures else words


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = values[0], values[-1]
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
