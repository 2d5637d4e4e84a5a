"""What is drawn of a task's runs: forest plot, ROC, calibration, Dice, errors, and what more labels bring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from evalfm.analysis.figures import describe, mean_roc
from evalfm.analysis.report.svg import COLOURS, DASHES, GREY, Chart, ChartAxis, spanning
from evalfm.analysis.table import Line
from evalfm.metrics.rows import probable
from evalfm.run import Run
from evalfm.statistics.calibration_curve import calibration_curve
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.net_benefit import net_benefit

MOST_CURVES = len(COLOURS)
"""Lines of one chart that an eye can follow."""
HISTOGRAM = 40
"""Bars under a calibration curve."""
_GRID = np.linspace(0, 1, 101)

Values = NDArray[np.float64]


def name_of(line: Line) -> str:
    """Encoder, head and, unless frozen, adaptation."""
    return " · ".join([line.encoder, line.head, *([line.adaptation] if line.adaptation != "frozen" else [])])


def forest(metric: str, entries: Sequence[tuple[str, Estimate, bool]]) -> Markup | None:
    """Every line's estimate with its interval; baselines (the third) hollow and grey. None where none has a value."""
    shown = [entry for entry in entries if entry[1].value is not None]
    if not shown:
        return None
    chart = Chart(
        _spanned(metric, [one for _, one, _ in shown]),
        ChartAxis("", -0.6, len(shown) - 0.4),
        f"{metric} with 95 % intervals",
        width=760,
        height=70 + 24 * len(shown),
        rows=[name for name, _, _ in shown],
    )
    for place, (name, estimate, baseline) in enumerate(shown):
        _mark(chart, estimate, len(shown) - 1 - place, GREY if baseline else COLOURS[0], name, hollow=baseline)
    return chart.drawn()


def _spanned(label: str, estimates: Sequence[Estimate]) -> ChartAxis:
    """An axis that holds the estimates that have a value, and their intervals."""
    shown = [each for each in estimates if each.value is not None]
    return spanning(label, [end for one in shown for end in (one.value, one.low, one.high) if end is not None])


def _mark(chart: Chart, one: Estimate, at: float, colour: str, name: str, *, hollow: bool) -> None:
    """An estimate with its interval, lying at the height ``at``; nothing where it has no value."""
    if one.value is None:
        return
    hover = f"{name}: {describe(one)}"
    if one.low is not None and one.high is not None:
        chart.whisker(one.low, one.high, at, colour, hover)
    chart.dot(one.value, at, colour, hover, hollow=hollow)


def roc(lines: Sequence[Line]) -> Markup:
    """ROC curves of each line's first seed, the mean over folds where there are any."""
    chart = Chart(
        ChartAxis("1 − specificity", 0, 1), ChartAxis("sensitivity", 0, 1), "ROC curves", width=470, height=430
    )
    chart.line([(0, 0), (1, 1)], GREY, "chance", dash="1 3", legend=False)
    for line, colour, dash in zip(lines, COLOURS, DASHES, strict=False):
        target, score, folds = scores_of(line.runs[0])
        curve = mean_roc(target, score, np.ones(len(target)), folds, _GRID)
        if curve is None:
            continue
        area = line.runs[0].estimate("auroc")
        points = [(0.0, 0.0), *zip(_GRID.tolist(), curve.tolist(), strict=True)]
        area_words = "no AUROC" if area.value is None else describe(area)
        chart.line(points, colour, f"{name_of(line)}: {area_words}", dash=dash)
    return chart.drawn()


