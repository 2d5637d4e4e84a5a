"""Predictions of other programs as runs: the same figures, the same pairs, and nothing that is silently wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import evalfm
from evalfm.analysis.bias import bias_of_questions
from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.compare import compare
from evalfm.analysis.report.methods import methods_paragraph
from evalfm.analysis.report.page import report_page
from evalfm.analysis.scores import asks_questions, questions_of_run
from evalfm.data.manifest import Manifest
from evalfm.data.rle import decode
from evalfm.errors import EvalfmError
from evalfm.probing.import_predictions import import_predictions
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import Run
from evalfm.study.cohorts import Manifests
from evalfm.study.shortcuts import decode_studies

from ..squares import make_squares

TASKS = {
    "binary": {"target": ["square"]},
    "multilabel": {"target": ["square", "wide", "rare"]},
    "multiclass": {"target": ["shape"]},
    "ordinal": {"target": ["grade"]},
    "segmentation": {"target": ["square"]},
    "regression": {"target": ["size"]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    squares = make_squares(tmp_path_factory.mktemp("squares"), patients=120)
    table = squares.table.copy()
    table["wide"] = (table["size"] > 0.06).astype(float)
    table.loc[table.index % 7 == 0, "wide"] = np.nan
    table["rare"] = 0.0
    table.loc[table.index[-1], "rare"] = 1.0
    table["shape"] = np.where(table["size"] > 0.06, "wide", np.where(table["size"] > 0, "narrow", "none"))
    table["grade"] = np.digitize(table["size"], [0.01, 0.06]).astype(float)
    info = squares.info.model_copy(update={"levels": {"grade": ["0", "1", "2"]}})
    return Manifest(info, table, squares.folder)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cards")
    for kind, card in TASKS.items():
        title = {"name": f"of-{kind}", "schema": 1, "kind": kind, "title": "What is it?"}
        (folder / f"{kind}.yaml").write_text(json.dumps(title | card))
    return {kind: str(folder / f"{kind}.yaml") for kind in TASKS}


@pytest.fixture(scope="module")
def probed(data: Manifest, cards: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of each kind."""
    out = tmp_path_factory.mktemp("probed")
    heads = {"segmentation": ["mean-mask"], "regression": ["ridge"]}
    return {
        kind: probe("pixels", card, data=data, heads=heads.get(kind, ["linear"]), baselines="none", out=out)[0]
        for kind, card in cards.items()
    }


@pytest.fixture
def scores(data: Manifest) -> pd.DataFrame:
    """A good score of every image, as another program writes it."""
    noise = np.random.default_rng(3).random(len(data))
    score = np.clip(0.5 * data.table["square"].astype(float) + 0.5 * noise, 0.01, 0.99)
    return pd.DataFrame({"id": data.table["id"], "score": score})


def of_split(data: Manifest, table: pd.DataFrame, *names: str) -> pd.DataFrame:
    return table[data.table["split"].isin(names).to_numpy()].reset_index(drop=True)


def written(table: pd.DataFrame, folder: Path, name: str = "theirs.csv") -> Path:
    path = folder / name
    table.to_csv(path, index=False) if name.endswith(".csv") else table.to_parquet(path, index=False)
    return path


@pytest.fixture
def taken(data: Manifest, tmp_path: Path):
    """A table of the task square as a run."""

    def take(table: pd.DataFrame, task: str = "square", **options: object) -> Run:
        options = {"data": data, "out": tmp_path / "runs", **options}
        return import_predictions(written(table, tmp_path), task, str(options.pop("name", "theirs")), **options)

    return take


def alike(imported: Run, run: Run) -> None:
    """Every figure is the same but the curve that masks alone do not have."""
    assert set(imported.metrics) == set(run.metrics)
    for name, estimate in imported.metrics.items():
        if name == "froc_score":
            assert estimate.value is None
            assert "one operating point" in estimate.reason
        else:
            assert estimate == run.metrics[name]


