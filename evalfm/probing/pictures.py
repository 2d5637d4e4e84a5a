"""The pictures of a run, by the kind of its task, under figures/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import attributes
from evalfm.analysis.figures import (
    Caption,
    Overlay,
    draw_agreement,
    draw_calibration,
    draw_learning,
    draw_net_benefit,
    draw_overlays,
    draw_roc,
)
from evalfm.data.masks import decode
from evalfm.errors import EvalfmError
from evalfm.record import Record
from evalfm.run import Run
from evalfm.tasks.cohort import Cohort

Rows = NDArray[np.intp]

SHOWN = 3
"""How many of the best, median and worst images an overlay sheet shows."""


def draw_pictures(folder: Path, record: Record, table: pd.DataFrame, cohort: Cohort, rows: Rows) -> None:
    """Draw learning curves and what the kind of task calls for; images only where their pixels may be shown.

    ``cohort`` is the one that was tested; ``rows`` [N] gives its manifest's row of each line of ``table``.
    """
    figures = folder / "figures"
    figures.mkdir()
    curves = [each.curve for each in record.chosen.each if each.curve]
    if curves:
        draw_learning(figures / "learning_curve.png", curves, _caption(record))
    draw = PICTURES.get(cohort.kind.picture)
    if draw is not None:
        tested = (table["split"] == "test").to_numpy()
        draw(figures, record, table[tested].reset_index(drop=True), cohort, rows[tested])


def cautions(record: Record) -> tuple[str, ...]:
    """What must stand on every picture of a run."""
    marks = []
    if record.provenance.synthetic:
        marks.append("phantom data" if record.data.name.startswith("phantom") else "synthetic data")
    if record.provenance.random_weights:
        marks.append("random weights")
    return tuple(marks)


def _caption(record: Record) -> Caption:
    title = f"{record.encoder.name} · {record.task.name} · {record.head.name}"
    if record.config.adaptation != "frozen":
        title += f" · {record.config.adaptation}"
    return Caption(title, cautions(record))


def _roc(figures: Path, record: Record, test: pd.DataFrame, cohort: Cohort, rows: Rows) -> None:
    folds = test["fold"].to_numpy(np.intp) if "fold" in test else None
    score = test[f"score_{cohort.class_names[0]}"].to_numpy(np.float64)
    target = test["target"].to_numpy(np.float64)
    auroc = Run(figures.parent).metrics["auroc"]
    patient = test["patient"].to_numpy(object)
    draw_roc(figures / "roc.png", target, score, patient, folds, auroc, _caption(record))
    draw_calibration(figures / "calibration.png", target, score, patient, _caption(record))
    draw_net_benefit(figures / "net_benefit.png", target, score, patient, _caption(record))


def _agreement(figures: Path, record: Record, test: pd.DataFrame, cohort: Cohort, rows: Rows) -> None:
    target, prediction = (test[name].to_numpy(np.float64) for name in ("target", "prediction"))
    draw_agreement(figures / "agreement.png", target, prediction, Run(figures.parent).metrics, _caption(record))


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
        draw_overlays(figures / f"overlays_{name}.png", overlays, _caption(record))


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


PICTURES: dict[str, Callable[[Path, Record, pd.DataFrame, Cohort, Rows], None]] = {
    "roc": _roc,
    "agreement": _agreement,
    "overlays": _overlays,
}
