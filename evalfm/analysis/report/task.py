"""The section of one task: who is best, on whom, by how much, and what the pictures show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from evalfm.analysis.choose import choose
from evalfm.analysis.cohort import by_cohort, cohort_names
from evalfm.analysis.compare import Comparison
from evalfm.analysis.figures import p_words
from evalfm.analysis.pages import picture_uri
from evalfm.analysis.pairing import over_seeds
from evalfm.analysis.report import charts
from evalfm.analysis.report.details import (
    answers,
    by_class,
    costs_table,
    curve_drawings,
    curves_table,
    decodability_table,
    exclusions_table,
    operating_table,
    splits_table,
    templates_table,
)
from evalfm.analysis.report.subgroups import subgroups
from evalfm.analysis.report.tables import Seeded, Signed, Table, Value, table
from evalfm.analysis.series import line_names, settings_but
from evalfm.analysis.shortcuts import decodability, shortcut_curves
from evalfm.analysis.table import (
    Line,
    TaskTable,
    every_metric,
    plain_runs,
    task_tables,
)
from evalfm.errors import EvalfmError
from evalfm.metrics.registry import metric_of
from evalfm.run import Run
from evalfm.statistics.comparison import Difference

SMALLER = ("shots", "val_shots", "label_fraction")
FAULTS = (EvalfmError, ValueError, ArithmeticError)
"""What makes a part of a page impossible: a reason for a reader, or numbers that cannot be reckoned with."""


def why(error: Exception) -> str:
    """The reason in a sentence."""
    reason = str(error).rstrip(".") or type(error).__name__
    return f"{reason}." if isinstance(error, EvalfmError) else f"it could not be made ({reason})."


@dataclass
class TaskReport:
    """What the page shows of one task.

    Attributes:
        anchor: unique on the page.
        words: the answer in a paragraph.
        cautions: to stand at the top.
        tables, drawings: in order, each with its heading; ``folded`` tables unfold by a click.
        pictures: PNG as URIs, with what they show.
        pairs: of lines that were compared.
        verdicts: of the subgroups, per model.
        absent: what could not be shown, and why.
    """

    anchor: str
    title: str
    counts: str
    words: str
    cautions: list[str]
    pairs: int = 0
    tables: list[tuple[str, Table]] = field(default_factory=list)
    folded: list[tuple[str, Table]] = field(default_factory=list)
    drawings: list[tuple[str, Markup]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    verdicts: list[tuple[str, list[str]]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

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
        return _section(number, runs, cohort)
    except FAULTS as error:
        reason = f"This section could not be made: {why(error)}"
        return TaskReport(f"task-{number}", f"{runs[0].task} on {cohort}", "", reason, [])


def _section(number: int, runs: Sequence[Run], cohort: str) -> TaskReport:
    whole = _on_all_labels(plain_runs(runs))
    (summary,) = task_tables(whole)
    made = TaskReport(
        f"task-{number}",
        f"{summary.task} on {cohort}",
        f"{summary.title} {summary.unit_counts}.",
        "",
        list(summary.cautions),
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
        made.pairs = choice.comparison.pairs
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
        _add_curves(made, plain_runs(runs), metric)
    with made.part("Shortcuts"):
        _add_shortcuts(made, runs)
    with made.part("Subgroups"):
        strata = subgroups(made.anchor, best)
        made.tables += strata.tables
        made.verdicts += strata.verdicts
        made.absent += strata.absent
    parts: tuple[tuple[str, Callable[[], Table]], ...] = (
        ("What an image costs the encoders", lambda: costs_table(f"{made.anchor}-costs", best)),
        ("Who was trained on and tested", lambda: splits_table(f"{made.anchor}-splits", whole[0])),
        ("Who was left out", lambda: exclusions_table(f"{made.anchor}-left-out", whole)),
    )
    for title, make in parts:
        with made.part(title):
            made.tables.append((title, make()))
    return made


def _on_all_labels(runs: Sequence[Run]) -> list[Run]:
    """Runs on all training labels; where there are none, those on the largest subset."""
    whole = [run for run in runs if all(getattr(run.record.config, name) is None for name in SMALLER)]
    if any(not run.is_baseline for run in whole):
        return whole
    most = max(_labels(run) for run in runs if not run.is_baseline or not any(not each.is_baseline for each in runs))
    return [run for run in runs if run in whole or _labels(run) == most]


def _labels(run: Run) -> int:
    return run.record.data.splits.train.images


def _in_order(summary: TaskTable, comparison: Comparison) -> list[Line]:
    """The lines as the comparison ranks them."""
    place = {(each.encoder, each.head, each.adaptation): number for number, each in enumerate(comparison.entries)}
    return sorted(summary.lines, key=lambda line: place[line.encoder, line.head, line.adaptation])


def _compared(name: str, found: Comparison) -> Table:
    header = ["encoder", "head", "adaptation", found.metric, "seeds", "seed sd", "minus the best", "p", "rank"]
    header += ["detectable", "set"]
    rows: list[list[Value]] = []
    for each in found.entries:
        rank = None if each.rank is None else f"{each.rank[0]:g}–{each.rank[1]:g}"
        group = "baseline" if each.baseline else "best" if each.in_best_set else ""
        row: list[Value] = [each.encoder, each.head, each.adaptation, each.estimate, each.seeds, each.seed_sd]
        rows.append([*row, _difference(each.difference), p_words(each.p), rank, each.detectable, group])
    if not found.pairs:
        return table(name, header, rows, "One line that is no baseline: there is no pair to compare.")
    caption = (
        f"Paired differences to the best on the same patients ({found.method}); p after Holm over "
        f"{found.pairs} {'pair' if found.pairs == 1 else 'pairs'}. "
        "rank: 95 % interval over resampled patients. detectable: the true difference that would have been found with "
        "80 % power; no difference found is no proof of equality. set: not significantly worse than the best."
    )
    return table(name, header, rows, caption)


def _difference(found: Difference | None) -> Signed | None:
    return None if found is None else Signed(found.value, found.low, found.high)


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
    every = every_metric(summary)
    rows: list[list[Value]] = [
        [each, facts.unit, facts.direction, line.encoder, line.head, line.adaptation, Seeded.of(line, each)]
        for each, facts in ((each, metric_of(each)) for each in every)
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
    kind = best[0].runs[0].kind
    if kind == "binary":
        with made.part("ROC curves"):
            _add(made, "ROC curves", charts.roc(shown))
        with made.part("Calibration"):
            calibrated = charts.calibration(shown)
            if calibrated is None:
                made.absent.append("Calibration: no model gives probabilities.")
            _add(made, "Calibration in ten equally filled bins", calibrated)
    if kind == "segmentation":
        for each in best[0].runs[0].record.data.class_names:
            heading = f"Dice on images with {each}: 5–95 %, quartiles and median"
            with made.part(heading):
                rows = [(charts.name_of(line), _dice(line.runs[0], str(each))) for line in shown]
                _add(made, heading, charts.spread(f"Dice of {each}", rows))
    if kind == "regression":
        with made.part("Predicted minus true"):
            rows = [(charts.name_of(line), _errors(line.runs[0])) for line in shown]
            _add(made, "Predicted minus true: 5–95 %, quartiles and median", charts.spread("error", rows))
    if kind in ("multilabel", "multiclass", "ordinal"):
        heading = "AUROC of each label" if kind == "multilabel" else "AUROC of each class against the others"
        with made.part(heading):
            _add(made, heading, charts.by_class("AUROC", *by_class(shown)))
            made.tables.append((heading, _by_class(f"{made.anchor}-classes", shown)))
    if kind in ("multiclass", "ordinal"):
        heading = f"What {charts.name_of(shown[0])} answers"
        with made.part(heading):
            made.tables.append((heading, answers(f"{made.anchor}-answers", shown[0].runs[0])))


def _by_class(name: str, lines: Sequence[Line]) -> Table:
    classes, areas = by_class(lines)
    rows: list[list[Value]] = [[each, *(line[place] for _, line in areas)] for place, each in enumerate(classes)]
    caption = "Of the first seed, over the images where the label is known, with 95 % intervals."
    return table(name, ["class", *(charts.name_of(line) for line, _ in areas)], rows, caption)


def _dice(run: Run, name: str) -> charts.Values:
    found = run.test_predictions()
    found = found[found[f"area_true_{name}"] > 0]
    values: charts.Values = found[f"dice_{name}"].to_numpy(np.float64)
    return values


def _errors(run: Run) -> charts.Values:
    found = run.test_predictions()
    values: charts.Values = found["prediction"].to_numpy(np.float64) - found["target"].to_numpy(np.float64)
    return values


def _add_pictures(made: TaskReport, best: Sequence[Line]) -> None:
    """The images and agreement plots that the best line's run drew itself; it knew whether pixels may be shown."""
    line = next((line for line in best if not line.baseline), best[0])
    run = line.runs[0]
    kind = run.kind
    paths = sorted((run.folder / "figures").glob("overlays_*.png" if kind == "segmentation" else "agreement.png"))
    # A run may come from anywhere: what is no picture of its own folder is not put into a page.
    paths = [path for path in paths if path.is_file() and path.resolve().is_relative_to(run.folder.resolve())]
    for path in paths if kind in ("segmentation", "regression") else []:
        made.pictures.append((f"{charts.name_of(line)}: {_shows(path)}", picture_uri(path)))
    if kind == "segmentation" and not paths:
        shown = run.record.data.redistributable_images
        why = "" if shown else "the licence of the data does not let pixels be shown"
        made.absent.append(f"Images with outlines: {why or 'the run drew none'}.")


