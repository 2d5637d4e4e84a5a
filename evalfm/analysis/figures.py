"""Pictures of results, drawn from plain arrays: ROC, masks on images, agreement, and a table as forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from evalfm.metrics.certainty import EXPECTATION
from evalfm.metrics.rows import probable
from evalfm.statistics.calibration_curve import calibration_curve
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.net_benefit import net_benefit

Values = NDArray[np.float64]
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Okabe and Ito's colours, distinct to every eye."""
BAND_RESAMPLES = 500


@dataclass(frozen=True)
class Caption:
    """What stands on a picture.

    Attributes:
        title: what is shown.
        cautions: short warnings, such as ``"phantom data"``, printed under the title.
    """

    title: str
    cautions: tuple[str, ...] = ()

    def on(self, axes: Axes) -> None:
        """Print the title and the cautions above ``axes``."""
        axes.set_title("\n".join([self.title, *(f"({caution})" for caution in self.cautions)]), fontsize=9)


@dataclass(frozen=True)
class Overlay:
    """An image with the outlines of truth and prediction.

    Attributes:
        image: float [H, W] in [0, 1].
        truth, prediction: bool [H, W].
        label: what to print above it, such as ``"best, Dice 0.91"``.
    """

    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    label: str


def draw_roc(
    path: Path,
    target: NDArray[np.float64],
    score: NDArray[np.float64],
    patient: NDArray[np.object_],
    folds: NDArray[np.intp] | None,
    auroc: Estimate,
    caption: Caption,
) -> None:
    """ROC curve (the mean over folds where there are any) with a 95 % band over resampled patients."""
    grid = np.linspace(0, 1, 201)
    figure = Figure(figsize=(4.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    bands, ranked = [], _ranked(target, score, folds)
    generator = np.random.default_rng(0)
    codes = np.unique(patient, return_inverse=True)[1]
    for _ in range(BAND_RESAMPLES):
        weight = np.bincount(generator.integers(0, codes.max() + 1, codes.max() + 1), minlength=codes.max() + 1)[codes]
        curve = _mean_roc(ranked, weight.astype(float), grid)
        if curve is not None:
            bands.append(curve)
    if bands:
        low, high = np.percentile(np.array(bands), [2.5, 97.5], axis=0)
        axes.fill_between(grid, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % pointwise band")
    curve = _mean_roc(ranked, np.ones(len(target)), grid)
    if curve is not None:
        axes.plot(
            grid, curve, color=BLUE, label="AUROC not given" if auroc.value is None else f"AUROC {describe(auroc)}"
        )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.legend(loc="lower right", fontsize=7)
    caption.on(axes)
    figure.savefig(path, dpi=150)


def draw_calibration(path: Path, target: Values, score: Values, patient: NDArray[np.object_], caption: Caption) -> None:
    """Share of positives against the probability, smooth with a 95 % band, over a histogram of the scores.

    Nothing is drawn where the scores are no probabilities, or no curve can be fitted.
    """
    codes = np.unique(patient.astype(str), return_inverse=True)[1]
    curve = calibration_curve(target, score, codes) if probable(score) else None
    if curve is None:
        return
    end = min(1.0, 1.1 * float(max(curve.probability.max(), curve.share.max())))
    figure = Figure(figsize=(4.2, 4.9), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axes.fill_between(
        curve.probability, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % pointwise band"
    )
    axes.plot(curve.probability, curve.share, color=BLUE, label="logistic spline")
    axes.plot([0, end], [0, end], color=GREY, linestyle=":", label="perfect")
    axes.set(ylabel="share with the finding", xlim=(0, end), ylim=(0, end))
    axes.legend(loc="upper left", fontsize=7)
    caption.on(axes)
    groups = [score[target == value] for value in (0, 1)]
    below.hist(groups, bins=40, range=(0, end), stacked=True, color=[GREY, ORANGE], label=["without", "with"])
    below.set(xlabel="probability", ylabel="images")
    below.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def draw_net_benefit(path: Path, target: Values, score: Values, patient: NDArray[np.object_], caption: Caption) -> None:
    """Net benefit at thresholds up to three times the prevalence, with a 95 % band, beside acting always and never.

    Nothing is drawn where the scores are no probabilities, or a class is missing.
    """
    codes = np.unique(patient.astype(str), return_inverse=True)[1]
    if not probable(score) or target.min() == target.max() or codes.max() == 0:
        return
    found = net_benefit(target, score, codes)
    inside = found.thresholds <= max(0.3, 3 * found.prevalence)
    at, top = found.thresholds[inside], 1.15 * float(found.high[inside].max())
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(
        at, found.low[inside], found.high[inside], color=BLUE, alpha=0.2, linewidth=0, label="95 % pointwise band"
    )
    axes.plot(at, found.model[inside], color=BLUE, label="call from the probability on")
    axes.plot(at, found.treat_all[inside], color=GREY, linestyle=":", label="call everybody")
    axes.axhline(0.0, color=GREY, linestyle="dashed", label="call nobody")
    axes.set(xlabel="threshold of the probability", ylabel="net benefit", xlim=(0, at[-1]), ylim=(-0.25 * top, top))
    axes.legend(loc="upper right", fontsize=7)
    caption.on(axes)
    figure.savefig(path, dpi=150)


def draw_overlays(path: Path, overlays: Sequence[Overlay], caption: Caption, columns: int = 3) -> None:
    """A sheet of images with the truth outlined (solid) and the prediction (dashed)."""
    rows = -(-len(overlays) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows + 0.7), layout="constrained")
    for index, overlay in enumerate(overlays):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
        for mask, colour, style in ((overlay.truth, GREEN, "solid"), (overlay.prediction, ORANGE, "dashed")):
            if mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.2)
        axes.set_title(overlay.label, fontsize=8)
        axes.set_axis_off()
    lines = [caption.title, *(f"({caution})" for caution in caption.cautions), "truth green, prediction orange dashed"]
    figure.suptitle("\n".join(lines), fontsize=9)
    figure.savefig(path, dpi=150)


def draw_agreement(
    path: Path,
    target: NDArray[np.float64],
    prediction: NDArray[np.float64],
    metrics: dict[str, Estimate],
    caption: Caption,
) -> None:
    """Predicted against true beside the Bland–Altman plot with its bias and limits of agreement."""
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    both = np.concatenate([target, prediction])
    span = (float(both.min()), float(both.max()))
    left.scatter(target, prediction, s=12, alpha=0.6, color=BLUE, linewidths=0)
    left.plot(span, span, color=GREY, linestyle=":", label="identity")
    left.set(xlabel="true", ylabel="predicted")
    left.legend(fontsize=7, title=f"MAE {describe(metrics['mae'])}", title_fontsize=7)
    caption.on(left)
    mean, difference = (target + prediction) / 2, prediction - target
    right.scatter(mean, difference, s=12, alpha=0.6, color=BLUE, linewidths=0)
    for name, label, style in (("bias", "bias", "solid"), ("limits_low", "limits of agreement", "dashed")):
        value = metrics[name].value
        if value is not None:
            right.axhline(value, color=ORANGE, linestyle=style, label=f"{label} {value:.3g}")
    upper = metrics["limits_high"].value
    if upper is not None:
        right.axhline(upper, color=ORANGE, linestyle="dashed", label=f"and {upper:.3g}")
    right.set(xlabel="mean of true and predicted", ylabel="predicted − true")
    right.legend(fontsize=7)
    right.set_title("Bland–Altman", fontsize=9)
    figure.savefig(path, dpi=150)


@dataclass(frozen=True)
class Panel:
    """Estimates below each other.

    Attributes:
        title: what was asked, and by which metric.
        lines: label, estimate with its interval, and whether it is hollow and grey, as a baseline is.
        chance: a dotted line; none where there is no such value.
    """

    title: str
    lines: Sequence[tuple[str, Estimate, bool]]
    chance: float | None = None


@dataclass(frozen=True)
class PanelRow:
    """Panels beside each other; those that have a chance share one scale, and equal labels stand once.

    Attributes:
        title, note: above and below all of them; may be empty.
    """

    panels: Sequence[Panel]
    title: str = ""
    note: str = ""

    @property
    def alike(self) -> bool:
        """Whether all panels have the same labels, so that these stand once."""
        return len({tuple(label for label, _, _ in panel.lines) for panel in self.panels}) == 1

    @property
    def width(self) -> float:
        """In inches: three for the intervals of a panel, and a letter of the labels is .07 wide."""
        letters = (len(part) for panel in self.panels for label, _, _ in panel.lines for part in label.split("\n"))
        return 3 * len(self.panels) + 0.07 * max(letters) * (1 if self.alike else len(self.panels))

    @property
    def height(self) -> float:
        """In inches."""
        return (
            0.34 * max(len(panel.lines) for panel in self.panels)
            + 0.75
            + 0.25 * bool(self.title)
            + 0.2 * bool(self.note)
        )


def draw_forest(path: Path, rows: Sequence[PanelRow], caption: Caption) -> None:
    """Estimates with their intervals in rows of panels; baselines hollow and grey."""
    heights = [row.height for row in rows]
    figure = Figure(figsize=(max(row.width for row in rows), sum(heights) + 0.5), layout="constrained")
    strips = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, strip in zip(rows, strips, strict=True):
        every = strip.subplots(1, len(row.panels), squeeze=False)[0]
        for number, (panel, axes) in enumerate(zip(row.panels, every, strict=True)):
            _forest(axes, panel, labelled=number == 0 or not row.alike)
        scaled = [axes for axes, panel in zip(every, row.panels, strict=True) if panel.chance is not None]
        ends = [axes.get_xlim() for axes in scaled]
        for axes in scaled:
            axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
        if row.title:
            strip.suptitle(row.title, fontsize=10.5, weight="bold")
        if row.note:
            strip.supxlabel(row.note, fontsize=8.5, color="#444444")
    figure.suptitle(f"{caption.title}\n{' · '.join(caption.cautions)}".strip(), fontsize=11)
    figure.savefig(path, dpi=150)


def _forest(axes: Axes, panel: Panel, *, labelled: bool) -> None:
    """Estimates from the top, each with its value in print; hollow and grey, or filled."""
    if panel.chance is not None:
        axes.axvline(panel.chance, color=GREY, linestyle=":", linewidth=1)
    for position, (_, estimate, hollow) in enumerate(reversed(panel.lines)):
        if estimate.value is None:
            continue
        colour = GREY if hollow else BLUE
        if estimate.low is not None and estimate.high is not None:
            axes.plot(
                [estimate.low, estimate.high], [position, position], color=colour, linewidth=1.2 if hollow else 2.4
            )
        face, size = ("white", 5.5) if hollow else (colour, 8)
        axes.plot(estimate.value, position, "o", color=colour, markerfacecolor=face, markersize=size, zorder=4)
        weight = "normal" if hollow else "bold"
        place: dict[str, Any] = {
            "xytext": (0, 7),
            "textcoords": "offset points",
            "ha": "center",
            "fontsize": 7.5,
            "weight": weight,
        }
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.annotate(
            f"{estimate.value:.3f}", (estimate.value, position), color="#444444" if hollow else colour, **place
        )
    labels = [label for label, _, _ in reversed(panel.lines)] if labelled else [""] * len(panel.lines)
    axes.set_yticks(range(len(panel.lines)), labels, fontsize=9)
    for text, (_, _, hollow) in zip(axes.get_yticklabels(), reversed(panel.lines), strict=True):
        text.set_fontweight("normal" if hollow else "bold")
    axes.set_ylim(-0.6, len(panel.lines) - 0.25)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.08)
    axes.set_title(panel.title, fontsize=9.5)


def p_words(p: float | None) -> str:
    """A p value as a reader wants it.

    >>> p_words(0.0004), p_words(0.0312)
    ('< .001', '0.031')
    """
    return "–" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"


def describe(estimate: Estimate, sd: float | None = None) -> str:
    """An estimate as a reader wants it: ``0.712 [0.650, 0.770]``, or the reason where it is absent.

    A mean over seeds has their ``sd`` behind it: ``0.712 ± 0.013 [0.650, 0.770]``.
    Three decimals; four where the estimate is below .1, so that a small error or area keeps its digits.
    """
    if estimate.value is None:
        return f"– ({estimate.reason})"
    digits = 3 if abs(estimate.value) >= 0.1 or estimate.value == 0 else 4
    value = f"{estimate.value:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
    if estimate.low is None or estimate.high is None:
        return value if estimate.method == EXPECTATION else f"{value} [no interval]"
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def mean_roc(
    target: NDArray[np.float64],
    score: NDArray[np.float64],
    weight: NDArray[np.float64],
    folds: NDArray[np.intp] | None,
    grid: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Sensitivity on ``grid`` of 1 − specificity, averaged over folds; None where a class has no weight."""
    return _mean_roc(_ranked(target, score, folds), weight, grid)


@dataclass(frozen=True)
class _Ranked:
    """The rows of one fold by falling score, which of them are positive and negative, and where each score ends."""

    rows: NDArray[np.intp]
    positive: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    ends: NDArray[np.intp]


def _ranked(
    target: NDArray[np.float64], score: NDArray[np.float64], folds: NDArray[np.intp] | None
) -> tuple[_Ranked, ...]:
    """Every fold ranked, or all rows as one: once for any number of weights."""
    ranked = []
    for fold in [None] if folds is None else np.unique(folds):
        inside = np.arange(len(target)) if fold is None else np.flatnonzero(folds == fold)
        rows = inside[np.argsort(-score[inside], kind="stable")]
        ends = np.flatnonzero(np.append(np.diff(score[rows]) != 0, True))
        ranked.append(_Ranked(rows, target[rows] == 1, target[rows] == 0, ends))
    return tuple(ranked)


def _mean_roc(
    ranked: Sequence[_Ranked], weight: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    curves = []
    for fold in ranked:
        each = weight[fold.rows]
        true = np.concatenate([[0], np.cumsum(each * fold.positive)[fold.ends]])
        false = np.concatenate([[0], np.cumsum(each * fold.negative)[fold.ends]])
        if true[-1] == 0 or false[-1] == 0:
            return None
        curves.append(np.interp(grid, false / false[-1], true / true[-1]))
    return np.asarray(np.mean(curves, axis=0), dtype=np.float64)


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
