"""Runs side by side: per task one line per encoder and head, the primary metrics with their intervals, floors below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evalfm.errors import UnknownNameError
from evalfm.runs import Record, Run
from evalfm.statistics.estimate import Estimate
from evalfm.tasks.metrics.facts import metric_of

SHOWN_METRICS = 3
"""So many of a task's metrics a table shows, the primary first, and what must stand beside them (`Metric.beside`)."""
WITH_FINDING = {
    "binary": "with the finding",
    "segmentation": "with the finding",
    "multilabel": "with at least one of the findings",
}
"""What the positive images of a kind of task have; the other kinds have none."""


@dataclass(frozen=True)
class Line:
    """One encoder × head × adaptation on one task.

    Attributes:
        encoder: its name, with what tells two lines apart that are alike else.
        adaptation: what of the encoder was trained.
        runs: one per seed.
        metrics: the shown metrics of the first seed.
        seed_sd: spread of the primary metric over seeds, or None for a deterministic head or a single seed.
    """

    task: str
    encoder: str
    head: str
    adaptation: str
    floor: bool
    runs: tuple[Run, ...]
    metrics: dict[str, Estimate]
    seed_sd: float | None


@dataclass(frozen=True)
class TaskTable:
    """All lines of one task, best first, floors last.

    Attributes:
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


def task_tables(runs: Iterable[Run]) -> list[TaskTable]:
    """Group ``runs`` by task and data set."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.task, str(run.record.data["test_name"])), []).append(run)
    return [_table(found) for found in grouped.values()]


def model_names(runs: Sequence[Run]) -> list[str]:
    """Encoder, head and adaptation of each run; where these are alike what tells them apart: task, data set, key."""
    names = [f"{run.encoder} · {run.head} · {run.adaptation}" for run in runs]
    for more in (lambda run: f" · {run.task}", lambda run: f" · {run.record.data['test_name']}", _short_key):
        alike = {name: {more(run) for run, own in zip(runs, names, strict=True) if own == name} for name in names}
        names = [f"{name}{more(run)}" if len(alike[name]) > 1 else name for name, run in zip(names, runs, strict=True)]
    return names


def _short_key(run: Run) -> str:
    return f" ({run.record.key[:8]})"


def plain_runs(runs: Iterable[Run]) -> list[Run]:
    """Without those whose training images were tied to an attribute, which belong to a shortcut curve.

    Where a task has no others, those of its weakest tie stay.
    """
    every = list(runs)
    ties: dict[tuple[str, str], list[str]] = {}
    for run in every:
        ties.setdefault((run.task, str(run.record.data["test_name"])), []).append(_tie(run))
    return [run for run in every if _tie(run) == min(ties[run.task, str(run.record.data["test_name"])])]


def _tie(run: Run) -> str:
    return str(run.record.config.get("associate") or "")


def _table(runs: Sequence[Run]) -> TaskTable:
    record = runs[0].record
    names = _shown_metrics(record)
    cells: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        subset = str(sorted((key, str(value)) for key, value in run.record.config.items() if key in SAME))
        # Other weights, inputs, sentences, and images under the same name are no other seeds of one line.
        own = (run.record.provenance.weights_digest or "") + str(run.record.data.get("test_digest", ""))
        own += str((run.record.prompts or {}).get("rows", ""))
        cells.setdefault((run.encoder, run.head, subset + own + _variant(run)), []).append(run)
    lines = _told_apart([_line(found, names) for found in cells.values()])
    primary = metric_of(names[0])

    def order(line: Line) -> tuple[bool, float]:
        return line.floor, primary.badness(line.metrics[names[0]].value)

    part = record.data["parts"]["test"]
    unit = f"{part['patients']} patients, " if record.data["patients_known"] else "patients unknown, "
    counts = f"test: {unit}{part['images']} images"
    if record.task["kind"] in WITH_FINDING:
        counts += f", {part['positive_images']} {WITH_FINDING[record.task['kind']]}"
    if record.data["folds"]:
        counts += f", {record.data['folds']} folds (intervals exclude training variance)"
    return TaskTable(
        task=record.task["name"],
        title=record.task["title"],
        data=record.data["test_name"],
        metric_names=names,
        lines=tuple(sorted(lines, key=order)),
        cautions=tuple(dict.fromkeys(note for run in runs for note in run.record.notes if _general(note))),
        unit_counts=counts,
    )


