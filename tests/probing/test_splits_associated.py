"""Training images in which an attribute goes with the label exactly as strongly as it was asked."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.shortcuts import decodability, shortcut_curves
from evalfm.cards import checked
from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.data.phantom import Dials, make_phantom
from evalfm.data.registered import register
from evalfm.errors import EvalfmError
from evalfm.probing.probe import probe
from evalfm.probing.splits import Split, make_splits
from evalfm.probing.splits.association import CURVE
from evalfm.run import find_runs
from evalfm.split_options import Association, SplitOptions
from evalfm.statistics.auroc import auroc
from evalfm.study.cohorts import Manifests
from evalfm.study.shortcuts import curve_studies, decode_studies
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    dials = Dials(tube_given_pneumothorax=0.5, tube_given_none=0.3)
    return make_phantom(tmp_path_factory.mktemp("phantom") / "tied", n=400, size=64, seed=3, dials=dials)


@pytest.fixture(scope="module")
def cohort(tied: Manifest) -> Cohort:
    return select_cohort(resolve_task("ptx-cls", tied), tied)


def dealt(cohort: Cohort, strength: float, **changes: object) -> list[Split]:
    return make_splits(cohort, SplitOptions(associate=f"chest_tube={strength}", **changes))


def pairs(cohort: Cohort, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tube = cohort.manifest.table["chest_tube"].to_numpy(float)[cohort.rows[positions]]
    return cohort.target[positions], tube


@pytest.mark.parametrize("strength", CURVE)
def test_phi_is_what_was_asked_at_the_same_number_of_images(cohort: Cohort, strength: float):
    (split,) = dealt(cohort, strength)
    (loosest,) = dealt(cohort, 0)
    for name in ("train", "val"):
        label, tube = pairs(cohort, getattr(split, name))
        assert label.mean() == tube.mean() == 0.5
        assert np.corrcoef(label, tube)[0, 1] == pytest.approx(strength, abs=2 / len(label) + 1e-9), (
            "as near as whole images allow"
        )
        assert len(label) == len(getattr(loosest, name))
    label, tube = pairs(cohort, split.test)
    assert np.corrcoef(label, tube)[0, 1] == pytest.approx(0, abs=1e-12)
    assert split.test.tolist() == loosest.test.tolist(), "every strength is tested on the same images"
    assert f"train {len(split.train)} images, phi" in split.cautions[-1].sentence


def test_images_stay_on_their_side_and_cells_are_nested(cohort: Cohort):
    (plain,) = make_splits(cohort, SplitOptions())
    inside = [dealt(cohort, strength)[0] for strength in CURVE]
    for split in inside:
        for name in ("train", "val", "test"):
            assert set(getattr(split, name)) <= set(getattr(plain, name))
    for weaker, stronger in pairwise(inside):
        label, tube = pairs(cohort, weaker.train)
        assert set(weaker.train[label == tube]) <= set(stronger.train)


def test_a_seed_draws_other_training_images_and_the_same_test(cohort: Cohort):
    settings = SplitOptions(associate="chest_tube=0.5")
    first, second = (make_splits(cohort, settings, subset_seed=seed)[0] for seed in (0, 1))
    assert set(first.train) != set(second.train)
    assert first.test.tolist() == second.test.tolist()


def test_every_fold_is_tied_and_tested_untied(cohort: Cohort):
    for split in dealt(cohort, 0.5, folds=3):
        label, tube = pairs(cohort, split.test)
        assert np.corrcoef(label, tube)[0, 1] == pytest.approx(0, abs=1e-12)
        label, tube = pairs(cohort, split.train)
        assert np.corrcoef(label, tube)[0, 1] == pytest.approx(0.5, abs=2 / len(label) + 1e-9)


@pytest.mark.parametrize("text", ["chest_tube", "chest_tube=1", "chest_tube=-0.5", "=0.5", "chest_tube=much"])
def test_what_is_no_association_is_refused(text: str):
    with pytest.raises(EvalfmError, match="strength"):
        Association.parse(text)


def test_what_cannot_be_tied_is_refused(cohort: Cohort, tied: Manifest):
    alone = cohort.keep(tied.table["chest_tube"].to_numpy() == 0, "tube")
    with pytest.raises(EvalfmError, match="no image has label"):
        dealt(alone, 0.5)
    asked = select_cohort(resolve_task("ctr", tied), tied)
    with pytest.raises(EvalfmError, match="regression"):
        make_splits(asked, SplitOptions(associate="chest_tube=0.5"))
    with pytest.raises(EvalfmError, match="give one"):
        checked(SplitOptions, {"associate": "chest_tube=0.5", "shots": 4})


def test_the_verb_makes_probe_and_curve_and_tells_them(tied: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    register("tube-tied", tied.root)
    probe("hog", "ptx-cls", data="tube-tied", heads=["linear"], folds=3, out=tmp_path / "runs")
    asked = ["bias", str(tmp_path / "runs"), "--by", "chest_tube", "--decode", "--curve", "--json"]
    asked += ["--out", str(tmp_path / "made"), "--html", str(tmp_path / "bias.html")]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    (decoded,) = found["decodability"]
    assert (decoded["finding"], decoded["attribute"], decoded["encoder"]) == ("pneumothorax", "chest_tube", "hog")
    (curve,) = found["curves"]
    assert [point["strength"] for point in curve["points"]] == list(CURVE)
    made = find_runs(tmp_path / "made")
    strengths, areas = [], []
    for run in made:
        if run.record.config.associate:
            table = run.predictions().query("split == 'test'")
            strengths.append(float(run.record.config.associate.partition("=")[2]))
            areas.append(auroc(table["target"], table["score_pneumothorax"], table["fold"]))
    assert len(strengths) == len(CURVE)
    assert curve["slope"]["value"] == pytest.approx(np.polyfit(strengths, areas, 1)[0], abs=1e-10)
    page = (tmp_path / "bias.html").read_text()
    assert "Shortcut curve" in page
    assert "Can the features tell it" in page
    assert page.count("<svg") == 1
    assert (
        decodability(made)[0].auroc
        == next(run for run in made if run.task == "chest_tube" and not run.is_baseline).metrics["auroc"]
    )
    assert len(shortcut_curves(made)) == 1
    again = CliRunner().invoke(app, ["bias", str(tmp_path / "made"), "--by", "chest_tube", "--task", "ptx-cls"])
    assert again.exit_code == 0, "a folder of ties alone is read at its weakest one"
    refused = CliRunner().invoke(app, ["bias", str(tmp_path / "runs"), "--by", "sex*view", "--decode"])
    assert isinstance(refused.exception, EvalfmError), "exit code 2 at the shell"


def test_other_images_of_the_same_name_are_never_asked_instead(
    tied: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    other = make_phantom(tmp_path / "other", n=60, size=64, seed=4)
    (run,) = probe("hog", "ptx-cls", data=tied, heads=["linear"], baselines="none", out=tmp_path / "runs")
    register(tied.info.name, other.root)
    with pytest.raises(EvalfmError, match="No data set here holds the images"):
        decode_studies([run], "chest_tube", Manifests())
    register("another-name", tied.root)
    (study,) = decode_studies([run], "chest_tube", Manifests())
    assert study.data == "another-name"
    assert study.where == "pneumothorax == 0"
    assert study.baselines == "all"
    (study,) = curve_studies([run], "chest_tube", Manifests())
    assert study.data == "another-name"
    assert study.associate == tuple(f"chest_tube={strength:g}" for strength in CURVE)


def test_two_data_sets_of_one_name_are_two_curves(tied: Manifest, tmp_path: Path):
    other = make_phantom(tmp_path / "other" / tied.root.name, n=400, size=64, seed=5)
    assert other.info.name == tied.info.name
    runs = [
        run
        for data in (tied, other)
        for strength in (0, 0.5)
        for run in probe(
            "hog",
            "ptx-cls",
            data=data,
            heads=["linear"],
            folds=3,
            associate=f"chest_tube={strength}",
            baselines="none",
            out=tmp_path / "runs",
        )
    ]
    curves = shortcut_curves(runs)
    assert [[point.strength for point in curve.points] for curve in curves] == [[0, 0.5], [0, 0.5]]
    assert all(curve.slope is not None for curve in curves)
