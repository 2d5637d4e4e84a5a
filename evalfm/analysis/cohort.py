"""Which task and test images a run answers: figures of two cohorts are never ranked together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evalfm.run import Run
from evalfm.tasks.kinds import kind_of

Cohort = tuple[str, ...]
"""All that makes two runs answer one question about the same test images; the task's name stands first."""
_OF_TASK = ("target", "version", "measure", "where", "positives_only")


def cohort_of(run: Run) -> Cohort:
    """The cohort that a run was tested on, for grouping alone."""
    data, config, task = run.record.data, run.record.config, run.record.task
    of_task: list[Any] = [run.kind, *(getattr(task, name) for name in _OF_TASK)]
    images = [data.name, data.test_name, data.test_digest, data.splits.test.as_written()]
    truth = [data.label_source, data.class_names]
    queries = None if run.record.episodes is None else run.record.episodes.queries
    apart = [data.folds, config.where or None, config.test_where or None, config.limit or None, queries]
    return run.task, *(json.dumps(each, sort_keys=True) for each in (of_task, images, truth, apart))


def by_cohort(runs: Iterable[Run]) -> dict[Cohort, list[Run]]:
    """``runs`` by the cohort that they were tested on, in their order."""
    found: dict[Cohort, list[Run]] = {}
    for run in runs:
        found.setdefault(cohort_of(run), []).append(run)
    return found


def cohort_words(run: Run) -> str:
    """Data set, and which of its images are tested: ``nih, where view == 'PA', 5 folds``."""
    data, config = run.record.data, run.record.config
    words = [data.name if data.test_name == data.name else f"{data.test_name} (trained on {data.name})"]
    words += [f"where {config.where}"] if config.where else []
    words += [f"tested where {config.test_where}"] if config.test_where else []
    words += [f"at most {config.limit} images"] if config.limit else []
    words += [f"{data.folds} folds"] if data.folds else []
    words += [f"episodes of {run.record.episodes.queries} queries"] if run.record.episodes is not None else []
    return ", ".join(words)


def cohort_names(grouped: Mapping[Cohort, Sequence[Run]]) -> dict[Cohort, str]:
    """Each cohort in words; where those of one task are alike, with what tells them apart."""
    firsts = {cohort: runs[0] for cohort, runs in grouped.items()}
    names = distinct_names(
        [f"{run.task}\n{cohort_words(run)}" for run in firsts.values()], list(firsts.values()), _FACETS, ", {}"
    )
    return {cohort: name.partition("\n")[2] for cohort, name in zip(firsts, names, strict=True)}


def test_counts(run: Run) -> str:
    """Test patients and images, how they were set apart, and where the truth comes from."""
    data = run.record.data
    test = data.splits.test
    unit = f"{test.patients} patients, " if data.patients_known else "patients unknown, "
    counts = f"test: {unit}{test.images} images"
    finding = kind_of(run.record.task.kind).finding
    counts += f", {test.positive_images} {finding}" if finding else ""
    if run.record.episodes is not None:
        return f"{counts}, of which episodes draw; labels: {labels_words(run)}"
    counts += f", {data.folds} folds (intervals exclude training variance)" if data.folds else ", holdout"
    return f"{counts}; labels: {labels_words(run)}"


def labels_words(run: Run) -> str:
    """Where the truth comes from, each source once."""
    return ", ".join(sorted(set(run.record.data.label_source.values()))) or "unstated"


def distinct_names(
    names: Sequence[str], things: Sequence[Any], facets: Sequence[Callable[[Any], str]], form: str
) -> list[str]:
    """``names`` of ``things``; equal ones get what they differ by, facet after facet until none is equal.

    ``form`` takes what is added, such as ``" ({})"``.
    """
    added: list[list[str]] = [[] for _ in names]

    def full() -> list[str]:
        return [name + (form.format(", ".join(more)) if more else "") for name, more in zip(names, added, strict=True)]

    for facet in facets:
        now = full()
        if len(set(now)) == len(now):
            break
        values = [facet(each) for each in things]
        for place, name in enumerate(now):
            if len({value for value, other in zip(values, now, strict=True) if other == name}) > 1:
                added[place].append(values[place])
    return full()


_FACETS: tuple[Callable[[Run], str], ...] = (
    lambda run: "classes in halves" if run.record.config.base_to_novel else "all classes",
    lambda run: "holdout" if not run.record.data.folds else f"{run.record.data.folds} folds",
    lambda run: f"labels {labels_words(run)}",
    lambda run: f"{run.record.data.splits.test.images} test images",
    lambda run: f"images {str(run.record.data.test_digest)[:8]}",
    lambda run: f"version {run.record.task.version} of the task",
    lambda run: f"{run.record.data.splits.test.positive_images} positive",
    lambda run: f"classes {', '.join(run.record.data.class_names)}",
    lambda run: json.dumps({name: getattr(run.record.task, name) for name in ("kind", *_OF_TASK)}, sort_keys=True),
    lambda run: json.dumps(cohort_of(run)),
)