# Round trips ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_runs_own_predictions_come_back_as_the_same_figures(
    kind: str, suffix: str, data: Manifest, cards: dict[str, str], probed: dict[str, Run], tmp_path: Path
) -> None:
    run = probed[kind]
    path = written(run.predictions(), tmp_path, f"theirs.{suffix}")
    again = import_predictions(path, cards[kind], "theirs", data=data, out=tmp_path / "runs")
    alike(again, run)
    assert again.record.provenance.split_hash == run.record.provenance.split_hash
    assert again.record.data.model_dump() == run.record.data.model_dump()
    assert (again.encoder, again.head, again.adaptation) == ("theirs", "imported", "unknown")
    known = {each: value for each, value in again.record.chosen.thresholds.items() if each != "rare"}
    wanted = run.record.chosen.thresholds if kind != "segmentation" else {}
    assert known == {each: value for each, value in wanted.items() if each != "rare"}
    own = run.predictions()
    assert again.predictions().equals(own[again.predictions().columns.tolist()].reset_index(drop=True))


@pytest.mark.parametrize("kind", TASKS)
def test_it_is_paired_with_the_run_it_came_from_and_differs_by_nothing(
    kind: str, data: Manifest, cards: dict[str, str], probed: dict[str, Run], tmp_path: Path
) -> None:
    path = written(probed[kind].predictions(), tmp_path, "theirs.parquet")
    again = import_predictions(path, cards[kind], "theirs", data=data, out=tmp_path / "runs")
    (table,) = compare([probed[kind], again], metric={"multilabel": "auroc[square]"}.get(kind))
    (difference,) = [each.difference for each in table.entries if each.difference is not None]
    assert (difference.value, difference.p) == (0.0, 1.0)
    assert {each.encoder for each in table.entries} == {"pixels", "theirs"}
    page = report_page([probed[kind], again], "Title")
    assert "theirs" in page
    by = ["sex"]
    if asks_questions(again):
        assert bias_of_questions(questions_of_run(again, "square" if kind == "multilabel" else None), by)
    else:
        assert bias_of_values(again, by)


def test_folds_come_back_too(data: Manifest, tmp_path: Path) -> None:
    (run,) = probe("pixels", "square", data=data, heads="linear", baselines="none", folds=3, out=tmp_path / "own")
    path = written(run.predictions(), tmp_path)
    again = import_predictions(path, "square", "theirs", data=data, folds=3, out=tmp_path / "runs")
    assert again.metrics == run.metrics
    assert again.record.provenance.split_hash == run.record.provenance.split_hash
    assert again.record.chosen.each[1].thresholds == run.record.chosen.each[1].thresholds
    # Its own folds are the same ones, found in its column.
    found = import_predictions(path, "square", "theirs", data=data, out=tmp_path / "found")
    assert found.metrics == run.metrics
    assert found.record.data.folds == 3
    only_test = run.test_predictions()[["id", "score_square"]]
    bare = import_predictions(written(only_test, tmp_path), "square", "b", data=data, folds=3, out=tmp_path / "bare")
    assert bare.metrics["auroc"] == run.metrics["auroc"]
    assert any("does not say which model predicted which fold" in str(each) for each in bare.record.cautions)


def test_hidden_ids_come_back_by_their_hashes(tmp_path: Path) -> None:
    hidden = make_squares(tmp_path / "hidden", public_ids=False, salt="pepper")
    (run,) = probe("pixels", "square", data=hidden, heads="linear", baselines="none", out=tmp_path / "runs")
    path = written(run.predictions(), tmp_path)
    again = import_predictions(path, "square", "theirs", data=hidden, out=tmp_path / "runs")
    assert again.metrics == run.metrics
    raw = hidden.table[["id"]].assign(score=0.5)
    other = import_predictions(written(raw, tmp_path), "square", "raw", data=hidden, out=tmp_path / "runs")
    assert other.predictions()["id"].tolist() == again.predictions()["id"].tolist()
    assert not set(hidden.table["id"]) & set(other.predictions()["id"])


# What is tested, chosen and said -------------------------------------------------------------------------------------


