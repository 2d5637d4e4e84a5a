"""Where an encoder stands against its baselines, and what perturbations take from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.analysis.choose import choose
from evalfm.analysis.compare import compare
from evalfm.analysis.good_for import HEADER, standings, worn_by
from evalfm.analysis.robustness import NeighbourIndex, PerturbationEffect, Robustness, RunRobustness
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate

from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4
MADE = {"good": 2.5, "poor": 0.0, "pixels": 1.2, "constant": 0.0}


def test_each_encoder_stands_against_the_baseline_that_it_beats_least_surely(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path,
            binary_table(signal(TARGET, strength, seed), TARGET),
            encoder=name,
            baseline=name in ("pixels", "constant"),
        )
        for seed, (name, strength) in enumerate(MADE.items())
    ]
    (comparison,) = compare(runs)
    good, poor = standings([comparison])
    assert (good.encoder, good.baseline, good.beats, good.verdict) == ("good", "pixels", True, "beats all baselines")
    assert (poor.encoder, poor.baseline, poor.beats, poor.verdict) == ("poor", "pixels", False, "worse than pixels")
    pixels = next(run for run in runs if run.encoder == "pixels")
    for each in (good, poor):
        assert each.gain is not None
        assert each.estimate.value is not None
        assert each.gain.value == pytest.approx(each.estimate.value - pixels.metrics["auroc"].value)
        assert each.baseline_estimate is not None
        assert each.baseline_estimate.value == pytest.approx(pixels.metrics["auroc"].value)
        assert len(each.cells) == len(HEADER)
        assert f"{each.gain.value:+.3f}" in each.cells[4]
    alone = standings([choose(runs[:1], "ptx-cls").comparison])
    assert [(each.verdict, each.cells[3:]) for each in alone] == [("not compared", ["–", "–", "not compared"])]


def test_of_two_baselines_of_one_name_the_nearest_one_is_shown(tmp_path: Path) -> None:
    made = {("good", "linear"): 2.5, ("constant", "mean-mask"): 1.2, ("constant", "all-empty"): 0.0}
    runs = [
        make_run(
            tmp_path,
            binary_table(signal(TARGET, strength, seed), TARGET),
            encoder=encoder,
            head=head,
            baseline=encoder == "constant",
        )
        for seed, ((encoder, head), strength) in enumerate(made.items())
    ]
    (good,) = standings(compare(runs))
    assert (good.baseline, good.verdict) == ("constant · mean-mask", "beats all baselines")
    assert good.baseline_estimate is not None
    assert good.baseline_estimate.value == pytest.approx(runs[1].metrics["auroc"].value)
    assert good.gain is not None
    assert good.estimate.value is not None
    assert good.gain.value == pytest.approx(good.estimate.value - good.baseline_estimate.value)


def test_errors_gain_where_they_fall(tmp_path: Path) -> None:
    table = binary_table(signal(TARGET, 2.0, 0), TARGET)
    runs = [
        make_run(tmp_path, table.assign(score_ptx=score), encoder=name, baseline=name == "constant")
        for name, score in (("good", np.where(TARGET, 0.9, 0.1)), ("constant", np.full(300, 0.4)))
    ]
    (comparison,) = compare(runs, metric="brier")
    (good,) = standings([comparison])
    assert good.lower_is_better
    assert good.gain is not None
    assert good.gain.value > 0
    assert good.beats


def effect(name: str, strength: float, change: tuple[float, float, float] | None) -> PerturbationEffect:
    known = Estimate(0.5, 0.4, 0.6)
    metric = None if change is None else Difference(*(change[0], 0.1, *change[1:]), 0.01, None, 50, "made")
    return PerturbationEffect(name, strength, f"{name} {strength:g}", known, known, known, known, known, metric)


def worn(metric: str, effects: list[PerturbationEffect], index: NeighbourIndex | None = None) -> list[str]:
    run = RunRobustness(
        *("key", "mine", "linear", "frozen", "ptx-cls", "toy", metric, Estimate(0.8, 0.7, 0.9), 50, 50, "patients"),
        baseline=False,
        effects=tuple(effects),
        index=index,
    )
    return worn_by(Robustness((run,)))


def test_the_greatest_loss_is_named_and_no_gain() -> None:
    effects = [
        effect("blur", 1, (-0.05, -0.08, -0.02)),
        effect("blur", 4, (-0.20, -0.30, -0.10)),
        effect("noise", 1, (-0.40, -0.90, 0.10)),
        effect("inversion", 1, (0.30, 0.20, 0.40)),
        effect("gamma", 2, (-0.03, -0.04, -0.02)),
        effect("jpeg", 5, None),
    ]
    (said,) = worn("auroc", effects)
    assert said.startswith("mine · linear · frozen on ptx-cls: auroc changes by -0.200 [-0.300, -0.100] under blur 4")
    assert "2 kinds of perturbation" in said
    assert said.endswith("(blur, gamma).")
    (said,) = worn("brier", effects)
    assert "changes by +0.300 [+0.200, +0.400] under inversion 1" in said
    assert worn("auroc", [effects[2], effects[3], effects[5]]) == []


def test_neighbours_by_site_are_told_only_below_chance() -> None:
    def index(high: float) -> NeighbourIndex:
        return NeighbourIndex("scanner", 5, Estimate(high - 0.1, high - 0.2, high), 0.5, 100)

    (said,) = worn("auroc", [], index(0.45))
    assert "neighbours go by scanner more than by class" in said
    assert worn("auroc", [], index(0.55)) == []