def calibration(lines: Sequence[Line]) -> Markup | None:
    """Share with the finding against the probability, smooth with a band, over the scores' own histogram.

    The band is of the first line, the histogram too; None where no line has a curve.
    """
    drawn = []
    for line, colour, dash in zip(lines, COLOURS, DASHES, strict=False):
        target, score, _ = scores_of(line.runs[0])
        curve = calibration_curve(target, score, patients_of(line.runs[0])) if probable(score) else None
        if curve is not None:
            drawn.append((name_of(line), curve, score, colour, dash))
    if not drawn:
        return None
    # Rare findings keep every curve in a corner: the axes end where the curves do.
    end = min(1.0, 1.1 * max(float(max(curve.probability.max(), curve.share.max())) for _, curve, *_ in drawn))
    axes = ChartAxis("probability", 0, end), ChartAxis("share with the finding", 0, end)
    chart = Chart(*axes, "Calibration", width=470, height=430)
    chart.line([(0, 0), (end, end)], GREY, "perfect", dash="1 3", legend=False)
    name, curve, score, colour, _ = drawn[0]
    count, edges = np.histogram(score, bins=HISTOGRAM, range=(0, end))
    for images, left, right in zip(count.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if images:
            words = f"{name}: {images} images of probability {left:.3f} to {right:.3f}"
            chart.bar(left, right, 0.2 * end * images / count.max(), colour, words)
    ends = (curve.low.tolist(), curve.high.tolist())
    chart.band(curve.probability.tolist(), *ends, colour, f"{name}: 95 % band at each probability")
    for name, curve, _, colour, dash in drawn:
        chart.line(list(zip(curve.probability.tolist(), curve.share.tolist(), strict=True)), colour, name, dash=dash)
    return chart.drawn()


def decisions(lines: Sequence[Line]) -> Markup | None:
    """Net benefit of acting on a probability, beside acting always and never; None where no line has probabilities.

    The band is of the first line. Thresholds go to three times the prevalence, .3 at least.
    """
    found = []
    for line, colour, dash in zip(lines, COLOURS, DASHES, strict=False):
        target, score, _ = scores_of(line.runs[0])
        if probable(score):
            found.append((name_of(line), net_benefit(target, score, patients_of(line.runs[0])), colour, dash))
    if not found:
        return None
    first = found[0][1]
    end = min(0.99, max(0.3, 3 * first.prevalence))
    inside = first.thresholds <= end + 1e-9
    top = 1.15 * max(float(each.high[inside].max()) for _, each, *_ in found)
    axes = ChartAxis("threshold of the probability", 0, end), ChartAxis("net benefit", -0.25 * top, top)
    chart = Chart(*axes, "Net benefit", width=470, height=430)
    across = first.thresholds[inside].tolist()
    name, _, colour, _ = found[0]
    ends = (first.low[inside].tolist(), first.high[inside].tolist())
    chart.band(across, *ends, colour, f"{name}: 95 % interval at each threshold")
    chart.line([(0, 0), (end, 0)], GREY, "call nobody", dash="4 4")
    shown = inside & (first.treat_all >= axes[1].low)
    everybody = [(0.0, first.prevalence), *zip(first.thresholds[shown], first.treat_all[shown], strict=True)]
    chart.line([(float(x), float(y)) for x, y in everybody], GREY, "call everybody", dash="1 3")
    for name, each, colour, dash in found:
        points = zip(across, each.model[inside].clip(axes[1].low).tolist(), strict=True)
        chart.line(list(points), colour, name, dash=dash)
    return chart.drawn()


def by_class(metric: str, classes: Sequence[str], lines: Sequence[tuple[Line, Sequence[Estimate]]]) -> Markup | None:
    """Per class the estimate of each line with its interval, one below the other, baselines hollow and grey.

    None where nothing has a value.
    """
    lines = lines[:MOST_CURVES]
    every = [one for _, estimates in lines for one in estimates]
    if not any(one.value is not None for one in every):
        return None
    chart = Chart(
        _spanned(metric, every),
        ChartAxis("", -0.6, len(classes) - 0.4),
        f"{metric} by class",
        width=760,
        height=70 + (16 + 9 * len(lines)) * len(classes),
        rows=classes,
    )
    for number, ((line, estimates), own) in enumerate(zip(lines, COLOURS, strict=False)):
        name, colour = name_of(line), GREY if line.baseline else own
        chart.legend.append((name, colour, ""))
        shift = 0.7 * ((len(lines) - 1) / 2 - number) / max(len(lines), 1)
        for place, (each, one) in enumerate(zip(classes, estimates, strict=True)):
            _mark(chart, one, len(classes) - 1 - place + shift, colour, f"{each}, {name}", hollow=line.baseline)
    return chart.drawn()


def spread(label: str, rows: Sequence[tuple[str, Values]]) -> Markup | None:
    """Per row the 5th to 95th percentile, the quartiles and the median; None where no row has a value."""
    shown = [(name, values[np.isfinite(values)]) for name, values in rows]
    shown = [(name, values) for name, values in shown if len(values)]
    if not shown:
        return None
    every = np.concatenate([values for _, values in shown])
    axis = ChartAxis(label, 0, 1) if every.min() >= 0 and every.max() <= 1 else spanning(label, every.tolist())
    chart = Chart(
        axis,
        ChartAxis("", -0.6, len(shown) - 0.4),
        f"Distribution of {label}",
        width=760,
        height=70 + 26 * len(shown),
        rows=[name for name, _ in shown],
    )
    for place, (name, values) in enumerate(shown):
        at = len(shown) - 1 - place
        low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95]).tolist()
        words = f"{name}: median {middle:.3f}, quartiles {first:.3f} to {third:.3f}, 5–95 % {low:.3f} to {high:.3f}, "
        words += f"{len(values)} images"
        chart.whisker(low, high, at, COLOURS[0], words)
        chart.box(first, third, at, COLOURS[0], words)
        chart.dot(middle, at, COLOURS[1], words)
    return chart.drawn()