def test_the_test_images_are_those_of_a_probe(data, scores, taken, tmp_path):
    options = {"where": "age > 30", "limit": 90}
    (own,) = probe("pixels", "square", data=data, heads="linear", baselines="none", out=tmp_path / "runs", **options)
    run = taken(scores, **options)
    assert run.record.provenance.split_hash == own.record.provenance.split_hash
    assert run.test_predictions()["id"].tolist() == own.test_predictions()["id"].tolist()
    by_id = dict(zip(scores["id"], scores["score"], strict=True))
    assert run.test_predictions()["score_square"].tolist() == [by_id[each] for each in run.test_predictions()["id"]]
    (table,) = compare([own, run])
    assert {each.encoder for each in table.entries} == {"pixels", "theirs"}
    assert table.entries[0].encoder == "theirs"


def test_thresholds_come_from_val_where_the_table_has_it(data, scores, taken):
    run = taken(scores)
    val = of_split(data, scores, "val")["score"].to_numpy()
    label = of_split(data, data.table, "val")["square"].to_numpy()
    (threshold,) = run.record.chosen.thresholds.values()
    youden = [((val >= t) & (label == 1)).sum() / label.sum() - ((val >= t) & (label == 0)).mean() for t in val]
    assert youden is not None
    assert min(val) < threshold < max(val)
    assert run.metrics["brier_calibrated"].value is not None
    assert not any(each.code == "threshold" for each in run.record.cautions)


def test_without_val_the_threshold_is_a_half_and_a_caution_says_so(data, scores, taken):
    run = taken(of_split(data, scores, "test"))
    assert run.predictions()["threshold"].unique().tolist() == [0.5]
    assert run.metrics["sensitivity"] == run.metrics["sensitivity_default"]
    assert "brier_calibrated" not in run.metrics
    assert any("No val rows: the threshold is 0.5" in str(each) for each in run.record.cautions)
    assert run.record.config.threshold == "0.5"
    given = taken(of_split(data, scores, "test"), threshold="0.7", name="given")
    assert given.predictions()["threshold"].unique().tolist() == [0.7]
    assert not any(each.code == "threshold" for each in given.record.cautions)
    assert given.metrics["sensitivity"].value < run.metrics["sensitivity"].value


def test_scores_that_are_no_probabilities_have_no_threshold_without_val(data, scores, taken):
    logits = scores.assign(score=6 * scores["score"] - 2)
    run = taken(of_split(data, logits, "test"))
    assert run.metrics["auroc"].value == pytest.approx(taken(scores, name="p").metrics["auroc"].value)
    for name in ("sensitivity", "specificity", "f1", "accuracy"):
        assert run.metrics[name].value is None
        assert "no threshold" in run.metrics[name].reason
    assert run.metrics["brier"].value is None
    assert Run.read(run.folder).predictions()["threshold"].isna().all()
    (asked,) = questions_of_run(run)
    assert asked.threshold is None
    assert bias_of_questions([asked], ["sex"])
    assert report_page([run], "Title")
    chosen = taken(logits, name="with val")
    assert chosen.metrics["sensitivity"].value is not None
    given = taken(of_split(data, logits, "test"), threshold="1.0", name="given")
    assert given.metrics["sensitivity"].value is not None


def test_rows_that_the_model_saw_are_dropped_and_counted(data, scores, taken):
    said = scores.assign(split=data.table["split"])
    run = taken(said)
    count = int((data.table["split"] == "train").sum())
    assert any(f"{count} rows of images that it saw are not used" in str(each) for each in run.record.cautions)
    assert run.metrics == taken(scores, name="unsaid").metrics
    with pytest.raises(EvalfmError, match="the model has seen them"):
        taken(said.assign(split=np.where(data.table["id"] == said["id"].iloc[-1], "train", said["split"])))
    with pytest.raises(EvalfmError, match="the model has seen them"):
        taken(said.assign(split=np.where(data.table["split"] == "test", "val", said["split"])))