def _shows(path: Path) -> str:
    return (
        "best, median and worst images, and the worst of each stratum"
        if path.stem.startswith("overlays")
        else "agreement with the truth"
    )


def _add_curves(made: TaskReport, runs: Sequence[Run], metric: str) -> None:
    """The metric against training images, of lines that were trained on several subsets and differ in these alone."""
    grouped: dict[str, list[Line]] = {}
    for summary in task_tables(runs):
        for line in summary.lines:
            if not line.baseline:
                grouped.setdefault(settings_but(line.runs[0], *SMALLER), []).append(line)
    several = [lines for lines in grouped.values() if len({round(_images(line)) for line in lines}) > 1]
    names = line_names([lines[0].runs[0] for lines in several])
    curves = [
        (
            f"{name} · {lines[0].head} · {lines[0].adaptation}",
            [(round(_images(line)), over_seeds(line, metric)) for line in lines],
        )
        for name, lines in zip(names, several, strict=True)
    ]
    if not curves:
        return
    _add(made, f"{metric} against the number of training images", charts.more_labels(metric, curves))
    rows: list[list[Value]] = [
        [name, images, one] for name, line in curves for images, one in sorted(line, key=lambda point: point[0])
    ]
    seeded = any(len(line.runs) > 1 for lines in several for line in lines)
    averaged = "Averaged over seeds, inside every resample of patients too; seeds draw the training images."
    caption = averaged if seeded else "One seed of each."
    made.tables.append(("Few labels", table(f"{made.anchor}-few", ["line", "train images", metric], rows, caption)))


def _images(line: Line) -> float:
    """Training images, the mean over seeds: a fraction of the patients is not always as many images."""
    return float(np.mean([_labels(run) for run in line.runs]))


def _add_shortcuts(made: TaskReport, runs: Sequence[Run]) -> None:
    """Shortcut curves, and how well an attribute can be decoded among negatives, where such runs are."""
    curves = shortcut_curves(runs)
    made.drawings += curve_drawings(curves)
    if curves:
        made.tables.append(("Shortcut curves", curves_table(f"{made.anchor}-shortcut", curves)))
    decoded = decodability(runs)
    if decoded:
        made.tables.append(("Can the features tell it", decodability_table(f"{made.anchor}-decoded", decoded)))
