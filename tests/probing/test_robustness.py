"""Perturbed radiographs through finished runs, against the same radiographs perturbed on disk and answered anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

import evalfm
from evalfm.analysis.robustness import PerturbationEffect, Robustness, RunRobustness
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import Perturbation, PerturbedImages, parse_perturbations
from evalfm.encoders import Encoder, EncoderCard
from evalfm.encoders.encoder import EncoderState, RawFeatures
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.applying import RunPredictor
from evalfm.probing.robustness import robustness
from evalfm.progress import SILENT
from evalfm.run import Run
from evalfm.statistics.comparison import contrast_aurocs
from evalfm.statistics.representation import robustness_index, shift_share

from ..squares import make_squares

SOME = ("gamma=2", "inversion", "marker=150", "dose=0.01", "jpeg=30", "downsample=8", "rotation=10", "blur=30")


class Coarse(Encoder):
    """Mean brightness of 6 × 6 places, after each image was stretched from its darkest to its brightest pixel."""

    def __init__(self, name: str = "coarse") -> None:
        card = EncoderCard(
            name=name,
            summary="The brightness of places.",
            family="own",
            architecture="means",
            weights={"source": "none"},
            licence="ours",
            commercial_use="yes",
            parameters=0,
            preprocessing={
                "input_size": (48, 48), "resize": "squash", "interpolation": "bilinear", "antialias": True,
                "channels": 1, "units": ("unit-interval",), "scaling": "min-max-image", "input_range": (0, 1),
                "mean": (0.4,), "std": (0.3,),
            },
            poolings={"places": 36},
            pooling="places",
            paradigm="none",
            domain="none",
        )  # fmt: skip
        super().__init__(card, EncoderState())

    def _forward(self, batch: torch.Tensor) -> RawFeatures:
        return RawFeatures(pooled={"places": adaptive_avg_pool2d(batch, 6).flatten(1)})


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Half of the patients with a square, fainter and fainter, so that some decisions are close."""
    return make_squares(tmp_path_factory.mktemp("films"), patients=150, seed=3)