def _variant(run: Run) -> str:
    """How the encoder was given its input other than its card says, such as ``112 px, letterbox``."""
    asked = run.record.config.get("encoder") or {}
    size, resize = asked.get("input_size"), asked.get("resize")
    return ", ".join([*([f"{size} px"] if size else []), *([str(resize)] if resize else [])])


def _told_apart(lines: Sequence[Line]) -> list[Line]:
    """``lines`` with other names where two are alike: by training images, and where these are alike by the key."""
    suffixes: tuple[Callable[[Line], str], ...] = (_trained_on, lambda line: line.runs[0].record.key[:8])
    for suffix in suffixes:
        names = [(line.encoder, line.head, line.adaptation) for line in lines]
        lines = [
            replace(line, encoder=f"{line.encoder} ({suffix(line)})") if names.count(name) > 1 else line
            for line, name in zip(lines, names, strict=True)
        ]
    return list(lines)


def _trained_on(line: Line) -> str:
    return f"{int(line.runs[0].record.data['parts']['train']['images'])} train images"


def _shown_metrics(record: Record) -> tuple[str, ...]:
    """The first metrics that the task asks for, class by class where there are several; else the run's first ones.

    What a metric must not be read without comes with it, also beyond their number.
    """
    classes = record.data["class_names"]
    asked = [name for metric in record.task["metrics"] for name in (metric, *(f"{metric}_{each}" for each in classes))]
    found = [name for name in asked if name in record.metrics] or list(record.metrics)
    shown: dict[str, None] = {}
    for name in found:
        if len(shown) < SHOWN_METRICS:
            together = (name, *(each for each in metric_of(name).beside if each in record.metrics))
            shown |= dict.fromkeys(together)
    return tuple(shown)


def every_metric(table: TaskTable) -> tuple[str, ...]:
    """Every metric that a run of ``table`` has, those of the table first."""
    of_runs = (name for line in table.lines for name in line.runs[0].metrics)
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
    lines = [replace(line, metrics={name: _measured(line.runs[0], name) for name in names}) for line in table.lines]
    return replace(table, metric_names=tuple(names), lines=tuple(lines))


def _measured(run: Run, name: str) -> Estimate:
    """A metric of a run, absent where it was made by a version that had none of that name."""
    absent = Estimate.absent("not measured by the version that made the run; run it again with --force")
    return run.metrics.get(name, absent)


SAME = (
    *("shots", "val_shots", "base_to_novel", "label_fraction", "associate", "folds", "where", "test_where", "limit"),
    *("adaptation", "recipe", "threshold"),
)
"""What runs that differ in their seed alone have in common, beside encoder and head."""


def _general(note: str) -> bool:
    return note.startswith(("Synthetic data", "Patients unknown", "Contamination"))


def _line(runs: Sequence[Run], names: Sequence[str]) -> Line:
    first = runs[0]
    values = [value for run in runs if (value := _measured(run, names[0]).value) is not None]
    spread = None
    if len(values) > 1:
        mean = sum(values) / len(values)
        spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    metrics = {name: _measured(first, name) for name in names}
    return Line(
        first.task, encoder_label(first), first.head, first.adaptation, first.is_floor, tuple(runs), metrics, spread
    )


def encoder_label(run: Run) -> str:
    """The encoder's name, with random weights and an input other than its card's in brackets."""
    marked = run.record.provenance.random_weights and not run.encoder.startswith("random")
    doubts = [*(["random weights"] if marked else []), *filter(None, [_variant(run)])]
    return run.encoder + (f" ({', '.join(doubts)})" if doubts else "")


def as_json(table: TaskTable) -> dict[str, Any]:
    """A table as plain values."""
    return {
        "task": table.task,
        "title": table.title,
        "data": table.data,
        "counts": table.unit_counts,
        "cautions": list(table.cautions),
        "lines": [
            {
                "encoder": line.encoder,
                "head": line.head,
                "adaptation": line.adaptation,
                "floor": line.floor,
                "seed_sd": line.seed_sd,
                "metrics": {name: estimate.to_json() for name, estimate in line.metrics.items()},
                "runs": [str(run.folder) for run in line.runs],
            }
            for line in table.lines
        ],
    }
