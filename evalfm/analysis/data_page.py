"""A data set on one page: Table 1, what was left out, possible shortcuts, sizes, images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from evalfm.analysis.figures import BLUE, GREEN, GREY, ORANGE
from evalfm.analysis.pages import Section, page, picture_uri
from evalfm.analysis.report.tables import Table, Value, Worded, table
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.report import Report
from evalfm.data.table_one import LabelAssociation, associations, table_one
from evalfm.errors import EvalfmError

MOST_PAIRS = 30
MOST_SIZES = 8
MOST_IMAGES = 8
COLOURS = (GREEN, ORANGE, BLUE, GREY)


def data_page(manifest: Manifest, report: Report, *, with_images: bool = False) -> str:
    """The page as HTML; images only where the set's licence lets them be shown, or ``with_images`` says so.

    Nothing but counts, declared attributes and public ids enters it.
    """
    info = manifest.info
    allowed = info.redistributable_images or info.synthetic or with_images
    sheets = _sheets(manifest, report) if allowed else []
    why = "None could be read." if allowed else "The set's pixels may not be shown to others; --with-images shows them."
    remarks = [remark for remark in report.remarks if remark not in info.notes]
    counted = Section(words=f"{report.rows} images are in the table.")
    nothing = "" if info.notes else "Nothing was left out or changed."
    sections = [
        _about(info, report),
        Section("Table 1", tables=[("", _first_table(manifest))]),
        Section("From the source to this table", words=nothing, points=info.notes, sections=[counted]),
        _associations(manifest),
        _form(report),
        Section("Sizes and depths", tables=[("", _sizes(report))]),
        *([Section("Worth knowing", points=remarks)] if remarks else []),
        Section("Images", words="" if sheets else why, pictures=sheets),
    ]
    return page(f"{info.name}: what is in it", sections)


def _about(info: DatasetInfo, report: Report) -> Section:
    said = [info.title or info.name, f"licence: {info.licence}", info.citation]
    faults = len(report.faults)
    remedy = Markup(" to fix before use; <code>evalfm data check</code> names each with its row and remedy.")
    found = Section(words=f"{faults} fault{'s' if faults > 1 else ''}" + remedy, look="bad")
    if not faults:
        found = Section(words=f"No fault was found in {report.rows} rows, their files, masks and pixels.")
    synthetic = ["Synthetic images: nothing here is about patients."] if info.synthetic else []
    return Section(counts=" · ".join(filter(None, said)), cautions=synthetic, sections=[found])


def _first_table(manifest: Manifest) -> Table:
    info, (columns, rows) = manifest.info, table_one(manifest)
    labels: dict[str, list[str]] = {}
    for name, source in info.label_source.items():
        labels.setdefault(source, []).append(name)
    said = [
        "Shares are of the images whose value is known.",
        *(f"Labels ({source}): {', '.join(names)}." for source, names in labels.items()),
        f"Split: {info.split.rule}{f' ({info.split.note})' if info.split.note else ''}." if info.split else "",
        info.blank and f"Empty label cells count as {info.blank}.",
        info.uncertain and f"Uncertain labels (−1) count as {info.uncertain}.",
    ]
    cells = ([row.name, *map(_counted, row.cells)] for row in rows)
    return table("table-1", ["", *columns], cells, remarks=[" ".join(filter(None, said))])


def _counted(cell: str) -> Value:
    """A cell of Table 1, sorted by the number at its beginning."""
    number = re.match(r"-?\d[\d.]*(?:e[-+]\d+)?", cell)
    return Worded(cell, float(number[0]), whole=True) if number else cell


def _associations(manifest: Manifest) -> Section:
    title, pairs = "Which attributes go with which labels", associations(manifest)
    if not pairs:
        return Section(title, words="There is no attribute with levels to compare, or no label of 0 and 1.")
    caption = (
        "Odds ratio of the label at this level against all other known levels, 95 % interval clustered by patient; p "
        f"corrected for all {sum(pair.p is not None for pair in pairs)} pairs (Holm). An attribute far from 1 is a "
        "shortcut that a model may take."
    )
    hidden = len(pairs) - MOST_PAIRS
    where = Markup("{} more pairs, weaker than these, are in the JSON of <code>evalfm data check --json</code>.")
    remarks = [where.format(hidden)] if hidden > 0 else []
    header = ["label", "attribute", "at this level", "elsewhere", "odds ratio", "p"]
    shown = table("associations", header, map(_told, pairs[:MOST_PAIRS]), caption, remarks)
    return Section(title, tables=[("", shown)])


def _form(report: Report) -> Section:
    """What the form of the pictures tells of the labels."""
    title, found = "What the form of the pictures tells of the labels", report.form
    if not found.associations:
        return Section(title, words="There is no label of 0 and 1 with enough patients on both sides.")
    caption = (
        "Size, depth, borders, brightness and the like, each alone as a score of the label; p by Mann–Whitney on one "
        f"image a patient, corrected for all {len(found.associations)} pairs (Holm). None of these is disease."
    )
    told = ", ".join(f"{label} {auroc:.2f}" for label, auroc in (found.thumbnails or {}).items())
    remarks = [f"AUROC of a logistic regression on pictures of 16 × 16 grey cells, five folds of patients: {told}."]
    rows: list[list[Value]] = [
        [each.label, each.property, Worded(f"{each.auroc:.3f}", each.auroc, whole=True), Worded.p(each.p)]
        for each in found.associations[:MOST_PAIRS]
    ]
    return Section(title, tables=[("", table("form", ["label", "property", "AUROC", "p"], rows, caption, remarks))])


def _told(pair: LabelAssociation) -> list[Value]:
    odds = pair.odds
    level = pair.level if pair.level.startswith(">") else f"= {pair.level}"
    ratio: Value = odds.reason
    if odds.value is not None:
        added = " (½ added)" if odds.note else ""
        ratio = Worded(f"{odds.value:.2f} [{odds.low:.2f}, {odds.high:.2f}]{added}", odds.value, whole=True)
    shares = [Worded(f"{100 * share:.1f} %", share) for share in (pair.share_with, pair.share_without)]
    return [pair.label, f"{pair.attribute} {level}", *shares, ratio, Worded.p(pair.p)]


def _sizes(report: Report) -> Table:
    shown = list(report.sizes.items())
    rows = [(f"{height} × {width}", bits, count) for (height, width, bits), count in shown[:MOST_SIZES]]
    more = [f"and {len(shown) - MOST_SIZES} other sizes."] if len(shown) > MOST_SIZES else []
    return table("sizes", ["height × width", "bits", "images"], rows, remarks=more)


def _sheets(manifest: Manifest, report: Report) -> list[tuple[str, str]]:
    """Images evenly spread over the table, masked ones first; and those that look inverted."""
    marked = np.zeros(len(manifest), dtype=bool)
    for finding in manifest.findings:
        marked |= (manifest.table[f"{finding}_mask"].notna() & (manifest.table[f"{finding}_mask"] != "-1")).to_numpy()
    rows = np.flatnonzero(marked) if marked.any() else np.arange(len(manifest))
    spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST_IMAGES, len(rows))).round().astype(int))].tolist()
    sheets = [_sheet(manifest, spread, "Images of this set, as an encoder is given them")]
    if report.negatives:
        sheets.append(_sheet(manifest, report.negatives[:MOST_IMAGES], "Images that look inverted"))
    return [sheet for sheet in sheets if sheet is not None]


def _sheet(manifest: Manifest, rows: Sequence[int], title: str) -> tuple[str, str] | None:
    shown = []
    for row in rows:
        try:
            shown.append((row, manifest.image(row).pixels))
        except (EvalfmError, OSError):
            continue
    if not shown:
        return None
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.7 * lines + 0.6), layout="constrained")
    for place, (row, pixels) in enumerate(shown, start=1):
        axes = figure.add_subplot(lines, columns, place)
        picture = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)
        low, high = (
            (0.0, 1.0) if pixels.min() >= 0 and pixels.max() <= 1 else (float(pixels.min()), float(pixels.max()))
        )
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
        for finding, colour in zip(manifest.findings, COLOURS * len(manifest.findings), strict=False):
            try:
                mask = manifest.mask(row, finding)
            except EvalfmError:
                continue
            if mask is not None and mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1)
        axes.set_title(manifest.public_id(row), fontsize=7)
        axes.set_axis_off()
    masks = ", ".join(f"{name} {_colour(place)}" for place, name in enumerate(manifest.findings))
    if masks:
        figure.suptitle(f"outlines: {masks}", fontsize=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        figure.savefig(path, dpi=110)
        return title, picture_uri(path)


def _colour(place: int) -> str:
    return ("green", "orange", "blue", "grey")[place % len(COLOURS)]
