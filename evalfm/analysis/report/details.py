"""Tables and drawings of one task: classes, thresholds, templates, shortcuts, splits, costs, exclusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from evalfm.analysis.figures import p_words
from evalfm.analysis.operating_points import HEADER, operating_points, wanted
from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Signed, Table, Value, Worded, table
from evalfm.analysis.shortcuts import Curve, Decoded
from evalfm.analysis.table import Line, TaskTable, encoder_label
from evalfm.analysis.times import Times
from evalfm.metrics.rows import probable
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.net_benefit import net_benefit
from evalfm.tasks.kinds import kind_of

NET_BENEFIT = "influence of patients, t"
Areas = list[tuple[Line, list[Estimate]]]


def by_class(lines: Sequence[Line]) -> tuple[list[str], Areas]:
    """Names of the classes, and of each line the AUROC of each."""
    classes = list(lines[0].runs[0].record.data.class_names)
    areas = [(line, [line.estimate(f"auroc[{name}]") for name in classes]) for line in lines]
    return classes, areas


def answers(name: str, run: Run) -> Table:
    """The confusion matrix of the test images of a run of exclusive classes."""
    classes = list(run.record.data.class_names)
    test = run.test_predictions()
    called = test[[f"score_{each}" for each in classes]].to_numpy(np.float64).argmax(axis=1)
    target = test["target"].to_numpy(np.intp)
    rows: list[list[Value]] = []
    for number, each in enumerate(classes):
        counts = np.bincount(called[target == number], minlength=len(classes))
        right = float(counts[number] / counts.sum()) if counts.sum() else None
        rows.append([each, int(counts.sum()), *map(int, counts), right])
    header = ["true class", "images", *(f"called {each}" for each in classes), "share right"]
    return table(name, header, rows, "Test images of the first seed; the class with the largest score is called.")


def operating_table(name: str, summary: TaskTable) -> Table | None:
    """Default and chosen thresholds of every line that is no baseline; None where none is wanted or none applies."""
    points = operating_points(summary) if wanted([run for line in summary.lines for run in line.runs]) else []
    if not points:
        return None
    rows: list[list[Value]] = [[each.encoder, each.head, each.threshold, *each.estimates] for each in points]
    caption = (
        "Thresholds and temperatures were chosen on val. Brier score and ECE are without temperature scaling in the "
        "default line and with it in the other; AUROC is moved by neither. Of several seeds the mean."
    )
    return table(name, list(HEADER), rows, caption)


ACT_FROM = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Thresholds of the table of net benefit."""


