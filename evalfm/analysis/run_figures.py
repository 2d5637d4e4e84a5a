"""What is drawn of a run from its predictions: ROC, calibration and net benefit, or agreement; learning curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.analysis.figures import (
    Caption,
    draw_agreement,
    draw_calibration,
    draw_learning,
    draw_net_benefit,
    draw_roc,
)
from evalfm.record import Record
from evalfm.tasks.kinds import kind_of

Place = Callable[[str], Path]
"""Where a picture of this name goes."""


def draw_curves(folder: Path, record: Record, test: pd.DataFrame, *, suffix: str = ".png", prefix: str = "") -> None:
    """Draw learning curves and what the kind of task calls for into ``folder``.

    Args:
        folder: that is there.
        record: of the run.
        test: its predictions on test.
        suffix: of every file; matplotlib tells the format by it, such as ``.pdf`` or ``.svg``.
        prefix: of every name.
    """

    def place(name: str) -> Path:
        return folder / f"{prefix}{name}{suffix}"

    curves = [each.curve for each in record.chosen.each if each.curve]
    if curves:
        draw_learning(place("learning_curve"), curves, caption_of(record))
    draw = CURVES.get(kind_of(record.task.kind).picture)
    if draw is not None:
        draw(place, record, test)


def cautions(record: Record) -> tuple[str, ...]:
    """What must stand on every picture of a run."""
    marks = []
    if record.provenance.synthetic:
        marks.append("phantom data" if record.data.name.startswith("phantom") else "synthetic data")
    if record.provenance.random_weights:
        marks.append("random weights")
    return tuple(marks)


def caption_of(record: Record) -> Caption:
    """Encoder, task and head, with what was trained of the encoder and the cautions."""
    title = f"{record.encoder.name} · {record.task.name} · {record.head.name}"
    if record.config.adaptation != "frozen":
        title += f" · {record.config.adaptation}"
    return Caption(title, cautions(record))


def _roc(place: Place, record: Record, test: pd.DataFrame) -> None:
    folds = test["fold"].to_numpy(np.intp) if "fold" in test else None
    score = test[f"score_{record.data.class_names[0]}"].to_numpy(np.float64)
    target = test["target"].to_numpy(np.float64)
    patient, caption = test["patient"].to_numpy(object), caption_of(record)
    draw_roc(place("roc"), target, score, patient, folds, record.metrics["auroc"], caption)
    draw_calibration(place("calibration"), target, score, patient, caption)
    draw_net_benefit(place("net_benefit"), target, score, patient, caption)


def _agreement(place: Place, record: Record, test: pd.DataFrame) -> None:
    target, prediction = (test[name].to_numpy(np.float64) for name in ("target", "prediction"))
    draw_agreement(place("agreement"), target, prediction, record.metrics, caption_of(record))


CURVES: dict[str, Callable[[Place, Record, pd.DataFrame], None]] = {"roc": _roc, "agreement": _agreement}
"""By the name that a kind of task gives its picture."""
