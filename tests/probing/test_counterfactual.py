from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import evalfm
from evalfm.cli.app import app
from evalfm.data.phantom import Dials, make_phantom, render
from evalfm.errors import EvalfmError
from evalfm.probing.counterfactual import SEED, counterfactual
from evalfm.probing.predict import predict
from evalfm.run import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run that was taught the tube itself, and one that was taught ECG leads."""
    folder = tmp_path_factory.mktemp("tubes")
    dials = Dials(tube_given_pneumothorax=0.5, tube_given_none=0.5)
    data = make_phantom(folder / "data", n=160, size=96, seed=1, dials=dials)
    made = {}
    for task in ("chest_tube", "ecg_leads"):
        (made[task],) = evalfm.probe("hog", task, data=data, heads=["linear"], baselines="none", out=folder / "runs")
    return made


def test_pairs_differ_in_the_tube_alone() -> None:
    with_tube, without = (render(SEED, 3, 96, tube=tube) for tube in (True, False))
    assert (with_tube.pixels != without.pixels).any()
    radiographs = [render(SEED, 3, 96, Dials(tube_given_pneumothorax=each, tube_given_none=each)) for each in (1, 0)]
    assert np.array_equal(radiographs[0].pixels, with_tube.pixels)
    assert np.array_equal(radiographs[1].pixels, without.pixels)


def test_a_model_of_the_tube_changes_more_than_one_of_the_leads(runs: dict[str, Run]) -> None:
    tube, leads = (counterfactual(runs[task], images=60, size=96) for task in ("chest_tube", "ecg_leads"))
    change = next(each for each in tube.changes if each.answer.startswith("score") and each.among.startswith("without"))
    other = next(each for each in leads.changes if each.answer.startswith("score") and each.among.startswith("without"))
    assert change.difference is not None
    assert change.difference.low is not None
    assert change.difference.low > 0
    assert other.difference is not None
    assert abs(other.difference.value) < change.difference.value
    assert change.difference.value == pytest.approx(change.with_tube - change.without, abs=0.02)


def test_the_figures_are_those_of_predict_on_both_sets(runs: dict[str, Run], tmp_path: Path) -> None:
    found = counterfactual(runs["chest_tube"], images=40, size=96)
    means = []
    for name, share in (("none", 0.0), ("all", 1.0)):
        dials = Dials(tube_given_pneumothorax=share, tube_given_none=share)
        data = make_phantom(tmp_path / name, n=40, size=96, seed=SEED, dials=dials)
        table = predict(runs["chest_tube"], data, out=tmp_path / f"p-{name}").table
        rows = data.table["pneumothorax"].to_numpy() == 0
        means.append(float(table["score_chest_tube"][rows].mean()))
    (change,) = [
        each for each in found.changes if each.answer == "score_chest_tube" and each.among == "without pneumothorax"
    ]
    assert (change.without, change.with_tube) == pytest.approx(tuple(means))
    assert change.images == int(rows.sum())


def test_masks_change_in_area(tmp_path: Path) -> None:
    data = make_phantom(tmp_path / "data", n=120, size=64, seed=1)
    (run,) = evalfm.probe("hog", "ptx-seg", data=data, heads=["linear"], baselines="none", out=tmp_path / "runs")
    found = counterfactual(run, images=20, size=64)
    assert {each.answer for each in found.changes} >= {"area_predicted_pneumothorax"}
    assert not any("rle" in each.answer for each in found.changes)


def test_few_radiographs_are_counted_and_not_tested(runs: dict[str, Run]) -> None:
    found = counterfactual(runs["chest_tube"], images=12, size=96)
    few = [each for each in found.changes if each.patients < 10]
    assert few
    assert all(each.difference is None and "needs 10 patients" in str(each.reason) for each in few)
    assert found.notes[0].startswith("Synthetic data")


def test_the_verb_prints_and_refuses(runs: dict[str, Run]) -> None:
    folder = str(runs["chest_tube"].folder)
    told = CliRunner().invoke(app, ["counterfactual", folder, "--images", "20", "--size", "96"])
    assert told.exit_code == 0, told.output
    assert "what the tube alone changes" in told.output
    with pytest.raises(EvalfmError, match="must be 10 at least"):
        counterfactual(runs["chest_tube"], images=5)
    refused = CliRunner().invoke(app, ["counterfactual", "nowhere"])
    assert isinstance(refused.exception, EvalfmError)
