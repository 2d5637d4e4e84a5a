"""A text head through the whole path: sentences, key, thresholds, records, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from evalfm.analysis.operating_points import ALL_POSITIVE, as_json, operating_points, wanted
from evalfm.analysis.table import task_tables
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.features.cost import MOST_PASSES
from evalfm.heads.head import Text
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.probing.texts import text_key
from evalfm.record import Chosen
from evalfm.run import Run
from evalfm.statistics.classification import choose_threshold, f1
from evalfm.statistics.temperature import fit_temperature, with_temperature
from evalfm.tasks.prompts import PromptRow, PromptSet

from ..readers import Reader, Seer, reader_card

SAID = {
    "templates": ["{}", "grey {}"],
    "classes": {"square": {"names": ["bright"]}},
    "absent": {"square": {"names": ["dark"]}},
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "of-doctor-who.json"
    path.write_text(json.dumps(SAID), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def zeroshot(squares: Manifest, prompts: Path, out: Path) -> Run:
    made = probe(Seer(), "square", data=squares, heads=["zeroshot", "linear"], prompts=prompts, threshold="f1", out=out)
    assert [run.head for run in made[:2]] == ["zeroshot", "linear"]
    return made[0]


def rows(run: Run, split: str) -> pd.DataFrame:
    table = run.predictions()
    return table[table["split"] == split]


def test_sentences_find_what_is_plain_to_see(zeroshot: Run):
    test = rows(zeroshot, "test")
    assert zeroshot.metrics["auroc"].value == pytest.approx(roc_auc_score(test["target"], test["score_square"]))
    assert (zeroshot.metrics["auroc"].value or 0) > 0.9


def test_the_threshold_comes_from_val_and_never_lowers_f1_there(zeroshot: Run):
    val, test = rows(zeroshot, "val"), rows(zeroshot, "test")
    threshold = zeroshot.record.chosen.thresholds["square"]
    called = val["score_square"] >= threshold
    assert f1_score(val["target"], called) >= f1_score(val["target"], val["score_square"] >= 0.5)
    assert f1_score(val["target"], called) == max(
        f1_score(val["target"], val["score_square"] >= each) for each in np.unique(val["score_square"])
    )
    assert (test["threshold"] == threshold).all()
    expected = f1_score(test["target"], test["score_square"] >= threshold)
    assert zeroshot.metrics["f1"].value == pytest.approx(expected)
    assert zeroshot.metrics["f1_default"].value == pytest.approx(f1_score(test["target"], test["score_square"] >= 0.5))


def assert_chosen_on(
    split: pd.DataFrame, other: pd.DataFrame, chosen: Chosen, name: str, target: str, rule: str
) -> None:
    """Threshold and temperature of ``name`` are those of ``split``, and ``other`` would have given others."""
    threshold, temperature = chosen.thresholds[name], chosen.temperatures[name]
    of_part, of_other = (
        (
            choose_threshold(rows[target], rows[f"score_{name}"], rule),
            fit_temperature(rows[target], rows[f"score_{name}"]),
        )
        for rows in (split, other)
    )
    assert (threshold, temperature) == pytest.approx(of_part)
    assert threshold != pytest.approx(of_other[0])
    assert temperature != pytest.approx(of_other[1])


def test_threshold_and_temperature_are_those_of_val_and_not_of_test(zeroshot: Run):
    assert_chosen_on(rows(zeroshot, "val"), rows(zeroshot, "test"), zeroshot.record.chosen, "square", "target", "f1")


@pytest.mark.parametrize("rule", ["sensitivity=.5", "specificity=.5"])
def test_the_rule_that_was_asked_is_the_one_that_cuts(squares: Manifest, out: Path, rule: str):
    (run,) = probe("pixels", "square", data=squares, heads=["linear"], threshold=rule, baselines="none", out=out)
    val = rows(run, "val")
    asked, other = (choose_threshold(val["target"], val["score_square"], each) for each in (rule, "youden"))
    assert run.record.chosen.thresholds["square"] == pytest.approx(asked)
    assert asked != pytest.approx(other)


def test_a_temperature_at_its_edge_is_told(squares: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = []
    for number, found in enumerate((0.1, 1.3)):
        monkeypatch.setattr("evalfm.probing.operating.fit_temperature", lambda *_, found=found: found)
        out = tmp_path / str(number)
        (run,) = probe("pixels", "square", data=squares, heads=["linear"], baselines="none", out=out)
        told.append([str(each) for each in run.record.cautions if "temperature" in each.sentence])
    assert told == [["The temperature of square lies at the edge of what is tried, 0.1."], []]


def test_other_words_another_tower_or_another_scale_are_another_key():
    rows = (PromptRow("square", False, "dark", (("dark",),)), PromptRow("square", True, "bright", (("bright",),)))
    text = Text(PromptSet("binary", ("{}",), rows, "test"), Reader(reader_card()))
    moved, louder = Reader(reader_card()), Reader(reader_card())
    moved.anchor.data += 1
    louder.logit_scale = 10.0
    others = [replace(text, tower=moved), replace(text, tower=louder)]
    others.append(replace(text, prompts=replace(text.prompts, rows=rows[::-1])))
    assert len({json.dumps(text_key(each, "squares")) for each in (text, *others)}) == 4
    # Learners have weights by the name of the data set.
    assert text_key(text, "squares") != text_key(text, "circles")


def test_temperature_and_threshold_leave_auroc_alone(zeroshot: Run):
    test = rows(zeroshot, "test")
    assert zeroshot.record.chosen.temperatures["square"] > 0
    calibrated = roc_auc_score(test["target"], test["calibrated_square"])
    assert calibrated == pytest.approx(zeroshot.metrics["auroc"].value)
    assert zeroshot.metrics["brier_calibrated"].value == pytest.approx(
        ((test["calibrated_square"] - test["target"]) ** 2).mean()
    )


def test_the_record_holds_the_sentences_and_each_template_alone(zeroshot: Run, prompts: Path):
    told = zeroshot.record.prompts
    assert told is not None
    assert told.templates == ["{}", "grey {}"]
    assert told.rows[0]["prompts"] == [["dark"], ["grey dark"]]
    alone = {each.template: each.estimate.value for each in told.by_template}
    assert list(alone) == ["{}", "grey {}"]
    assert told.spread is not None
    assert told.spread.least == min(alone.values())
    assert told.spread.sd == pytest.approx(np.std(list(alone.values()), ddof=1))
    assert all(each.estimate.low is not None or each.estimate.reason for each in told.by_template)
    assert prompts.name not in (zeroshot.folder / "run.json").read_text()


def test_other_sentences_are_another_run_and_other_thresholds_too(squares: Manifest, prompts: Path, out: Path):
    def made(**asked: object) -> Run:
        return probe(Seer(), "square", data=squares, heads=["zeroshot"], baselines="none", out=out, **asked)[0]  # type: ignore[arg-type]

    runs = [made(prompts=prompts, threshold="f1"), made(prompts=prompts), made()]
    assert len({run.folder for run in runs}) == 3
    assert len({run.record.key for run in runs}) == 3
    tables = task_tables(runs)
    assert [len(line.runs) for line in tables[0].lines] == [1, 1, 1]


def test_heads_that_read_no_text_keep_their_keys(squares: Manifest, prompts: Path, out: Path):
    beside = probe(
        Seer(), "square", data=squares, heads=["zeroshot", "linear"], prompts=prompts, baselines="none", out=out
    )
    alone = probe(Seer(), "square", data=squares, heads=["linear"], baselines="none", out=out)
    assert beside[1].folder == alone[0].folder


def test_the_image_tower_sees_each_image_once(squares: Manifest, prompts: Path, tmp_path: Path, home: Path):
    seer = Seer()
    for head in (["zeroshot"], ["linear"]):
        given = prompts if head == ["zeroshot"] else None
        probe(seer, "square", data=squares, heads=head, prompts=given, baselines="none", out=tmp_path)
    # Beside a trial and what is timed on noise, once: far from twice.
    assert len(squares) <= seer.forwards <= len(squares) + 2 + 2 * (MOST_PASSES + 1) < 2 * len(squares)


def test_points_stand_side_by_side_with_the_constant_answer(zeroshot: Run, squares: Manifest):
    table = task_tables([zeroshot])[0]
    default, chosen, constant = operating_points(table)
    assert wanted([zeroshot])
    assert default.threshold == "default, .5"
    assert chosen.threshold.startswith("f1 on val, ")
    assert default.estimates[-1] == chosen.estimates[-1] == zeroshot.metrics["auroc"]
    assert default.estimates[0] == zeroshot.metrics["f1_default"]
    assert chosen.estimates[0] == zeroshot.metrics["f1"]
    assert constant.threshold == ALL_POSITIVE
    share = rows(zeroshot, "test")["target"].mean()
    assert constant.estimates[0] is not None
    assert constant.estimates[0].value == pytest.approx(2 * share / (1 + share))
    assert float(f1(np.array([share, 1 - share, 0, 0]))) == pytest.approx(2 * share / (1 + share))


def test_a_finished_run_predicts_without_its_sentences(zeroshot: Run, squares: Manifest, tmp_path: Path):
    found = predict(zeroshot, squares, encoder=Seer(), out=tmp_path / "predicted").table
    test = rows(zeroshot, "test").set_index("id")
    again = found.set_index("id").loc[test.index]
    assert again["score_square"].tolist() == test["score_square"].tolist()
    assert again["calibrated_square"].tolist() == pytest.approx(test["calibrated_square"].tolist())
    expected = (test["score_square"] >= test["threshold"]).astype(int)
    assert again["decision_square"].tolist() == expected.tolist()


def test_folds_choose_each_its_own_threshold(squares: Manifest, prompts: Path, out: Path, tmp_path: Path):
    (run,) = probe(
        Seer(), "square", data=squares, heads=["zeroshot"], prompts=prompts, folds=3, baselines="none", out=out
    )
    splits = run.record.chosen.each
    assert len(splits) == 3
    test = rows(run, "test")
    assert {f: t["threshold"].iat[0] for f, t in test.groupby("fold")} == {
        fold: split.thresholds["square"] for fold, split in enumerate(splits)
    }
    val = rows(run, "val")
    for fold, split in enumerate(splits):
        assert_chosen_on(val[val["fold"] == fold], test[test["fold"] == fold], split, "square", "target", "youden")
    assert run.record.prompts is not None
    # Both see what is plain to see, fold by fold.
    assert [(each.estimate.value or 0) > 0.9 for each in run.record.prompts.by_template] == [True, True]
    # Applied to other radiographs it is cut at their median.
    found = predict(run, squares, encoder=Seer(), out=tmp_path / "predicted").table
    thresholds = [split.thresholds["square"] for split in splits]
    temperatures = [split.temperatures["square"] for split in splits]
    assert found["threshold"].unique().tolist() == [np.median(thresholds)]
    assert np.median(thresholds) not in (thresholds[0], np.mean(thresholds))
    expected = with_temperature(found["score_square"], float(np.median(temperatures)))
    assert found["calibrated_square"].tolist() == pytest.approx(expected.tolist())


def test_several_labels_are_cut_each_where_val_says(squares: Manifest, tmp_path: Path):
    square, number = squares.table["square"], np.arange(len(squares))
    table = squares.table.assign(bright=square, often=square.mask(number % 5 == 0, 1 - square))
    manifest = Manifest(squares.info, table, squares.root)
    card = tmp_path / "both.yaml"
    card.write_text("schema: 1\nname: both\nkind: multilabel\ntitle: Both?\ntarget: [bright, often]\n")
    said = {"classes": {"bright": {}, "often": {"names": ["grey"]}}}
    said["absent"] = {"bright": {"names": ["dark"]}, "often": {"names": ["dark night"]}}
    (tmp_path / "said.json").write_text(json.dumps(said), encoding="utf-8")
    asked = {
        "data": manifest,
        "prompts": tmp_path / "said.json",
        "threshold": "f1",
        "baselines": "none",
        "out": tmp_path,
    }
    (run,) = probe(Seer(), str(card), heads=["zeroshot"], **asked)
    test = rows(run, "test")
    for name in ("bright", "often"):
        assert (test[f"threshold_{name}"] == run.record.chosen.thresholds[name]).all()
        assert_chosen_on(rows(run, "val"), test, run.record.chosen, name, f"target_{name}", "f1")
        calibrated = with_temperature(test[f"score_{name}"], run.record.chosen.temperatures[name])
        assert test[f"calibrated_{name}"].tolist() == pytest.approx(calibrated.tolist())
        expected = f1_score(test[f"target_{name}"], test[f"score_{name}"] >= test[f"threshold_{name}"])
        assert run.metrics[f"f1[{name}]"].value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"encoder": "pixels", "heads": ["zeroshot"]}, "pixels has no text tower"),
        ({"encoder": Seer(reader_card(pooling="mean")), "heads": ["zeroshot"]}, "take --encoder reader@shared"),
        ({"encoder": "metadata", "heads": ["zeroshot"]}, "metadata has no text tower"),
        ({"encoder": "pixels", "heads": ["linear"], "prompts": "x.json"}, "read by text heads alone"),
        ({"encoder": Seer(), "heads": ["zeroshot"], "threshold": "best"}, "unknown threshold rule 'best'"),
        ({"encoder": Seer(), "heads": ["zeroshot"], "threshold": "sensitivity=2"}, "needs a level"),
        ({"encoder": "pixels", "task": "size", "threshold": "f1"}, "--threshold is for yes-or-no labels"),
        ({"encoder": Seer(), "heads": ["zeroshot"], "adaptation": "full"}, "zeroshot"),
        ({"encoder": "pixels", "val_shots": 2}, "val_shots goes with shots"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_computing(
    squares: Manifest, tmp_path: Path, asked: dict, sentence: str
):
    with pytest.raises(EvalfmError, match=sentence):
        probe(**{"task": "square", "data": squares, "out": tmp_path / "runs", **asked})
    assert not list(tmp_path.rglob("run.json"))


def test_whole_sentences_are_not_taken_where_nobody_reads_them(squares: Manifest, tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"square": ["A bright square."], "no square": ["A dark film."]}), encoding="utf-8")
    with pytest.raises(EvalfmError, match="zeroshot reads names and templates"):
        probe(Seer(), "square", data=squares, heads=["zeroshot"], prompts=path, out=tmp_path / "runs")


def test_a_label_without_a_score_has_none_by_any_template(squares: Manifest, tmp_path: Path):
    """Of one class in train: left out of the mean over labels, by all templates and by each alone."""
    rare = np.where(squares.table["split"] == "train", 0, squares.table["sex"] == "M").astype(int)
    manifest = Manifest(squares.info, squares.table.assign(bright=squares.table["square"], rare=rare), squares.root)
    card = tmp_path / "both.yaml"
    card.write_text("schema: 1\nname: both\nkind: multilabel\ntitle: Both?\ntarget: [bright, rare]\n")
    (run,) = probe(Seer(), str(card), data=manifest, heads=["zeroshot"], baselines="none", out=tmp_path)
    assert rows(run, "test")["score_rare"].isna().all()
    assert run.record.prompts is not None
    (alone,) = run.record.prompts.by_template
    assert alone.estimate.value == run.metrics["macro_auroc"].value == run.metrics["auroc[bright]"].value


def test_lines_on_other_test_images_have_a_constant_answer_of_their_own(
    zeroshot: Run, prompts: Path, out: Path, squares: Manifest
):
    asked = {"data": squares, "heads": ["zeroshot"], "prompts": prompts, "baselines": "none", "out": out}
    (women,) = probe(Seer(), "square", where="sex == 'F'", **asked)  # type: ignore[arg-type]
    tables = task_tables([zeroshot, women])
    told = [point for table in tables for point in operating_points(table) if point.threshold == ALL_POSITIVE]
    assert [each.estimates[0] for each in told] == [run.metrics["f1_all_positive"] for run in (zeroshot, women)]
    plain = as_json(task_tables([zeroshot])[0])
    assert [each["threshold"] for each in plain] == ["default, .5", plain[1]["threshold"], ALL_POSITIVE]
    assert plain[1]["f1"] == zeroshot.metrics["f1"].to_json()
    assert plain[2]["sensitivity"] is None


def test_few_val_images_where_asked(squares: Manifest, out: Path):
    (run,) = probe("pixels", "square", data=squares, heads=["linear"], shots=4, val_shots=2, baselines="none", out=out)
    counts = rows(run, "val")["target"].value_counts().to_dict()
    assert counts == {0.0: 2, 1.0: 2}
    (fewer,) = probe(
        "pixels", "square", data=squares, heads=["linear"], shots=1, val_shots=4, baselines="none", out=out
    )
    assert rows(fewer, "val")["target"].value_counts().to_dict() == {0.0: 1, 1.0: 1}
    asked = {
        "data": squares,
        "heads": ["linear"],
        "shots": 8,
        "test_where": "sex == 'M'",
        "baselines": "none",
        "out": out,
    }
    # As in the authors' programs a class with fewer images gives all that it has.
    whole, scarce = (probe("pixels", "square", **asked, **more)[0] for more in ({}, {"val_shots": 8}))  # type: ignore[arg-type]
    there = rows(whole, "val")["target"].value_counts().to_dict()
    assert min(there.values()) < 8
    assert rows(scarce, "val")["target"].value_counts().to_dict() == {each: min(n, 8) for each, n in there.items()}
    told = ", ".join(f"{there[each]} of square = {each:g}" for each in sorted(there) if there[each] < 8)
    assert f"Val has fewer than 8 images of a class, and all of these were taken: {told}." in map(
        str, scarce.record.cautions
    )
    assert not any("Val has fewer" in str(each) for each in run.record.cautions)