def test_the_same_table_twice_is_one_run_and_any_other_score_another(data, scores, taken):
    first = taken(scores)
    assert taken(scores.sample(frac=1, random_state=0)).folder == first.folder
    assert taken(of_split(data, scores, "val", "test").assign(more=1)).folder == first.folder
    changed = scores.copy()
    changed.loc[changed.index[-1], "score"] += 1e-9
    other = taken(changed)
    assert other.folder != first.folder
    (table,) = compare([first, other])
    assert len({each.encoder for each in table.entries}) == 2
    assert taken(scores, name="renamed").folder != first.folder
    assert taken(scores, threshold="f1").folder != first.folder


def test_the_record_holds_the_tables_name_and_hash_and_no_path(scores, taken, tmp_path):
    import hashlib

    run = taken(scores)
    imported = run.record.provenance.imported
    assert imported is not None
    assert imported.file == "theirs.csv"
    assert imported.sha256 == hashlib.sha256((tmp_path / "theirs.csv").read_bytes()).hexdigest()
    text = (run.folder / "run.json").read_text()
    assert str(tmp_path) not in text
    assert run.record.provenance.cost is None
    assert run.record.provenance.weights_digest is None


def test_contamination_is_unknown_unless_somebody_says_what_the_model_saw(scores, taken):
    codes = [each.code for each in taken(scores).record.cautions]
    assert "contamination-unknown" in codes
    assert "contamination" not in codes
    said = taken(scores, pretraining_data=("Squares", "other"), name="said")
    codes = [each.code for each in said.record.cautions]
    assert "contamination" in codes
    assert "contamination-unknown" not in codes


def test_separate_test_data_are_tested_whole(data, taken, tmp_path):
    other = make_squares(tmp_path / "other", seed=5, name="others")
    other = Manifest(other.info, other.table.assign(id="o" + other.table["id"]), other.folder)
    table = pd.concat([each.table[["id", "square"]] for each in (data, other)])
    run = taken(table.assign(score=0.2 + 0.6 * table["square"]), test_data=other)
    assert run.record.data.test_name == "others"
    assert sorted(run.test_predictions()["id"]) == sorted(other.table["id"])
    assert run.metrics["auroc"].value == 1.0
    assert run.record.chosen.thresholds["square"] == pytest.approx(0.5)


def test_it_is_no_model_to_predict_with(data, scores, taken, tmp_path):
    with pytest.raises(EvalfmError, match="imported predictions and no model"):
        predict(taken(scores), data, out=tmp_path / "predicted")
    with pytest.raises(EvalfmError, match="theirs · imported was imported; there is no model here to probe"):
        decode_studies([taken(scores)], "sex", Manifests())


def test_ids_may_be_file_names(data, scores, taken):
    by_file = scores.assign(file=data.table["image"]).drop(columns="id")
    assert taken(by_file, join_on="image_name=file").folder == taken(scores).folder


# Folds of the table ---------------------------------------------------------------------------------------------------


def test_the_folds_of_the_table_are_the_folds(data, scores, taken):
    patients = pd.factorize(data.table["patient"])[0]
    run = taken(scores.assign(fold=patients % 4 + 1))
    assert run.record.data.folds == 4
    found = dict(zip(run.predictions()["id"], run.predictions()["fold"], strict=True))
    assert found == dict(zip(data.table["id"], patients % 4, strict=True))
    with pytest.raises(EvalfmError, match="others than those of --folds 5"):
        taken(scores.assign(fold=patients % 4 + 1), folds=5)
    with pytest.raises(EvalfmError, match="patients stand in several folds"):
        taken(scores.assign(fold=np.arange(len(data)) % 4))


# Faults ---------------------------------------------------------------------------------------------------------------


