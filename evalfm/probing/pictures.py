"""The pictures of a run, by the kind of its task, under figures/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import attributes
from evalfm.analysis.figures import Overlay, draw_overlays
from evalfm.analysis.run_figures import caption_of, draw_curves
from evalfm.data.masks import decode
from evalfm.errors import EvalfmError
from evalfm.record import Record
from evalfm.tasks.cohort import Cohort

Rows = NDArray[np.intp]

OVERLAYS = "overlays"
"""The picture of a kind of task that needs images; the others are drawn from predictions."""
SHOWN = 3
"""How many of the best, median and worst images an overlay sheet shows."""


def draw_pictures(folder: Path, record: Record, table: pd.DataFrame, cohort: Cohort, rows: Rows) -> None:
    """Draw learning curves and what the kind of task calls for; images only where their pixels may be shown.

    ``cohort`` is the one that was tested; ``rows`` [N] gives its manifest's row of each line of ``table``.
    """
    figures = folder / "figures"
    figures.mkdir()
    tested = (table["split"] == "test").to_numpy()
    test = table[tested].reset_index(drop=True)
    draw_curves(figures, record, test)
    if cohort.kind.picture == OVERLAYS:
        _overlays(figures, record, test, cohort, rows[tested])


def _overlays(figures: Path, record: Record, test: pd.DataFrame, cohort: Cohort, rows: Rows) -> None:
    if not cohort.manifest.info.redistributable_images:
        return
    for index, name in enumerate(cohort.class_names):
        shown = test[test[f"area_true_{name}"] > 0].sort_values(f"dice_{name}", kind="stable", ascending=False)
        if shown.empty:
            continue
        middle = max(0, (len(shown) - SHOWN) // 2)
        picks = [("best", shown[:SHOWN]), ("median", shown[middle : middle + SHOWN]), ("worst", shown[-SHOWN:])]
        picks += worst_by_stratum(shown, record.task.subgroups)
        overlays = []
        for label, group in picks:
            for line, content in group.iterrows():
                row = int(rows[int(str(line))])
                size = (int(content["height"]), int(content["width"]))
                overlays.append(
                    Overlay(
                        image=cohort.manifest.image(row).pixels.mean(axis=0),
                        truth=cohort.masks(row)[index],
                        prediction=decode("relative", content[f"prediction_rle_{name}"], size),
                        label=f"{label}, Dice {content[f'dice_{name}']:.2f}",
                    )
                )
        draw_overlays(figures / f"overlays_{name}.png", overlays, caption_of(record))


def worst_by_stratum(shown: pd.DataFrame, names: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    """The last image of ``shown`` (sorted, best first) at each level of the attributes ``names``, with its title.

    An attribute that divides no images (absent, of one level, a number without bins) is passed over.
    """
    picks = []
    for name in names:
        try:
            (attribute,) = attributes(shown, [name])
        except EvalfmError:
            continue
        for number, level in enumerate(attribute.levels):
            picks.append((f"worst, {name} = {level}", shown[attribute.codes == number][-1:]))
    return picks