Points = Sequence[tuple[float, Estimate]]


def more_labels(metric: str, curves: Sequence[tuple[str, Points]]) -> Markup | None:
    """The metric against the number of training images, per line; None where none has a value."""
    return _lines("Few labels", "training images", "{:,.0f} images", metric, curves, logarithmic=True)


def more_shots(metric: str, curves: Sequence[tuple[str, Points]]) -> Markup | None:
    """The metric against the shots of each class, per line; None where none has a value."""
    return _lines("Few shots", "shots of each class", "{:g} shots", metric, curves, logarithmic=True)


def shortcut(metric: str, attribute: str, curves: Sequence[tuple[str, Points]]) -> Markup | None:
    """The metric against how strongly an attribute was tied to the label in train; None where none has a value."""
    label = f"phi of label and {attribute} in train"
    return _lines("Shortcut curve", label, "phi {:g}", metric, curves, logarithmic=False)


def strengths(
    title: str, label: str, what: str, curves: Sequence[tuple[str, Points]], *, logarithmic: bool
) -> Markup | None:
    """``what`` a perturbation changes against its strength, per encoder; None where none has a value."""
    return _lines(title, label, "{:g}", what, curves, logarithmic=logarithmic, size=(400, 260))


def _lines(
    title: str,
    label: str,
    words: str,
    metric: str,
    curves: Sequence[tuple[str, Points]],
    *,
    logarithmic: bool,
    size: tuple[int, int] = (560, 360),
) -> Markup | None:
    shown = [
        (name, [point for point in points if point[1].value is not None and (point[0] > 0 or not logarithmic)])
        for name, points in curves
    ]
    shown = [(name, points) for name, points in shown if points][:MOST_CURVES]
    if not shown:
        return None
    across = [float(at) for _, points in shown for at, _ in points]
    axis = spanning(label, across, logarithmic=logarithmic)
    chart = Chart(
        axis, _spanned(metric, [one for _, points in shown for _, one in points]), title, width=size[0], height=size[1]
    )
    for (name, points), colour, dash in zip(shown, COLOURS, DASHES, strict=False):
        ordered = sorted(points, key=lambda point: point[0])
        chart.line([(at, float(one.value or 0.0)) for at, one in ordered], colour, name, dash=dash)
        for at, estimate in ordered:
            hover = f"{name}, {words.format(at)}: {describe(estimate)}"
            if estimate.low is not None and estimate.high is not None:
                chart.whisker(estimate.low, estimate.high, at, colour, hover, upright=True)
            chart.dot(at, float(estimate.value or 0.0), colour, hover)
    return chart.drawn()


def patients_of(run: Run) -> NDArray[np.intp]:
    """Code of the patient of each test image, in the order of ``scores_of``."""
    names = run.test_predictions()["patient"].to_numpy(str)
    return np.unique(names, return_inverse=True)[1].astype(np.intp)


def scores_of(run: Run) -> tuple[Values, Values, NDArray[np.intp] | None]:
    """Labels, scores and folds of the test images of a binary run."""
    table = run.test_predictions()
    score = table[f"score_{run.record.data.class_names[0]}"].to_numpy(np.float64)
    folds = table["fold"].to_numpy(np.intp) if "fold" in table else None
    return table["target"].to_numpy(np.float64), score, folds