def net_benefit_table(name: str, lines: Sequence[Line]) -> Table | None:
    """Net benefit of each line's first seed at some thresholds, and of calling everybody; None where none has any."""
    rows: list[list[Value]] = []
    last: list[Value] = []
    for line in lines:
        target, score, _ = charts.scores_of(line.runs[0])
        if not probable(score):
            continue
        found = net_benefit(target, score, charts.patients_of(line.runs[0]), ACT_FROM)
        n, unit = line.runs[0].record.data.splits.test.patients, line.runs[0].record.data.unit
        values = zip(found.model.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
        rows.append([charts.name_of(line), *(Estimate(*each, method=NET_BENEFIT, n=n, unit=unit) for each in values)])
        last = ["call everybody", *(Worded.number(each, ".4f") for each in found.treat_all.tolist())]
    if not rows:
        return None
    caption = (
        "True positives an image, less false ones weighed by t / (1 − t), of acting from the probability t on; acting "
        "never has 0. Pointwise 95 % intervals by patients, training variance excluded; of the first seed, all folds "
        "together."
    )
    return table(name, ["model", *(f"from {each:g}" for each in ACT_FROM)], [*rows, last], caption)


def templates_table(name: str, summary: TaskTable) -> Table | None:
    """The primary metric by each template alone; None where no head has templates."""
    rows: list[list[Value]] = []
    for line in summary.lines:
        prompts = line.runs[0].record.prompts
        for each in prompts.by_template if prompts else []:
            rows.append([line.encoder, line.head, each.template, each.estimate])
    if not rows:
        return None
    caption = "Test images by one template at a time: how far a figure hangs on the words. None was chosen by it."
    return table(name, ["encoder", "head", "template", summary.metric_names[0]], rows, caption)


def curve_drawings(curves: Sequence[Curve]) -> list[tuple[str, Markup]]:
    """A chart per task, data set and attribute, with its heading."""
    grouped: dict[tuple[str, str, str, str], list[Curve]] = {}
    for curve in curves:
        grouped.setdefault((curve.task, curve.data, curve.attribute, curve.metric), []).append(curve)
    found = []
    for (task, data, attribute, metric), mine in grouped.items():
        lines = [(each.model, [(point.strength, point.estimate) for point in each.points]) for each in mine]
        drawing = charts.shortcut(metric, attribute, lines)
        if drawing is not None:
            heading = f"{metric} of {task} on {data} against the tie to {attribute} in train, test images independent"
            found.append((heading, drawing))
    return found


def curves_table(name: str, curves: Sequence[Curve]) -> Table:
    """The metric at each strength, and the slope with interval and p."""
    strengths = sorted({point.strength for curve in curves for point in curve.points})
    header = ["task", "data", "attribute", "model", "images", *(f"phi {each:g}" for each in strengths), "slope", "p"]
    rows: list[list[Value]] = []
    for curve in curves:
        at = {point.strength: point.estimate for point in curve.points}
        first: list[Value] = [curve.task, curve.data, curve.attribute, curve.model, curve.points[0].images]
        p = p_words(curve.slope.p if curve.slope else None)
        rows.append([*first, *map(at.get, strengths), Signed.of(curve.slope, curve.reason), p])
    caption = (
        "Heads trained on equally many images in which the attribute goes with the label at phi, tested on images in "
        "which it does not. slope: per unit of phi, of the straight line, paired over the same test images; described, "
        "its p not sized by simulation."
    )
    return table(name, header, rows, caption)


def decodability_table(name: str, decoded: Sequence[Decoded]) -> Table:
    """The AUROC for an attribute among negatives beside that of random weights."""
    header = ["attribute", "among", "data", "encoder", "head", "AUROC for it", "random weights", "minus random", "p"]
    rows: list[list[Value]] = []
    for each in decoded:
        first: list[Value] = [each.attribute, f"{each.finding} = 0", each.data, each.encoder, each.head]
        p = p_words(each.difference.p if each.difference else None)
        rows.append([*first, each.auroc, each.baseline, Signed.of(each.difference, each.reason), p])
    caption = (
        "A linear probe for the attribute among images without the finding. That the features hold it says that a head "
        "could use it, not that one does."
    )
    return table(name, header, rows, caption)


def splits_table(name: str, run: Run) -> Table:
    """Images and patients of each split."""
    sizes, finding = run.record.data.splits, kind_of(run.kind).finding
    header = ["split", "images", "patients", *([f"images {finding}"] if finding else [])]
    known = run.record.data.patients_known
    rows: list[list[Value]] = [
        [
            split,
            size.images,
            size.patients if known else None,
            *([size.positive_images] if finding else []),
        ]
        for split, size in (("train", sizes.train), ("val", sizes.val), ("test", sizes.test))
    ]
    caption = "Over all folds; an image is tested in one fold and trains in others." if run.record.data.folds else ""
    return table(name, header, rows, caption)


def costs_table(name: str, lines: Sequence[Line]) -> Table:
    """Parameters, operations and time of every encoder; baselines are none."""
    header = ["encoder", "parameters", "GFLOP", "ms", "measured on", "dimensions", "licence"]
    times = Times.of([run for line in lines for run in line.runs])
    rows: dict[str, list[Value]] = {}
    for line in (line for line in lines if not line.baseline):
        card, cost = line.runs[0].record.encoder, line.runs[0].record.provenance.cost
        milliseconds, on = times.milliseconds(line.runs[0]), times.words(line.runs[0])
        # Heads and training sets of one encoder are no encoders of their own.
        name_of = encoder_label(line.runs[0])
        first: list[Value] = [name_of, card.parameters, None if cost is None else cost.gigaflops]
        row = [*first, milliseconds, on, card.dimensions, card.licence]
        if name_of not in rows or rows[name_of][3] is None:
            rows[name_of] = row
    caption = (
        "GFLOP and ms: of a forward pass of one image, a multiplication and an addition being two operations; times on "
        "two devices do not compare."
    )
    return table(name, header, list(rows.values()), caption)


def exclusions_table(name: str, runs: Sequence[Run]) -> Table:
    """How many images were left out of the cohort, by reason."""
    every: dict[str, int] = {}
    for run in runs:
        for each in run.record.exclusions:
            every[each.reason] = max(every.get(each.reason, 0), each.images)
    rows: list[list[Value]] = [[reason, images] for reason, images in every.items()]
    return table(name, ["reason", "images"], rows or [["nobody", 0]])