def test_every_fault_of_a_table_is_one_sentence(data, scores, taken):
    tested = data.table["split"] == "test"
    first = scores.index[tested.to_numpy()][0]
    name = scores["id"][first]

    def with_score(value: object) -> pd.DataFrame:
        return scores.assign(score=scores["score"].astype(object).where(scores.index != first, value))

    faults = {
        "are of no image of squares": pd.concat([scores, pd.DataFrame({"id": ["x"], "score": [0.5]})]),
        f"no row for 1 of {tested.sum()} test images, such as '{name}'": scores.drop(index=first),
        f"2 rows for the image '{name}'": pd.concat([scores, scores.loc[[first]]]),
        "no finite number for 1 of": with_score(None),
        "such as 'high' for": with_score("high"),
        "such as 'inf' for": with_score("inf"),
        "is empty in 1 rows": scores.assign(id=scores["id"].where(scores.index != first)),
        "no column 'score_square'": scores.rename(columns={"score": "prob"}),
        "There is no column of theirs.csv that names images": scores.rename(columns={"id": "name"}),
        "holds 'other' where train, val or test": scores.assign(split="other"),
        "no row for 1 of": scores.drop(index=scores.index[(data.table["split"] == "val").to_numpy()][0]),
    }
    for words, table in faults.items():
        with pytest.raises(EvalfmError) as caught:
            taken(table)
        assert words in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
    # What is amiss with an image that is not used harms nobody.
    unused = scores.assign(score=scores["score"].where(data.table["split"] != "train"))
    assert taken(unused).folder == taken(scores).folder


def test_options_that_do_not_fit_are_refused(data, scores, taken, cards, tmp_path):
    with pytest.raises(EvalfmError, match="no threshold of probabilities"):
        taken(scores, threshold="3")
    with pytest.raises(EvalfmError, match="no finite number"):
        taken(scores, threshold="nan")
    with pytest.raises(EvalfmError, match="best"):
        taken(scores, threshold="best")
    with pytest.raises(EvalfmError, match="for yes-or-no labels"):
        taken(scores.assign(prediction=1.0), "size", threshold=".4")
    with pytest.raises(EvalfmError, match="--mask-dialect is for run lengths of masks"):
        taken(scores, mask_dialect="coco")
    with pytest.raises(EvalfmError, match="There is no class of the task"):
        taken(scores, cards["multilabel"], score={"heart": "score"})
    with pytest.raises(EvalfmError, match=r"name one with --score wide=COLUMN"):
        taken(scores, cards["multilabel"], score={"square": "score"})
    with pytest.raises(EvalfmError, match="folds test every image once"):
        taken(scores, folds=3, test_where="age > 50")
    with pytest.raises(EvalfmError, match="is a folder"):
        import_predictions(tmp_path, "square", "theirs", data=data)


def test_the_label_is_never_taken_for_the_score(data, taken):
    """A table of labels beside scores of another name, which would be a perfect model."""
    with pytest.raises(EvalfmError, match="no column 'score_square'"):
        taken(data.table[["id", "square"]].assign(probability=0.4))


def test_scores_of_classes_that_do_not_add_up_to_1_get_no_temperature(data, cards, taken):
    names = ["narrow", "none", "wide"]
    own = pd.DataFrame({f"score_shape_{name}": (data.table["shape"] == name) * 0.5 + 0.3 for name in names})
    columns = {name: f"score_shape_{name}" for name in names}
    table = pd.concat([data.table[["id"]], own], axis=1)
    run = taken(table, cards["multiclass"], score=columns)
    assert run.metrics["accuracy"].value == 1.0
    assert any("do not add up to 1" in str(each) for each in run.record.cautions)
    assert not run.record.chosen.temperatures
    right = own.div(own.sum(axis=1), axis=0)
    run = taken(pd.concat([data.table[["id"]], right], axis=1), cards["multiclass"], score=columns, name="right")
    assert run.record.chosen.temperatures


