"""A run's predictions copied elsewhere give the run's figures; of other tables test rows alone are used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.bias import bias
from evalfm.analysis.scores import scores_of_table
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.predictions import PREDICTIONS
from evalfm.run import MARK, Run
from evalfm.statistics.auroc import auroc

from .made import GRADES, LABELS, binary_table, class_scores, class_table, label_table, make_run, signal

ROWS = 240
DRAW = np.random.default_rng(0)
PATIENT = np.array([f"p{row // 2}" for row in range(ROWS)])


def attributes(table: pd.DataFrame) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    tube = np.where(np.arange(len(table)) % 9 == 0, np.nan, draw.integers(0, 2, len(table)))
    sex = np.where(draw.random(len(table)) < 0.5, "F", "M")
    return table.assign(patient=PATIENT, chest_tube=tube, sex=sex, age=draw.integers(20, 90, len(table)).astype(float))


def run_of(out: Path, kind: str) -> Run:
    """A run of ``kind`` with its val rows, which would change every figure if they were counted."""
    fold = np.arange(ROWS) // 2 % 3
    target = DRAW.random(ROWS) < 0.4
    grades = DRAW.integers(0, 4, ROWS)
    if kind == "binary":
        # Each fold on a scale of its own: pooled they rank otherwise.
        table = binary_table(signal(target, 1.0, 2) * np.array([1, 0.3, 0.05])[fold], target)
        table = table.assign(fold=fold, threshold=np.array([0.5, 0.15, 0.02])[fold])
    elif kind == "multilabel":
        targets = (DRAW.random((ROWS, 3)) < 0.4).astype(float)
        targets[::7, 1] = np.nan
        table = label_table(targets, np.stack([signal(np.nan_to_num(each), 1, 3) for each in targets.T], axis=1))
    elif kind in ("multiclass", "ordinal"):
        table = class_table(grades, class_scores(grades, 1.0, 4)).assign(fold=fold)
    elif kind == "regression":
        table = pd.DataFrame({"id": [f"i{row}" for row in range(ROWS)], "target": DRAW.random(ROWS), "fold": fold})
        table["prediction"] = table["target"] + 0.1 * DRAW.normal(size=ROWS)
    else:
        table = pd.DataFrame({"id": [f"i{row}" for row in range(ROWS)]})
        for name in ("heart", "lungs"):
            there = DRAW.random(ROWS) < 0.7
            table[f"dice_{name}"] = np.where(there, DRAW.random(ROWS), 0.0)
            table[f"area_true_{name}"] = np.where(there, DRAW.random(ROWS) / 9 + 0.01, 0.0)
            table[f"area_predicted_{name}"] = DRAW.random(ROWS) / 9
    classes = {"multilabel": LABELS, "multiclass": GRADES, "ordinal": GRADES, "segmentation": ("heart", "lungs")}
    run = make_run(out, attributes(table), kind=kind, classes=classes.get(kind))
    tested = pd.read_parquet(run.folder / PREDICTIONS)
    val = tested.sample(frac=0.5, random_state=0).assign(split="val")
    if "fold" not in val:
        # Only in folds is an image of val one of test too.
        val["id"] += "v"
    for name in val.columns:
        if name.startswith(("score_", "prediction", "dice_")):
            val[name] = val[name].to_numpy()[::-1] / 2
    both = pd.concat([val, tested], ignore_index=True)
    both.attrs = tested.attrs
    both.to_parquet(run.folder / PREDICTIONS, index=False)
    return run


def told(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["bias", *map(str, arguments), "--by", "chest_tube,sex,age:60", "--json"])
    assert done.exit_code == 0, done.output + str(done.exception)
    return json.loads(done.output)["models"]


def same(one: Any, other: Any) -> bool:
    """Whether two trees of figures are one, to 1e-12."""
    if isinstance(one, dict):
        names = (one.keys() | other.keys()) - {"model", "cautions"}
        return all(same(one.get(name), other.get(name)) for name in names)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*each) for each in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)
    return bool(one == other)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal", "regression", "segmentation"])
def test_a_copy_of_the_predictions_gives_the_figures_of_the_run(kind: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs", kind)
    expected = told(run.folder)
    assert expected[0]["images"] <= ROWS
    table = pd.read_parquet(run.folder / PREDICTIONS)
    assert table.attrs[MARK]["kind"] == kind
    copies = [tmp_path / "mine.parquet", tmp_path / "mine.csv", tmp_path / "theirs.parquet", tmp_path / "theirs.csv"]
    table.to_parquet(copies[0], index=False)
    table.to_csv(copies[1], index=False)
    # As a program that keeps no metadata and writes NA would leave it.
    bare = table.copy()
    bare.attrs = {}
    bare.to_parquet(copies[2], index=False)
    table.to_csv(copies[3], index=False, na_rep="NA")
    for path in copies:
        if kind == "ordinal" and path != copies[0]:
            # Only the mark says that classes are grades; one grade is a question of its own either way.
            assert same(told(run.folder, "--label", "D"), told(path, "--label", "D")), path
            assert any("does not say whether its classes are grades" in each for each in told(path)[0]["cautions"])
        else:
            assert same(expected, told(path)), path
    assert told(copies[0])[0]["model"] == expected[0]["model"]
    if kind in ("multilabel", "segmentation"):
        name = LABELS[0] if kind == "multilabel" else "lungs"
        assert same(told(run.folder, "--label", name), told(copies[1], "--label", name))


def test_a_named_score_column_is_the_label_and_another_one_keeps_test_and_folds(tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs", "binary")
    table = pd.read_parquet(run.folder / PREDICTIONS)
    table["recalibrated"] = table["score_ptx"] * 0.9
    table.to_csv(tmp_path / "t.csv", index=False)
    expected = told(run.folder)
    assert same(expected, told(tmp_path / "t.csv", "--score", "score_ptx"))
    (other,) = told(tmp_path / "t.csv", "--score", "recalibrated")
    assert other["images"] == ROWS
    area = expected[0]["parts"][0]["strata"][0]["metrics"]["auroc"]["value"]
    assert other["parts"][0]["strata"][0]["metrics"]["auroc"]["value"] == pytest.approx(area, abs=1e-12)
    assert any(each.startswith("120 rows of train or val were left out") for each in other["cautions"])
    assert any("within each of the 3 folds of the column 'fold'" in each for each in other["cautions"])


def test_a_run_s_table_without_what_tells_its_rows_apart_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs", "binary")
    table = pd.read_parquet(run.folder / PREDICTIONS)
    faults = {
        "without its column 'split'": table.drop(columns="split"),
        "without its column 'fold'": table.drop(columns="fold"),
        "No row of t.parquet is of test": table[table["split"] == "val"],
        "240 images stand in several test rows": pd.concat([table, table]),
        "The column 'patient' of t.parquet is empty": table.assign(patient=None),
        "'target' of t.parquet holds 480 test cells": pd.concat([table, table.assign(id=table["id"] + "b")]).assign(
            target=3.0
        ),
        "'score_ptx' of t.parquet holds 240 test cells": table.assign(score_ptx=np.inf),
        "'score_ptx' holds cells that are no number": table.assign(score_ptx="high"),
    }
    for sentence, wrong in faults.items():
        wrong.attrs = table.attrs
        wrong.to_parquet(tmp_path / "t.parquet", index=False)
        done = CliRunner().invoke(app, ["bias", str(tmp_path / "t.parquet"), "--by", "sex"])
        assert isinstance(done.exception, EvalfmError), sentence
        assert sentence in str(done.exception)
    # A CSV bears no mark; that an image is on val in one fold and on test in another shows what was lost.
    held = table[table["split"] == "test"].head(20).assign(split="val")
    pd.concat([held, table[table["split"] == "test"]]).drop(columns="fold").to_csv(tmp_path / "t.csv", index=False)
    done = CliRunner().invoke(app, ["bias", str(tmp_path / "t.csv"), "--by", "sex"])
    assert "t.csv is a run's predictions without its column 'fold'" in str(done.exception)
    done = CliRunner().invoke(app, ["bias", str(run.folder / PREDICTIONS), "--by", "sex", "--threshold", "0.5"])
    assert "brings its own threshold, chosen on val" in str(done.exception)


def test_a_mark_that_no_run_writes_is_no_mark(tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs", "binary")
    table = pd.read_parquet(run.folder / PREDICTIONS)
    expected = told(run.folder)
    own = table.attrs[MARK]
    for mark in ([], {}, "evalfm", {**own, "kind": ["binary"]}, {**own, "kind": "other"}, {**own, "class_names": 3},
                 {**own, "class_names": ["mass"]}, {**own, "cautions": None}):  # fmt: skip
        table.attrs = {MARK: mark}
        table.to_parquet(tmp_path / "t.parquet", index=False)
        assert same(expected, told(tmp_path / "t.parquet")), mark


def outside() -> pd.DataFrame:
    target = np.arange(ROWS) % 3 == 0
    score = signal(target, 1.0, 5)
    sex = np.where(DRAW.random(ROWS) < 0.5, "F", "M")
    return pd.DataFrame({"patient": PATIENT, "target": target.astype(int), "score": score, "sex": sex})


def read(folder: Path, table: pd.DataFrame) -> Any:
    table.to_csv(folder / "o.csv", index=False)
    return scores_of_table(folder / "o.csv")


@pytest.mark.parametrize(
    ("column", "words"), [("split", ("train", "val", "test")), ("Partition", ("Training", "dev", " TEST"))]
)
def test_only_test_rows_of_a_table_from_elsewhere_are_asked(
    column: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    table = outside()
    part = np.array(words, dtype=object)[np.arange(ROWS) % 3]
    # Rows of train may lack a label or hold anything.
    table["target"] = np.where(np.arange(ROWS) % 3 == 0, 7, np.arange(ROWS) // 3 % 2)
    found = read(tmp_path, table.assign(**{column: part}))
    alone = read(tmp_path, table[np.arange(ROWS) % 3 == 2])
    assert (found.target.tolist(), found.score.tolist()) == (alone.target.tolist(), alone.score.tolist())
    assert found.cautions == (f"160 rows of train or val were left out by the column '{column}'; 80 of test are used.",)
    assert column not in found.table
    assert alone.cautions == ()


def test_scores_of_different_folds_of_other_programs_are_never_ranked_together(tmp_path: Path) -> None:
    table = outside()
    fold = np.arange(ROWS) // 2 % 4
    table["score"] *= np.array([1, 0.3, 0.1, 0.03])[fold]
    found = read(tmp_path, table.assign(cv_fold=[f"f{each}" for each in fold]))
    (part,) = bias(found, ["sex"]).parts
    inside = [table[(fold == each) & (table["sex"] == "F")] for each in range(4)]
    expected = np.mean([auroc(each["target"], each["score"]) for each in inside])
    assert part.strata[0].metrics["auroc"].value == pytest.approx(expected, abs=1e-12)
    pooled = bias(read(tmp_path, table), ["sex"]).parts[0].strata[0].metrics["auroc"].value
    assert abs(float(pooled or 0) - expected) > 0.05
    with pytest.raises(EvalfmError, match=r"120 patients of o\.csv stand in several folds"):
        read(tmp_path, table.assign(fold=np.arange(ROWS) % 4))
    # One fold is none.
    assert read(tmp_path, table.assign(fold=1)).folds is None


def test_what_leaves_open_who_is_test_is_refused(tmp_path: Path) -> None:
    table = outside()
    thirds = np.arange(ROWS) % 3
    names = np.array(["train", "val", "test"])[thirds]
    faults = {
        "holds '0', '1', '2' where train, val or test": table.assign(split=thirds),
        "holds 'external' where": table.assign(split=np.where(thirds == 0, "external", "test")),
        "holds empty cells where": table.assign(split=np.where(thirds == 0, "", "test")),
        "No row of o.csv is of test by its column 'split'": table.assign(split="val"),
        "The columns 'split' and 'part' of o.csv say of different rows": table.assign(split=names, part=names[::-1]),
        "scores of several seeds (column 'seed')": table.assign(seed=thirds),
        "'fold' of o.csv is empty in some test rows": table.assign(fold=np.where(thirds == 0, np.nan, thirds)),
        "The columns 'fold' and 'kfold' of o.csv are": table.assign(fold=thirds, kfold=np.arange(ROWS) % 2),
    }  # fmt: skip
    for sentence, wrong in faults.items():
        with pytest.raises(EvalfmError) as caught:
            read(tmp_path, wrong)
        assert sentence in str(caught.value)
    assert len(read(tmp_path, table.assign(split="test", part="Test", seed=0)).target) == ROWS


def test_lists_in_cells_end_in_a_sentence(tmp_path: Path) -> None:
    table = outside().assign(split=[["test"]] * ROWS)
    table.to_parquet(tmp_path / "l.parquet")
    with pytest.raises(EvalfmError, match="where train, val or test should stand"):
        scores_of_table(tmp_path / "l.parquet")
