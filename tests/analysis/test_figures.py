"""Curves on pictures are those of scikit-learn, and their bands those of resampled patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from evalfm.analysis import figures
from evalfm.analysis.figures import (
    Caption,
    Panel,
    PanelRow,
    draw_calibration,
    draw_forest,
    draw_net_benefit,
    draw_roc,
    mean_roc,
)
from evalfm.statistics.calibration_curve import calibration_curve
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.net_benefit import net_benefit

GRID = np.linspace(0, 1, 201)


def drawn(n: int = 300) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    target = (draw.random(n) < 0.3).astype(float)
    # Ties across the classes, as rounded scores have.
    score = np.round(draw.random(n) + 0.4 * target, 1)
    patient = np.array([f"p{number // 3}" for number in range(n)], dtype=object)
    return {"target": target, "score": score, "patient": patient, "folds": np.arange(n) // 3 % 4}


def by_scikit_learn(target: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    false, true, _ = roc_curve(target, score, sample_weight=weight, drop_intermediate=False)
    return np.interp(GRID, false, true)


def test_a_curve_is_scikit_learns_under_any_weights() -> None:
    made = drawn()
    weight = np.random.default_rng(1).integers(0, 4, 300).astype(float)
    args = (made["target"], made["score"], weight)
    assert mean_roc(*args, None, GRID) == pytest.approx(by_scikit_learn(*args))
    each = [by_scikit_learn(*(column[made["folds"] == fold] for column in args)) for fold in range(4)]
    assert mean_roc(*args, made["folds"], GRID) == pytest.approx(np.mean(each, axis=0))
    assert mean_roc(made["target"], made["score"], weight * made["target"], None, GRID) is None


@pytest.mark.parametrize("folds", [False, True])
def test_the_band_is_of_resampled_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: bool) -> None:
    made, seen = drawn(), []
    monkeypatch.setattr(figures, "BAND_RESAMPLES", 40)
    original = Axes.fill_between
    monkeypatch.setattr(Axes, "fill_between", lambda *args, **named: seen.append(args[1:4]) or original(*args, **named))
    fold = made["folds"] if folds else None
    caption = Caption("a curve", ())
    draw_roc(tmp_path / "roc.png", made["target"], made["score"], made["patient"], fold, Estimate(0.7), caption)
    codes = np.unique(made["patient"], return_inverse=True)[1]
    generator, curves = np.random.default_rng(0), []
    for _ in range(40):
        weight = np.bincount(generator.integers(0, 100, 100), minlength=100)[codes].astype(float)
        curves.append(mean_roc(made["target"], made["score"], weight, fold, GRID))
    ((grid, low, high),) = seen
    np.testing.assert_array_equal(grid, GRID)
    np.testing.assert_array_equal([low, high], np.percentile(curves, [2.5, 97.5], axis=0))
    assert (tmp_path / "roc.png").is_file()


def probabilities(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    score = draw.random(n) ** 2
    return (draw.random(n) < score).astype(float), score, np.array([f"p{each // 3}" for each in range(n)], dtype=object)


def test_the_calibration_picture_shows_the_curve_and_every_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, score, patient = probabilities()
    lines: list[Any] = []
    bands: list[Any] = []
    bars: list[Any] = []
    plot, fill, hist = Axes.plot, Axes.fill_between, Axes.hist
    monkeypatch.setattr(Axes, "plot", lambda *args, **named: lines.append(args[1:3]) or plot(*args, **named))
    monkeypatch.setattr(Axes, "fill_between", lambda *args, **named: bands.append(args[1:4]) or fill(*args, **named))
    monkeypatch.setattr(Axes, "hist", lambda *args, **named: bars.append(hist(*args, **named)) or bars[-1])
    draw_calibration(tmp_path / "calibration.png", target, score, patient, Caption("a curve", ()))
    curve = calibration_curve(target, score, np.unique(patient.astype(str), return_inverse=True)[1])
    assert curve is not None
    assert lines[0] == (pytest.approx(curve.probability), pytest.approx(curve.share))
    assert bands[0][1:] == (pytest.approx(curve.low), pytest.approx(curve.high))
    # Stacked: what stands highest is the count of all.
    assert bars[0][0][-1].sum() == 300
    assert (tmp_path / "calibration.png").exists()


def test_the_net_benefit_picture_shows_the_model_and_acting_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, score, patient = probabilities()
    lines: list[Any] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **named: lines.append(args[1:3]) or plot(*args, **named))
    draw_net_benefit(tmp_path / "net_benefit.png", target, score, patient, Caption("a curve", ()))
    found = net_benefit(target, score, np.unique(patient.astype(str), return_inverse=True)[1])
    shown = found.thresholds <= 3 * target.mean()
    assert lines[0] == (pytest.approx(found.thresholds[shown]), pytest.approx(found.model[shown]))
    assert lines[1][1] == pytest.approx(found.treat_all[shown])


def test_a_forest_has_the_real_encoder_filled_and_baselines_hollow_on_one_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    real, hollow, absent = Estimate(0.8, 0.7, 0.9), Estimate(0.4, 0.3, 0.5), Estimate.absent("none")
    one = Panel("one", [("net", real, False), ("pixels", hollow, True)], 0.5)
    other = Panel("other", [("net", Estimate(0.6, 0.55, 0.65), False), ("pixels", absent, True)], 0.5)
    draw_forest(tmp_path / "forest.png", [PanelRow([one, other], "row", "note")], Caption("title", ("phantom data",)))
    (figure,) = kept
    first, second = figure.subfigs[0].axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["pixels", "net"]
    assert [text.get_text() for text in second.get_yticklabels()] == ["", ""]
    assert first.get_xlim() == second.get_xlim()
    points = [line for line in first.lines if line.get_marker() == "o"]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in points] == [(0.4, 0.0), (0.8, 1.0)]
    assert [line.get_markerfacecolor() == "white" for line in points] == [True, False]
    spans = [
        list(line.get_xdata()) for line in first.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2
    ]
    assert [0.3, 0.5] in spans
    assert [0.7, 0.9] in spans
    assert len([line for line in second.lines if line.get_marker() == "o"]) == 1
    assert {text.get_text() for text in first.texts} == {"0.400", "0.800"}
    assert figure.get_suptitle() == "title\nphantom data"


def test_what_is_no_probability_or_of_one_class_is_not_drawn(tmp_path: Path) -> None:
    target, score, patient = probabilities()
    for draw in (draw_calibration, draw_net_benefit):
        draw(tmp_path / "none.png", target, score * 3, patient, Caption("none", ()))
        draw(tmp_path / "none.png", np.ones(300), score, patient, Caption("none", ()))
    assert not (tmp_path / "none.png").exists()