# Masks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(data: Manifest, probed: dict[str, Run], tmp_path: Path) -> Path:
    """The predicted masks of the run as files."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for row in probed["segmentation"].predictions().itertuples():
        mask = decode("relative", row.prediction_rle_square, (row.height, row.width))
        if str(row.id).endswith("1"):
            np.save(folder / f"{row.id}.npy", mask)
        else:
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{row.id}.png")
    return folder


def test_a_folder_of_masks_gives_what_run_lengths_give(data, cards, probed, masks, tmp_path):
    run = import_predictions(masks, cards["segmentation"], "theirs", data=data, out=tmp_path / "runs")
    own = probed["segmentation"]
    assert set(own.metrics) - set(run.metrics) == {"image_auroc"}
    assert own.metrics["lesion_sensitivity"].value > 0
    run.metrics["image_auroc"] = own.metrics["image_auroc"]
    alike(run, own)
    assert run.record.provenance.imported.file == "masks"


def test_faults_of_masks_are_one_sentence(data, cards, probed, masks, tmp_path):
    name = probed["segmentation"].test_predictions()["id"].iloc[0]
    place = next(masks.glob(f"{name}.*"))
    content = place.read_bytes()

    def fails(words: str) -> None:
        with pytest.raises(EvalfmError, match=words):
            import_predictions(masks, cards["segmentation"], "theirs", data=data, out=tmp_path / "runs")
        for odd in masks.glob(f"{name}.*"):
            odd.unlink()
        place.write_bytes(content)

    place.unlink()
    np.save(masks / f"{name}.npy", np.zeros((32, 64), dtype=bool))
    fails("has 32 × 64 pixels, its image 64 × 64")
    place.unlink()
    np.save(masks / f"{name}.npy", np.linspace(0, 1, 64 * 64).reshape(64, 64))
    fails("holds probabilities")
    place.unlink()
    fails("no row for 1 of")
    (masks / f"{name}.tif").write_bytes(b"")
    fails("two masks of")
    (masks / "strange.png").write_bytes(content)
    fails("are of no image")


def test_faults_of_run_lengths_are_one_sentence(data, cards, probed, taken):
    table = probed["segmentation"].predictions()
    first = table.index[table["split"] == "test"][0]
    column = "prediction_rle_square"
    cells = table[column].where(table.index != first, "9999 3")
    with pytest.raises(EvalfmError, match="leaves its image"):
        taken(table.assign(**{column: cells}), cards["segmentation"])
    with pytest.raises(EvalfmError, match="write -1 where nothing is predicted"):
        taken(table.assign(**{column: table[column].where(table.index != first)}), cards["segmentation"])
    with pytest.raises(EvalfmError, match="is of 32 × 64 pixels"):
        taken(table.assign(height=table["height"].where(table.index != first, 32)), cards["segmentation"])


def test_several_masks_have_a_folder_each(data, cards, masks, tmp_path):
    card = tmp_path / "two.yaml"
    card.write_text("name: two\nschema: 1\nkind: segmentation\ntitle: Where?\ntarget: [square, other]\n")
    table = data.table.assign(other_mask=data.table["square_mask"])
    info = data.info.model_copy(update={"mask_dialects": {"square": "file", "other": "file"}})
    both = Manifest(info, table, data.folder)
    with pytest.raises(EvalfmError, match="give a folder each"):
        import_predictions(masks, str(card), "theirs", data=both, out=tmp_path / "runs")
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "other").symlink_to(masks)
    (folder / "square").symlink_to(masks)
    run = import_predictions(folder, str(card), "theirs", data=both, out=tmp_path / "runs")
    assert run.metrics["dice_positive_other"] == dataclasses.replace(run.metrics["dice_positive_square"])


def test_the_public_name_is_the_function() -> None:
    assert evalfm.import_predictions is import_predictions


def test_the_methods_say_nothing_of_a_training_that_nobody_saw(data, scores, taken, probed):
    run = taken(scores)
    alone = methods_paragraph([run])
    assert "Predictions of theirs were made elsewhere and imported" in alone
    assert "chosen on val alone" not in alone
    assert "Features of theirs" not in alone
    assert "unknown, unknown" not in alone
    both = methods_paragraph([run, probed["binary"]])
    assert "Features of pixels were evaluated" in both
    assert "Heads and what of the encoder was trained: linear (frozen);" in both