@pytest.fixture(scope="module")
def runs(radiographs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    out, made = tmp_path_factory.mktemp("runs"), {}
    for name, encoder, task, head, more in (
        ("coarse", Coarse(), "square", "linear", {}),
        ("folds", Coarse(), "square", "linear", {"folds": 3}),
        ("knn", Coarse(), "square", "knn", {}),
        ("size", "pixels", "size", "ridge", {}),
        ("constant", "constant", "square", "linear", {}),
    ):
        (made[name],) = evalfm.probe(
            encoder,
            task,
            data=radiographs,
            heads=[head],
            baselines="none",
            out=out,
            **more,  # type: ignore[arg-type]
        )
    return made


def of(found: Robustness, label: str) -> PerturbationEffect:
    (run,) = found.runs
    (effect,) = [each for each in run.effects if each.label == label]
    return effect


def measured(run: Run, data: Manifest, *words: str, **more: Any) -> Robustness:
    encoder = Coarse() if run.encoder == "coarse" else None
    return robustness([run], data, perturbations=words or SOME, encoder=encoder, **{"images": None, **more})


def on_disk(radiographs: Manifest, perturbation: Perturbation, folder: Path) -> Manifest:
    """The same data set with the perturbed pixels as files of 16 bits."""
    shown = PerturbedImages.of(radiographs, perturbation)
    folder.mkdir()
    for row in range(len(radiographs)):
        levels = np.rint(shown.image(row).pixels[0].astype(np.float64) * 65535).astype(np.uint16)
        Image.fromarray(levels).save(folder / f"{row}.png")
    table = radiographs.table.assign(image=[f"{row}.png" for row in range(len(radiographs))]).drop(
        columns="square_mask"
    )
    info = radiographs.info.model_copy(update={"mask_dialects": {}, "root": str(folder)})
    return Manifest(info, table, folder)


@pytest.mark.parametrize("word", SOME)
def test_what_is_found_is_what_the_run_says_of_perturbed_files(
    runs: dict[str, Run], radiographs: Manifest, tmp_path: Path, word: str
) -> None:
    (perturbation,) = parse_perturbations([word])
    found = of(measured(runs["coarse"], radiographs, word), perturbation.label)
    files = on_disk(radiographs, perturbation, tmp_path / "files")
    tables = {}
    for name, data in (("clean", radiographs), ("changed", files)):
        predicted = evalfm.predict(runs["coarse"], data, encoder=Coarse(), out=tmp_path / name).table
        tables[name] = predicted[radiographs.splits == "test"].reset_index(drop=True)
    clean, changed = tables["clean"], tables["changed"]
    assert clean["id"].tolist() == changed["id"].tolist()
    change = changed["score_square"] - clean["score_square"]
    assert found.score.value == pytest.approx(change.mean(), abs=2e-4)
    assert found.absolute.value == pytest.approx(change.abs().mean(), abs=2e-4)
    assert found.flipped.value == pytest.approx((changed["decision_square"] != clean["decision_square"]).mean())
    truth = radiographs.table["square"][radiographs.splits == "test"]
    (difference,) = contrast_aurocs(
        truth, np.stack([clean["score_square"], changed["score_square"]], axis=1), [[-1, 1]], clean["patient"]
    )
    assert found.metric is not None
    assert found.metric.value == pytest.approx(difference.value, abs=2e-3)
    # Features too, by the encoder itself.
    rows = np.flatnonzero(radiographs.splits == "test")
    sides = []
    for data in (radiographs, files):
        batch = torch.stack([Coarse().prepare(data.image(row))[0] for row in rows])
        sides.append(Coarse().encode(batch).pooled.numpy().astype(np.float64))
    assert found.shift.value == pytest.approx(shift_share(*sides, radiographs.patients[rows]), rel=2e-3, abs=1e-5)
    cosines = (sides[0] * sides[1]).sum(axis=1) / np.linalg.norm(sides[0], axis=1) / np.linalg.norm(sides[1], axis=1)
    assert found.cosine.value == pytest.approx(cosines.mean(), abs=1e-4)


@pytest.mark.parametrize("name", ["coarse", "folds", "knn", "size"])
def test_at_neutral_strength_nothing_changes_at_all(runs: dict[str, Run], radiographs: Manifest, name: str) -> None:
    neutral = ("dose=1", "blur=0", "gamma=1", "downsample=1", "rotation=0", "marker=0", "inversion=0")
    (run,) = measured(runs[name], radiographs, *neutral).runs
    assert len(run.effects) == len(neutral)
    for each in run.effects:
        assert (each.cosine.value, each.shift.value, each.score.value, each.absolute.value) == (1, 0, 0, 0)
        assert each.flipped.value == (None if name == "size" else 0)
        assert each.metric is not None
        assert (each.metric.value, each.metric.standard_error) == (0, 0)


@pytest.mark.parametrize("name", ["coarse", "folds", "size"])
def test_clean_images_have_the_metric_of_the_run(runs: dict[str, Run], radiographs: Manifest, name: str) -> None:
    (found,) = measured(runs[name], radiographs, "blur=1").runs
    recorded = runs[name].metrics[found.metric]
    assert found.metric == runs[name].primary
    assert found.clean.value == pytest.approx(recorded.value, abs=1e-9)
    assert (found.clean.low, found.clean.high) == pytest.approx((recorded.low, recorded.high), abs=1e-9)
    assert found.images == len(runs[name].test_predictions())
    assert not [each for each in found.cautions if "differ from those" in each]


def test_scores_that_are_no_more_those_of_the_run_are_said(
    runs: dict[str, Run], radiographs: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = RunPredictor.answers_by

    def moved(self: RunPredictor, *given: Any, **more: Any) -> pd.DataFrame:
        return answers(self, *given, **more).assign(score_square=lambda table: table["score_square"] * 0.9)

    monkeypatch.setattr(RunPredictor, "answers_by", moved)
    (found,) = measured(runs["coarse"], radiographs, "blur=1").runs
    assert [each for each in found.cautions if "clean images differ from those that the run recorded" in each]


def test_over_folds_each_image_is_answered_by_the_head_that_has_not_seen_it(
    runs: dict[str, Run], radiographs: Manifest
) -> None:
    found = of(measured(runs["folds"], radiographs, "inversion"), "inversion 1")
    run = runs["folds"]
    ready = RunPredictor.of(run, radiographs, None, Coarse(), "auto", SILENT)
    tested = run.test_predictions()
    place = {name: row for row, name in enumerate(radiographs.table["id"])}
    turned = PerturbedImages.of(radiographs, Perturbation("inversion", 1))
    changes = []
    for fold, rows in tested.groupby("fold"):
        at = np.array([place[name] for name in rows["id"]])
        there = ready.answers(at, fold=int(fold), images=turned)["score_square"].to_numpy()
        changes.append(there - rows["score_square"].to_numpy())
    ready.session.close()
    assert found.score.value == pytest.approx(np.concatenate(changes).mean(), abs=1e-5)


def test_no_perturbed_feature_is_taken_for_a_clean_one(
    runs: dict[str, Run], radiographs: Manifest, home: Path, tmp_path: Path
) -> None:
    # In a home without any feature, perturbed ones are computed and stored first.
    robustness([runs["coarse"]], radiographs, perturbations=["inversion"], encoder=Coarse(), images=None)
    predicted = evalfm.predict(runs["coarse"], radiographs, encoder=Coarse(), out=tmp_path / "after").table
    recorded = runs["coarse"].test_predictions().set_index("id")["score_square"]
    found = predicted.set_index("id")["score_square"][recorded.index]
    assert np.abs(found - recorded).max() < 1e-6
    # And the other way round: stored clean features are not taken for perturbed ones.
    again = measured(runs["coarse"], radiographs, "inversion", "gamma=1")
    assert of(again, "inversion 1").shift.value > 0.5


def test_all_encoders_see_the_same_images_of_whole_patients(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = robustness(
        [runs["coarse"], runs["knn"]], radiographs, perturbations=["inversion"], encoder=Coarse(), images=31
    )
    sizes = {(each.images, each.patients) for each in found.runs}
    assert len(sizes) == 1
    (images, patients), *_ = sizes
    assert 28 <= images <= 31
    tested = radiographs.table[radiographs.splits == "test"]
    assert patients < tested["patient"].nunique()
    assert patients < images
    # Heads of one frozen encoder have its features in common.
    one, other = (each.effects[0] for each in found.runs)
    assert one.shift == other.shift
    assert one.score.value != other.score.value
    again = robustness([runs["coarse"]], radiographs, perturbations=["inversion"], encoder=Coarse(), images=31, seed=1)
    assert again.runs[0].effects[0].shift.value != one.shift.value


def test_measurements_have_scores_and_decide_nothing(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = of(measured(runs["size"], radiographs, "inversion"), "inversion 1")
    assert found.score.value is not None
    assert (found.flipped.value, found.flipped.reason) == (None, "the run decides nothing")
    assert found.metric is not None
    assert found.metric.value > 0


def test_masks_are_scored_against_their_truth(radiographs: Manifest, square_seg: str, tmp_path: Path) -> None:
    (run,) = evalfm.probe("hog", square_seg, data=radiographs, heads=["linear"], baselines="none", out=tmp_path)
    (found,) = robustness([run], radiographs, perturbations=["blur=60", "gamma=1"], images=None).runs
    assert (found.metric, found.clean.value) == ("dice_positive", pytest.approx(run.metrics["dice_positive"].value))
    worse, same = found.effects
    assert worse.metric is not None
    assert worse.metric.high is not None
    assert worse.metric.high < 0
    assert same.metric is not None
    assert same.metric.value == same.score.value == 0


def test_several_classes_flip_where_the_most_probable_changes(radiographs: Manifest, tmp_path: Path) -> None:
    table = radiographs.table.assign(level=np.digitize(radiographs.table["size"], [0.01, 0.06]).astype(float))
    info = radiographs.info.model_copy(
        update={
            "label_source": {**radiographs.info.label_source, "level": "mask"},
            "label_kinds": {"size": "number", "level": "class"},
        }
    )
    made = Manifest(info, table, radiographs.folder)
    (run,) = evalfm.probe("pixels", "level", data=made, heads=["linear"], baselines="none", out=tmp_path)
    assert run.kind == "multiclass"
    found = of(robustness([run], made, perturbations=["inversion"], images=None), "inversion 1")
    assert (found.score.value, found.score.reason) == (None, "an image has several scores")
    ready = RunPredictor.of(run, made, None, None, "auto", SILENT)
    rows = np.flatnonzero(radiographs.splits == "test")
    turned = ready.answers(rows, images=PerturbedImages.of(made, Perturbation("inversion", 1)))
    clean = ready.answers(rows)
    ready.session.close()
    scores = [name for name in clean if str(name).startswith("score_")]
    assert found.flipped.value == pytest.approx(
        (clean[scores].to_numpy().argmax(axis=1) != turned[scores].to_numpy().argmax(axis=1)).mean()
    )
    assert found.absolute.value == pytest.approx(np.abs(clean[scores] - turned[scores]).to_numpy().mean(), abs=1e-5)


# Site against class


def test_the_index_is_that_of_the_runs_clean_features(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = measured(runs["folds"], radiographs, "inversion", by="sex", images=20).runs[0].index
    assert found is not None
    batch = torch.stack([Coarse().prepare(radiographs.image(row))[0] for row in range(len(radiographs))])
    expected = robustness_index(
        Coarse().encode(batch).pooled.numpy(),
        radiographs.table["square"],
        radiographs.table["sex"],
        radiographs.patients,
    )
    # All images of the folds, however few are perturbed.
    assert found.images == len(radiographs)
    assert (found.index.value, found.chance) == pytest.approx((expected.value, expected.chance))
    assert found.index.low is not None
    assert found.index.low < expected.value


def test_images_of_unknown_site_are_left_out_of_the_index(runs: dict[str, Run], radiographs: Manifest) -> None:
    unknown = radiographs.table["sex"].where(np.arange(len(radiographs)) % 4 > 0, None)
    some = Manifest(radiographs.info, radiographs.table.assign(sex=unknown), radiographs.folder)
    found = measured(runs["folds"], some, by="sex").runs[0].index
    assert found is not None
    assert found.images == int(unknown.notna().sum())


@pytest.mark.parametrize(
    ("sex", "why"), [("F", "all images are of one site"), (None, "class and site are confounded: no class is seen")]
)
def test_where_there_is_no_index_the_reason_is_given(
    runs: dict[str, Run], radiographs: Manifest, sex: str | None, why: str
) -> None:
    table = radiographs.table
    column = [sex] * len(table) if sex else np.where(table["square"] == 1, "F", "M")
    found = measured(runs["coarse"], Manifest(radiographs.info, table.assign(sex=column), radiographs.folder), by="sex")
    index = found.runs[0].index
    assert index is not None
    assert (index.index.value, index.chance) == (None, None)
    assert index.index.reason is not None
    assert why in index.index.reason


def test_a_measurement_has_no_class_for_an_index(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = measured(runs["size"], radiographs, "blur=1", by="sex").runs[0].index
    assert found is not None
    assert found.index.reason == "an image must be of one class"


# What cannot be measured


def test_runs_without_images_are_left_out_and_named(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = robustness([runs["constant"], runs["size"]], radiographs, perturbations=["blur=1"])
    assert [each.encoder for each in found.runs] == ["pixels"]
    assert found.left_out == (("constant · linear on square", "reads no image"),)
    with pytest.raises(EvalfmError, match="No run is left: constant · linear on square reads no image"):
        robustness([runs["constant"]], radiographs)


def test_faults_are_told_before_the_work(runs: dict[str, Run], radiographs: Manifest, home: Path) -> None:
    with pytest.raises(UnknownNameError, match="blurr"):
        robustness([runs["coarse"]], radiographs, perturbations=["blurr"])
    with pytest.raises(UnknownNameError, match="scanner"):
        robustness([runs["coarse"]], radiographs, by="scanner")
    with pytest.raises(EvalfmError, match="squares, are not registered here; name their folder with --data"):
        robustness([runs["coarse"]])
    with pytest.raises(EvalfmError, match="weights came from a file, and none of these is"):
        robustness([runs["size"]], radiographs, weights="weights.safetensors")
    with pytest.raises(EvalfmError, match="nowhere"):
        robustness([runs["size"]], radiographs, trained_on="./nowhere")
    with pytest.raises(EvalfmError, match="No perturbation is named"):
        robustness([runs["coarse"]], radiographs, perturbations=[])
    with pytest.raises(EvalfmError, match="--images must be 1 at least"):
        robustness([runs["coarse"]], radiographs, images=0)


def test_the_runs_own_data_are_found_by_their_name(runs: dict[str, Run], radiographs: Manifest, home: Path) -> None:
    from evalfm.data.registered import register

    register("any-word", radiographs.folder)
    found = robustness([runs["size"]], perturbations=["gamma=1"])
    assert found.runs[0].data == "squares"


def test_without_spacing_millimetres_are_those_of_a_film_and_said(runs: dict[str, Run], radiographs: Manifest) -> None:
    (found,) = measured(runs["coarse"], radiographs, "blur=1", "gamma=2").runs
    assert [each for each in found.cautions if "for blur their long side is taken to be 430 mm" in each]
    (found,) = measured(runs["coarse"], radiographs, "gamma=2").runs
    assert not [each for each in found.cautions if "430 mm" in each]


def test_an_image_of_which_one_shade_is_left_is_an_image_still(runs: dict[str, Run], radiographs: Manifest) -> None:
    # A file with one value in every pixel is refused; here nothing is wrong with the file.
    found = of(measured(runs["size"], radiographs, "downsample=64"), "downsample 64 ×")
    assert found.shift.value > 0


def test_what_was_found_comes_back_from_its_file(runs: dict[str, Run], radiographs: Manifest, tmp_path: Path) -> None:
    found = measured(runs["coarse"], radiographs, "inversion", "jpeg=30", by="sex")
    (tmp_path / "robustness.json").write_text(json.dumps(found.to_json(), allow_nan=False))
    again = Robustness.read(tmp_path / "robustness.json")
    assert again == found
    assert isinstance(again.runs[0], RunRobustness)
    assert again.runs[0].effects[0].shift.low is not None
