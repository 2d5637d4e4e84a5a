"""Shortcut curves and decodability as tables and drawings."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evalfm.analysis.report import charts
from evalfm.analysis.report.tables import Signed, Table, Value, p_words, table
from evalfm.analysis.shortcuts import Curve, Decoded


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
        slope = curve.slope
        told: Value = curve.reason if slope is None else Signed(slope.value, slope.low, slope.high)
        cells: list[Value] = [at.get(each) for each in strengths]
        images = curve.points[0].images
        first: list[Value] = [curve.task, curve.data, curve.attribute, curve.model, images]
        rows.append([*first, *cells, told, p_words(None if slope is None else slope.p)])
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
        found = each.difference
        told: Value = each.reason if found is None else Signed(found.value, found.low, found.high)
        first: list[Value] = [each.attribute, f"{each.finding} = 0", each.data, each.encoder, each.head]
        rows.append([*first, each.auroc, each.baseline, told, p_words(None if found is None else found.p)])
    caption = (
        "A linear probe for the attribute among images without the finding. That the features hold it says that a head "
        "could use it, not that one does."
    )
    return table(name, header, rows, caption)
