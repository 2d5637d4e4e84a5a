"""The section of one task: who is best, on whom, by how much, and what the pictures show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from markupsafe import Markup

from evalfm.analysis.choose import choose
from evalfm.analysis.cohort import by_cohort, cohort_names
from evalfm.analysis.compare import Comparison, compare
from evalfm.analysis.figures import p_words
from evalfm.analysis.pages import Section, picture_uri
from evalfm.analysis.report import charts
from evalfm.analysis.report.details import (
    answers,
    by_class,
    costs_table,
    curve_drawings,
    curves_table,
    decodability_table,
    exclusions_table,
    net_benefit_table,
    operating_table,
    splits_table,
    templates_table,
)
from evalfm.analysis.report.few_labels import labels_of, more_labels, more_shots
from evalfm.analysis.report.lesions import froc_chart, lesions_table
from evalfm.analysis.report.subgroups import add_subgroups
from evalfm.analysis.report.tables import Seeded, Signed, Table, Value, table
from evalfm.analysis.shortcuts import decodability, shortcut_curves
from evalfm.analysis.table import (
    Line,
    TaskTable,
    every_metric,
    facts_of,
    plain_runs,
    task_tables,
)
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.split_options import SMALLER
from evalfm.tasks.kinds import kind_of

CHANCE = 0.5
"""Macro AUROC of a constant answer."""
FAULTS = (EvalfmError, ValueError, ArithmeticError)
"""What makes a part of a page impossible: a reason for a reader, or numbers that cannot be reckoned with."""


def why(error: Exception) -> str:
    """The reason in a sentence."""
    reason = str(error).rstrip(".") or type(error).__name__
    return f"{reason}." if isinstance(error, EvalfmError) else f"it could not be made ({reason})."


@dataclass
class TaskReport(Section):
    """The section of one task, whose ``words`` are the answer.

    Attributes:
        pairs: how many of lines were compared.
        comparison: of one line of each encoder; None where there is none.
        associations: of scores or errors with attributes, those that were found, a sentence each.
    """

    pairs: int = 0
    comparison: Comparison | None = None
    associations: Sequence[str] = ()

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """A part of the section; where it cannot be made the reason stands in its place, and the rest goes on."""
        try:
            yield
        except FAULTS as error:
            self.absent.append(f"{what}: {why(error)}")


def sections(runs: Sequence[Run]) -> list[TaskReport]:
    """A section per task and test cohort, in the order of their names."""
    grouped = by_cohort(runs)
    names = cohort_names(grouped)
    ordered = sorted(grouped, key=lambda cohort: (cohort[0], names[cohort]))
    return [_whole_section(number, grouped[cohort], names[cohort]) for number, cohort in enumerate(ordered)]


def _whole_section(number: int, runs: Sequence[Run], cohort: str) -> TaskReport:
    """The section, or the reason why there is none."""
    try:
        return (_section if runs[0].record.episodes is None else _episodes)(number, runs, cohort)
    except FAULTS as error:
        reason = f"This section could not be made: {why(error)}"
        return TaskReport(f"{runs[0].task} on {cohort}", f"task-{number}", words=reason)


def _section(number: int, runs: Sequence[Run], cohort: str) -> TaskReport:
    whole = _on_all_labels(plain_runs(runs))
    (summary,) = task_tables(whole)
    made = TaskReport(
        f"{summary.task} on {cohort}",
        f"task-{number}",
        f"{summary.title} {summary.unit_counts}.",
        list(summary.cautions),
        leading=1,
    )
    try:
        choice = choose(whole, summary.task)
    except FAULTS as error:
        made.words = f"The encoders were not compared in pairs: {why(error)}"
        best = list(summary.lines)
    else:
        made.words = choice.paragraph
        best = _in_order(summary, choice.comparison)
        made.tables.append(("Encoders", _compared(f"{made.anchor}-encoders", choice.comparison)))
        made.comparison, made.pairs = choice.comparison, choice.comparison.pairs
        if choice.comparison.one_line_each:
            with made.part("Every head and adaptation"):
                (every,) = compare(whole, task=summary.task)
                made.tables.append(("Every head and adaptation", _compared(f"{made.anchor}-heads", every)))
                made.pairs = every.pairs
    made.tables.append(("Metrics that the task names first", _metrics(f"{made.anchor}-metrics", summary)))
    with made.part("All metrics"):
        made.folded.append(("All metrics", _all_metrics(f"{made.anchor}-all-metrics", summary)))
    metric = summary.metric_names[0]
    with made.part("Default and calibrated"):
        _add_table(made, "Default and calibrated", operating_table(f"{made.anchor}-thresholds", summary))
    with made.part("Each template alone"):
        _add_table(made, "Each template alone", templates_table(f"{made.anchor}-templates", summary))
    with made.part(f"{metric} of every line"):
        drawing = charts.forest(metric, [(charts.name_of(each), each.metrics[metric], each.baseline) for each in best])
        _add(made, f"{metric} of every line, baselines hollow", drawing)
    _add_by_kind(made, best)
    with made.part("Images"):
        _add_pictures(made, best)
    with made.part("Few labels"):
        drawing, found = more_labels(f"{made.anchor}-few", task_tables(plain_runs(runs)), metric)
        _add(made, f"{metric} against the number of training images", drawing)
        _add_table(made, "Few labels", found)
    with made.part("Shortcuts"):
        _add_shortcuts(made, runs)
    with made.part("Subgroups"):
        made.associations = add_subgroups(made, best)
    parts: tuple[tuple[str, Callable[[], Table]], ...] = (
        ("What an image costs the encoders", lambda: costs_table(f"{made.anchor}-costs", best)),
        ("Who was trained on and tested", lambda: splits_table(f"{made.anchor}-splits", whole[0])),
        ("Who was left out", lambda: exclusions_table(f"{made.anchor}-left-out", whole)),
    )
    for title, make in parts:
        with made.part(title):
            made.tables.append((title, make()))
    return made


def _episodes(number: int, runs: Sequence[Run], cohort: str) -> TaskReport:
    """The section of few-shot episodes, whose runs are not compared in pairs."""
    (summary,) = task_tables(runs)
    queries = runs[0].record.episodes.queries if runs[0].record.episodes is not None else 0
    words = (
        f"Macro AUROC, the mean over few-shot episodes; {CHANCE:g} is chance. Each episode draws so many images of "
        f"each class to learn from and {queries} of each to score. The interval is that of the mean over episodes; "
        "they share images, so it says nothing about other patients, and the encoders are not compared in pairs."
    )
    title, counts = f"{summary.task} on {cohort}", f"{summary.title} {summary.unit_counts}."
    made = TaskReport(title, f"task-{number}", counts, list(summary.cautions), words, leading=1)
    drawing, found = more_shots(f"{made.anchor}-few", summary)
    made.tables.append(("Few labels", found))
    _add(made, f"{summary.metric_names[0]} against the shots of each class", drawing)
    with made.part("What an image costs the encoders"):
        heading = "What an image costs the encoders"
        made.tables.append((heading, costs_table(f"{made.anchor}-costs", summary.lines)))
    with made.part("Who was left out"):
        made.tables.append(("Who was left out", exclusions_table(f"{made.anchor}-left-out", runs)))
    return made


def _on_all_labels(runs: Sequence[Run]) -> list[Run]:
    """Runs on all training labels; where there are none, those on the largest subset."""
    whole = [run for run in runs if all(getattr(run.record.config, name) is None for name in SMALLER)]
    if any(not run.is_baseline for run in whole):
        return whole
    most = max(labels_of(run) for run in runs if not run.is_baseline or not any(not each.is_baseline for each in runs))
    return [run for run in runs if run in whole or labels_of(run) == most]


def _in_order(summary: TaskTable, comparison: Comparison) -> list[Line]:
    """The lines as the comparison ranks them; heads that do not speak for their encoder after those that do."""
    place = {(each.encoder, each.head, each.adaptation): number for number, each in enumerate(comparison.entries)}

    def order(line: Line) -> tuple[bool, int]:
        return line.baseline, place.get((line.encoder, line.head, line.adaptation), len(place))

    return sorted(summary.lines, key=order)


def _compared(name: str, found: Comparison) -> Table:
    header = ["encoder", "head", "adaptation", found.metric, "seeds", "seed sd", "minus the best", "p", "rank"]
    header += ["detectable", "set"]
    rows: list[list[Value]] = []
    for each in found.entries:
        rank = None if each.rank is None else "–".join(str(end) for end in dict.fromkeys(each.rank))
        group = "baseline" if each.baseline else "best" if each.in_best_set else ""
        head = f"{each.head} (best by val)" if each.best_by_val else each.head
        heads_only = found.mixed and each.difference is not None and each.difference.speaks_of != "encoders"
        p = p_words(each.p) + ("†" if heads_only else "")
        row: list[Value] = [each.encoder, head, each.adaptation, each.estimate, each.seeds, each.seed_sd]
        rows.append([*row, Signed.of(each.difference), p, rank, each.detectable, group])
    remarks = [each.sentence for each in found.heads]
    if not found.pairs:
        caption = f"One line that is no baseline: there is no pair to compare. {found.estimand}."
        return table(name, header, rows, caption, remarks)
    caption = (
        f"Paired differences to the best on the same patients ({found.method}); p after Holm over "
        f"{found.pairs} {'pair' if found.pairs == 1 else 'pairs'}. {found.speaks_of}"
        f"{' † marks these.' if found.mixed else ''} {found.estimand}. "
        "rank: 95 % for all lines at once (max-|t| over all pairs), wide by nature. detectable: the true difference "
        "that would have been found with 80 % power; no difference found is no proof of equality. set: not "
        "significantly worse than the best."
    )
    return table(name, header, rows, caption, remarks)


def _metrics(name: str, summary: TaskTable) -> Table:
    header = ["encoder", "head", "adaptation", *summary.metric_names]
    rows: list[list[Value]] = [
        [line.encoder, line.head, line.adaptation, *(Seeded.of(line, each) for each in summary.metric_names)]
        for line in summary.lines
    ]
    several = any(len(line.runs) > 1 for line in summary.lines)
    count = len(every_metric(summary))
    caption = f"{len(summary.metric_names)} of {count} metrics, with 95 % intervals.{OF_SEEDS if several else ''}"
    return table(
        name,
        header,
        rows,
        caption + (" The others stand under All metrics." if count > len(summary.metric_names) else ""),
    )


OF_SEEDS = " Of several seeds the mean ± their standard deviation, and the interval that holds theirs."


def _all_metrics(name: str, summary: TaskTable) -> Table:
    """A row per metric and line."""
    every, runs = every_metric(summary), [run for line in summary.lines for run in line.runs]
    rows: list[list[Value]] = [
        [each, facts.unit, facts.direction, line.encoder, line.head, line.adaptation, Seeded.of(line, each)]
        for each, facts in ((each, facts_of(each, runs)) for each in every)
        for line in summary.lines
    ]
    header = ["metric", "unit", "better", "encoder", "head", "adaptation", "estimate"]
    several = any(len(line.runs) > 1 for line in summary.lines)
    caption = f"With 95 % intervals.{OF_SEEDS if several else ''} better: which values are good ones."
    return table(name, header, rows, caption)


def _add_table(made: TaskReport, heading: str, found: Table | None) -> None:
    if found is not None:
        made.tables.append((heading, found))


def _add(made: TaskReport, heading: str, drawing: Markup | None) -> None:
    if drawing is not None:
        made.drawings.append((heading, drawing))


def _add_by_kind(made: TaskReport, best: Sequence[Line]) -> None:
    """What the kind of task calls for, of the best lines and the best baseline."""
    baselines = [line for line in best if line.baseline][:1]
    shown = [*[line for line in best if not line.baseline][: charts.MOST_CURVES - len(baselines)], *baselines]
    for name in kind_of(best[0].runs[0].kind).parts:
        PARTS[name](made, shown)


def _roc(made: TaskReport, shown: Sequence[Line]) -> None:
    with made.part("ROC curves"):
        _add(made, "ROC curves", charts.roc(shown))


def _calibration(made: TaskReport, shown: Sequence[Line]) -> None:
    with made.part("Calibration"):
        calibrated = charts.calibration(shown)
        if calibrated is None:
            made.absent.append("Calibration: no model gives probabilities.")
        _add(made, "Calibration: share with the finding, with the band and histogram of the first line", calibrated)


def _decisions(made: TaskReport, shown: Sequence[Line]) -> None:
    with made.part("Net benefit"):
        _add(
            made,
            "Net benefit of acting from a probability on, with the band of the first line",
            charts.decisions(shown),
        )
        _add_table(made, "Net benefit", net_benefit_table(f"{made.anchor}-net-benefit", shown))


def _dice(made: TaskReport, shown: Sequence[Line]) -> None:
    for each in shown[0].runs[0].record.data.class_names:
        heading = f"Dice on images with {each}: 5–95 %, quartiles and median"
        with made.part(heading):
            tables = [(charts.name_of(line), line.runs[0].test_predictions()) for line in shown]
            rows = [
                (name, table[f"dice_{each}"][table[f"area_true_{each}"] > 0].to_numpy(np.float64))
                for name, table in tables
            ]
            _add(made, heading, charts.spread(f"Dice of {each}", rows))


def _lesions(made: TaskReport, shown: Sequence[Line]) -> None:
    for each in shown[0].runs[0].record.data.class_names:
        heading = f"Lesions of {each}"
        with made.part(heading):
            found = lesions_table(f"{made.anchor}-lesions-{each}", shown, each)
            if found is None:
                made.absent.append(f"{heading}: the runs are of a version that did not count them; make them again.")
            _add_table(made, heading, found)
            _add(made, f"{heading}: FROC, with each run's own threshold as a dot", froc_chart(shown, each))


def _errors(made: TaskReport, shown: Sequence[Line]) -> None:
    with made.part("Predicted minus true"):
        tables = [(charts.name_of(line), line.runs[0].test_predictions()) for line in shown]
        rows = [(name, (table["prediction"] - table["target"]).to_numpy(np.float64)) for name, table in tables]
        _add(made, "Predicted minus true: 5–95 %, quartiles and median", charts.spread("error", rows))


def _areas(made: TaskReport, shown: Sequence[Line], heading: str) -> None:
    with made.part(heading):
        _add(made, heading, charts.by_class("AUROC", *by_class(shown)))
        made.tables.append((heading, _by_class(f"{made.anchor}-classes", shown)))


def _answers(made: TaskReport, shown: Sequence[Line]) -> None:
    heading = f"What {charts.name_of(shown[0])} answers"
    with made.part(heading):
        made.tables.append((heading, answers(f"{made.anchor}-answers", shown[0].runs[0])))


PARTS: dict[str, Callable[[TaskReport, Sequence[Line]], None]] = {
    "roc": _roc,
    "calibration": _calibration,
    "decisions": _decisions,
    "dice": _dice,
    "lesions": _lesions,
    "errors": _errors,
    "labels": partial(_areas, heading="AUROC of each label"),
    "classes": partial(_areas, heading="AUROC of each class against the others"),
    "answers": _answers,
}
"""What the section of a task shows of its kind, see ``Kind.parts``."""
SHOWN = {
    "overlays": ("overlays_*.png", "best, median and worst images, and the worst of each stratum"),
    "agreement": ("agreement.png", "agreement with the truth"),
}
"""Of the pictures that runs draw, see ``Kind.picture``, those that a section repeats, and what they show."""


def _by_class(name: str, lines: Sequence[Line]) -> Table:
    classes, areas = by_class(lines)
    rows: list[list[Value]] = [[each, *(line[place] for _, line in areas)] for place, each in enumerate(classes)]
    caption = "Of the first seed, over the images where the label is known, with 95 % intervals."
    return table(name, ["class", *(charts.name_of(line) for line, _ in areas)], rows, caption)


def _add_pictures(made: TaskReport, best: Sequence[Line]) -> None:
    """The images and agreement plots that the best line's run drew itself; it knew whether pixels may be shown."""
    line = next((line for line in best if not line.baseline), best[0])
    run = line.runs[0]
    kind = kind_of(run.kind)
    pattern, words = SHOWN.get(kind.picture, ("", ""))
    paths = sorted((run.folder / "figures").glob(pattern)) if pattern else []
    # A run may come from anywhere: what is no picture of its own folder is not put into a page.
    paths = [path for path in paths if path.is_file() and path.resolve().is_relative_to(run.folder.resolve())]
    made.pictures += [(f"{charts.name_of(line)}: {words}", picture_uri(path)) for path in paths]
    if kind.pixelwise and not paths:
        shown = run.record.data.redistributable_images
        why = "" if shown else "the licence of the data does not let pixels be shown"
        made.absent.append(f"Images with outlines: {why or 'the run drew none'}.")


def _add_shortcuts(made: TaskReport, runs: Sequence[Run]) -> None:
    """Shortcut curves, and how well an attribute can be decoded among negatives, where such runs are."""
    curves = shortcut_curves(runs)
    made.drawings += curve_drawings(curves)
    if curves:
        made.tables.append(("Shortcut curves", curves_table(f"{made.anchor}-shortcut", curves)))
    decoded = decodability(runs)
    if decoded:
        made.tables.append(("Can the features tell it", decodability_table(f"{made.anchor}-decoded", decoded)))
