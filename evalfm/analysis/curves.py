"""Learning curves: what training and val said after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evalfm.analysis.figures import BLUE, ORANGE, Caption

SCORES = {"val_dice": "val Dice", "val_log_loss": "val log-loss", "val_mse": "val mean squared error"}
"""What a curve may be scored by, and how it is called."""


def draw_learning(path: Path, curves: Sequence[Sequence[Mapping[str, Any]]], caption: Caption) -> None:
    """Loss on train (left) and score on val (right) against epochs, one line per fold; the best epoch is marked.

    A line of a curve holds ``epoch``, ``train_loss`` (None before training) and one of ``SCORES``.
    """
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    name = next(key for key in curves[0][0] if key in SCORES)
    best_of = max if name == "val_dice" else min
    for curve in curves:
        trained = [line for line in curve if line["train_loss"] is not None]
        left.plot([line["epoch"] for line in trained], [line["train_loss"] for line in trained], ".-", color=ORANGE)
        scored = [line for line in curve if line[name] is not None]
        right.plot([line["epoch"] for line in scored], [line[name] for line in scored], ".-", color=BLUE)
        if scored:
            best = best_of(scored, key=lambda line: line[name])
            right.plot(best["epoch"], best[name], "o", color=BLUE, markersize=9, fillstyle="none")
    left.set(xlabel="epoch", ylabel="train loss")
    right.set(xlabel="epoch", ylabel=SCORES[name])
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    cautions = " ".join(f"({caution})" for caution in caption.cautions)
    figure.suptitle(f"{caption.title} {cautions}\nbest epoch on val circled".strip(), fontsize=9)
    figure.savefig(path, dpi=150)
