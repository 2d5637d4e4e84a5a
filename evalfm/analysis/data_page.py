"""A data set on one page: Table 1, what was left out, possible shortcuts, sizes, images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evalfm.analysis.figures import BLUE, GREEN, GREY, ORANGE, p_words
from evalfm.analysis.pages import picture_uri, render
from evalfm.data.manifest import Manifest
from evalfm.data.report import Report
from evalfm.data.table_one import LabelAssociation, associations, table_one
from evalfm.errors import EvalfmError

MOST_PAIRS = 30
MOST_SIZES = 8
MOST_IMAGES = 8
COLOURS = (GREEN, ORANGE, BLUE, GREY)


@dataclass(frozen=True)
class Sheet:
    """A picture of several images, as text for a page."""

    title: str
    uri: str


def data_page(manifest: Manifest, report: Report, *, with_images: bool = False) -> str:
    """The page as HTML; images only where the set's licence lets them be shown, or ``with_images`` says so.

    Nothing but counts, declared attributes and public ids enters it.
    """
    info = manifest.info
    columns, rows = table_one(manifest)
    pairs = associations(manifest)
    shown = [(f"{h} × {w}", str(bits), count) for (h, w, bits), count in list(report.sizes.items())[:MOST_SIZES]]
    allowed = info.redistributable_images or info.synthetic or with_images
    sheets = _sheets(manifest, report) if allowed else []
    why = "None could be read." if allowed else "The set's pixels may not be shown to others; --with-images shows them."
    return render(
        "data.html",
        title=f"{info.name}: what is in it",
        info=info,
        report=report,
        columns=columns,
        rows=rows,
        sources=_by_source(info.label_source),
        associations=[_told(pair) for pair in pairs[:MOST_PAIRS]],
        compared=sum(pair.p is not None for pair in pairs),
        hidden=max(0, len(pairs) - MOST_PAIRS),
        sizes=shown,
        more_sizes=max(0, len(report.sizes) - MOST_SIZES),
        remarks=[remark for remark in report.remarks if remark not in info.notes],
        sheets=sheets,
        no_images=why,
    )


def _by_source(label_source: dict[str, str]) -> list[tuple[str, str]]:
    """Sources and the labels of each."""
    sources = dict.fromkeys(label_source.values())
    return [(each, ", ".join(name for name, source in label_source.items() if source == each)) for each in sources]


def _told(pair: LabelAssociation) -> dict[str, str]:
    odds = pair.odds
    ratio = odds.reason or "–" if odds.value is None else f"{odds.value:.2f} [{odds.low:.2f}, {odds.high:.2f}]"
    if odds.note:
        ratio += " (½ added)"
    p = p_words(pair.p)
    return {
        "label": pair.label,
        "attribute": pair.attribute,
        "level": pair.level if pair.level.startswith(">") else f"= {pair.level}",
        "share_with": f"{100 * pair.share_with:.1f} %",
        "share_without": f"{100 * pair.share_without:.1f} %",
        "odds": ratio,
        "p": p,
    }


def _sheets(manifest: Manifest, report: Report) -> list[Sheet]:
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


def _sheet(manifest: Manifest, rows: Sequence[int], title: str) -> Sheet | None:
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
    figure.suptitle(title + (f"\noutlines: {masks}" if masks else ""), fontsize=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        figure.savefig(path, dpi=110)
        return Sheet(title, picture_uri(path))


def _colour(place: int) -> str:
    return ("green", "orange", "blue", "grey")[place % len(COLOURS)]
