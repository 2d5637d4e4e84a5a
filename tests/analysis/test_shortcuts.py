"""Runs that look for a shortcut: kept out of other tables, and read beside random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.analysis.compare import compare
from evalfm.analysis.shortcuts import decodability, shortcut_curves
from evalfm.analysis.table import plain_runs
from evalfm.run import Run
from tests.analysis.made import binary_table, make_run, signal

from ..statistics.paired import compare_auroc

TARGET = np.tile([0, 1], 100)
TUBE = {"name": "chest_tube", "target": ["chest_tube"]}
AMONG = {"where": "pneumothorax == 0"}


def made(out: Path, strength: float, number: int, associate: str | None = None, **changes: object) -> Run:
    table = binary_table(signal(TARGET, strength, number), TARGET)
    return make_run(out / str(number), table, settings={"associate": associate}, **changes)


def test_tied_runs_stay_out_of_a_comparison(tmp_path: Path) -> None:
    plain = [made(tmp_path, 1.0, 1), made(tmp_path, 0.5, 2, encoder="two")]
    tied = [made(tmp_path, 0.2, 3, "chest_tube=0.5"), made(tmp_path, 0.2, 4, "chest_tube=0")]
    assert plain_runs([*plain, *tied]) == plain
    (found,) = compare([*plain, *tied])
    assert [each.encoder for each in found.entries] == ["one", "two"]
    assert [each.seeds for each in found.entries] == [1, 1]
    assert plain_runs(tied) == [tied[1]], "where there are no others, the weakest tie"


def test_an_attribute_is_told_beside_random_weights_of_the_same_encoder(tmp_path: Path) -> None:
    asked = {"task_card": TUBE, "task": "chest_tube"}
    scores = [binary_table(signal(TARGET, strength, seed), TARGET) for strength, seed in ((1.5, 1), (0.4, 2), (0.9, 3))]
    drawn = {"random_weights": True, "weights_digest": "drawn"}
    runs = [
        make_run(tmp_path, scores[0], encoder="one", settings=AMONG, **asked),
        make_run(tmp_path, scores[1], encoder="one", baseline=True, made=drawn, settings=AMONG, **asked),
        make_run(tmp_path, scores[2], encoder="two", baseline=True, made=drawn, settings=AMONG, **asked),
    ]
    (found,) = decodability([*runs, made(tmp_path, 1.0, 9)])
    assert (found.finding, found.attribute, found.encoder) == ("pneumothorax", "chest_tube", "one")
    assert found.baseline == runs[1].metrics["auroc"]
    expected = compare_auroc(TARGET, scores[0]["score_ptx"], scores[1]["score_ptx"], scores[0]["patient"])
    assert found.difference is not None
    assert found.difference.value == pytest.approx(expected.value)
    assert found.difference.p == pytest.approx(expected.p)
    trained = make_run(tmp_path, scores[2], baseline=True, made={"weights_digest": "a"}, settings=AMONG, **asked)
    (alone,) = decodability([runs[0], trained])
    assert alone.difference is None
    assert alone.reason is not None


def test_one_strength_has_no_slope(tmp_path: Path) -> None:
    (curve,) = shortcut_curves([made(tmp_path, 1.0, 1, "chest_tube=0.5")])
    assert curve.slope is None
    assert curve.reason is not None


def test_the_slope_of_seeds_is_that_of_their_mean(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, 1.0 - at, number, f"chest_tube={at}", seed=number % 2)
        for number, at in enumerate((0.0, 0.0, 0.5, 0.5, 0.95, 0.95))
    ]
    (curve,) = shortcut_curves(runs)
    means = [point.estimate.value for point in curve.points]
    assert curve.slope is not None
    assert curve.slope.value == pytest.approx(np.polyfit([0, 0.5, 0.95], means, 1)[0])
    for point, pair in zip(curve.points, zip(runs[::2], runs[1::2], strict=True), strict=True):
        each = [run.metrics["auroc"] for run in pair]
        assert point.estimate.value == pytest.approx(np.mean([one.value for one in each]))
        # Its interval is of the mean, not of either seed.
        assert point.estimate.low < point.estimate.value < point.estimate.high
        assert point.estimate.low not in [one.low for one in each]
