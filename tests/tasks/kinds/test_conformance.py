"""Every kind of task, from its target to its section of the report: one that is half added fails here.

A new kind needs a task in ``TASKS``, with its columns in ``made``, and nothing else here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from evalfm.analysis.attributes import declared
from evalfm.analysis.bias import bias_of_questions
from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.predictions import Predictions
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.task import PARTS, SHOWN, sections
from evalfm.analysis.run_figures import CURVES
from evalfm.analysis.scores import ERRORS, asks_questions, questions_of_run
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.heads.objectives import OBJECTIVES
from evalfm.heads.registry import list_heads
from evalfm.metrics.registry import check_metrics, metric_of, metrics_of
from evalfm.metrics.rows import ROWS
from evalfm.predictions import PREDICTIONS
from evalfm.probing.pictures import OVERLAYS
from evalfm.probing.probe import probe
from evalfm.probing.splits import make_splits
from evalfm.record import Record
from evalfm.run import Run
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort, select_cohort
from evalfm.tasks.kinds import ANSWERED, BASE_TO_NOVEL, EPISODES, KINDS, Kind
from evalfm.tasks.task import read_card
from evalfm.tasks.truth import READERS

PICTURES = {*CURVES, OVERLAYS}

TASKS = {
    "binary": {"target": ["square"]},
    "multilabel": {"target": ["square", "wide"]},
    "multiclass": {"target": ["shape"]},
    "ordinal": {"target": ["grade"]},
    "segmentation": {"target": ["square"]},
    "regression": {"target": ["size"]},
}
"""Of each kind a task on the squares."""
CHANGED = {"multilabel": "target_wide", "segmentation": "area_true_square"}
"""Where the truth of a row stands, if not in ``target``."""
SPOILT = {"regression": np.nan}
"""What truth no row may hold, if not −3."""


@pytest.fixture(scope="module")
def made(squares: Manifest) -> Manifest:
    table = squares.table.copy()
    table["wide"] = (table["size"] > 0.06).astype(float)
    table.loc[table.index % 7 == 0, "wide"] = np.nan
    shape = np.where(table["size"] > 0.06, "wide", np.where(table["square"] == 1, "narrow", "none"))
    table["shape"], table["grade"] = shape, shape
    info = squares.info.model_copy(
        update={
            "label_kinds": squares.info.label_kinds | {"shape": "class", "grade": "class"},
            "levels": {"grade": ["none", "narrow", "wide"]},
        }
    )
    return Manifest(info, table, squares.folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def card_file(kind: str, folder: Path) -> str:
    path = folder / f"{kind}-task.yaml"
    task = {"name": f"{kind}-task", "schema": 1, "kind": kind, "title": "What is there?", "subgroups": ["sex"]}
    path.write_text(yaml.safe_dump(task | TASKS[kind]), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    assert request.param in TASKS, f"give the kind {request.param} a task here"
    return KINDS[request.param]


@pytest.fixture(scope="module")
def cohort(kind: Kind, made: Manifest, folder: Path) -> Cohort:
    return select_cohort(read_card(Path(card_file(kind.name, folder))), made)


@pytest.fixture(scope="module")
def runs(kind: Kind, made: Manifest, folder: Path) -> list[Run]:
    task = card_file(kind.name, folder)
    return probe("hog", task, data=made, heads=kind.heads[:1], baselines="default", out=folder / "runs")


def test_what_a_kind_names_is_there_and_serves_it(kind: Kind) -> None:
    assert kind.name in ROWS
    assert kind.target in READERS
    assert kind.target in OBJECTIVES
    assert set(kind.parts) <= set(PARTS)
    assert kind.parts, "a section of the report has something of the kind"
    assert kind.picture in ("", *PICTURES)
    assert kind.errors in ("", *ERRORS)
    assert kind.fewest <= kind.most
    check_metrics(kind.metrics, kind.name)
    assert metric_of(kind.metrics[0]).better is not None
    assert any(metric.contrast for metric in metrics_of(kind.name)), "runs of the kind can be compared"
    for head in (*kind.heads, *kind.baseline_heads):
        assert kind.name in load_head(head, kind.name).kinds
    truth = kind.truth_columns(["a", "b"])
    assert truth
    assert set(truth) <= {each.name for each in kind.columns(["a", "b"])}


def test_nothing_is_kept_for_a_kind_that_is_none() -> None:
    kinds = KINDS.values()
    for registry, named in (
        (PARTS, {part for each in kinds for part in each.parts}),
        (PICTURES, {each.picture for each in kinds} - {""}),
        (ERRORS, {each.errors for each in kinds} - {""}),
        (READERS, {each.target for each in kinds}),
        (OBJECTIVES, {each.target for each in kinds}),
    ):
        assert set(registry) == named
    assert set(SHOWN) <= set(PICTURES)
    assert set(TASKS) == set(KINDS)
    assert {kind for head in list_heads() for kind in head.kinds} == set(KINDS)
    assert {kind for metric in metrics_of(BASE_TO_NOVEL.name) for kind in metric.kinds} == {BASE_TO_NOVEL.name}
    assert set(ROWS) | {EPISODES.name} == set(ANSWERED)


def test_a_target_is_read_and_split_into_what_a_head_can_learn(cohort: Cohort, kind: Kind) -> None:
    assert len(cohort) > 50
    shape = {"masks": (0,), "labels": (2,) if kind.several_targets else ()}.get(kind.target, ())
    assert cohort.target.shape == (len(cohort), *shape)
    assert len(cohort.truths()) == len(cohort)
    assert kind.fewest <= len(cohort.class_names) <= kind.most
    if kind.has_shots:
        assert len(np.unique(cohort.strata)) == (3 if kind.exclusive else 2)
    (split,) = make_splits(cohort, SplitOptions())
    assert min(len(split.train), len(split.val), len(split.test)) > 5
    assert len(make_splits(cohort, SplitOptions(folds=3))) == 3


def test_too_few_names_of_classes_make_no_record(runs: list[Run], kind: Kind) -> None:
    content = runs[0].record.model_dump(mode="json", by_alias=True)
    content["data"]["class_names"] = []
    if kind.fewest == 0:
        assert Record.model_validate(content)
    else:
        with pytest.raises(ValueError, match=f"a {kind} task has {kind.fewest} class"):
            Record.model_validate(content)


def test_a_run_holds_what_its_kind_says(runs: list[Run], kind: Kind) -> None:
    run, names = runs[0], tuple(runs[0].record.data.class_names)
    table = run.predictions()
    assert {each.name for each in kind.columns(names)} <= set(table)
    assert ("threshold" in table) == kind.one_label
    assert not {each.name for each in kind.columns(names)} & set(declared(table, names)), "none is an attribute"
    assert run.estimate(run.primary).value is not None
    baselines = [each for each in runs if each.is_baseline]
    assert {each.encoder for each in baselines} == set(kind.baselines)
    if kind.baseline_heads:
        assert {each.head for each in baselines} == set(kind.baseline_heads)
    constants = [each for each in baselines if each.encoder == "constant"]
    assert any(
        metric_of(name).badness(run.estimate(name).value)
        < min(metric_of(name).badness(each.estimate(name).value) for each in constants)
        for name in kind.metrics
    ), "squares are seen, so a head is better than a constant answer"
    positive = int(kind.positive(run.test_predictions(), names).sum()) if kind.finding else 0
    assert positive == run.record.data.splits.test.positive_images or not kind.finding
    drawn = {path.stem.partition("_")[0] for path in (run.folder / "figures").iterdir()} - {"learning"}
    # With a ROC curve stand what the probabilities are worth: their calibration and net benefit.
    with_it = {"calibration", "net"} if kind.picture == "roc" else set()
    assert drawn == ({kind.picture} | with_it if kind.picture else set())


def test_its_predictions_are_known_again_as_a_table(runs: list[Run], kind: Kind, tmp_path: Path) -> None:
    names = tuple(runs[0].record.data.class_names) if kind.fewest else ()
    table = pd.read_parquet(runs[0].folder / PREDICTIONS)
    table.attrs = {}
    found = Predictions.of_table(tmp_path / "bare.parquet", table)
    assert found is not None
    assert found.class_names == names
    alike = [each for each in KINDS.values() if each.names_in(table) is not None]
    assert kind in alike
    for each in alike:
        assert [column.name for column in each.columns(names)] == [column.name for column in kind.columns(names)]
    # Such as classes and grades: what a table cannot tell it must say.
    assert found.kind == alike[0].name
    assert bool(alike[0].unsaid) == (len(alike) > 1)
    assert any(alike[0].unsaid and alike[0].unsaid in each for each in found.cautions) == bool(alike[0].unsaid)


def test_a_truth_that_no_row_may_hold_is_refused_wherever_it_is_read(
    runs: list[Run], kind: Kind, tmp_path: Path
) -> None:
    run, column = runs[0], CHANGED.get(kind.name, "target")
    assert column in kind.truth_columns(run.record.data.class_names)
    table = pd.read_parquet(run.folder / PREDICTIONS)
    mark = table.attrs
    table.loc[table.index[table["split"] == "test"][0], column] = SPOILT.get(kind.name, -3.0)
    table.attrs = mark
    with pytest.raises(EvalfmError, match=f"The column '{column}' of .* no run writes"):
        Predictions.of_table(tmp_path / "spoilt.parquet", table)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in run.folder.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    table.to_parquet(copy / PREDICTIONS, index=False)
    with pytest.raises(EvalfmError, match=f"the column '{column}' must "):
        Run.read(copy).predictions()


def test_its_subgroups_are_asked_by_labels_or_by_errors(runs: list[Run], kind: Kind) -> None:
    run = runs[0]
    assert asks_questions(run) == (not kind.errors)
    names = run.record.data.class_names
    assert asks_questions(run, names[0] if names else "x") == kind.has_classes, "one grade is a question all the same"
    if asks_questions(run):
        questions = questions_of_run(run)
        assert len(questions) == (1 if kind.one_label else len(run.record.data.class_names))
        assert bias_of_questions(questions, ["sex"])
    else:
        assert kind.errors
        assert bias_of_values(run, ["sex"]).outcomes
    if not kind.errors:
        with pytest.raises(EvalfmError, match="reported by its labels"):
            bias_of_values(run, ["sex"])


def test_its_section_of_the_report_is_whole(runs: list[Run], kind: Kind) -> None:
    (section,) = sections(runs)
    assert "could not be made" not in section.words
    assert not [each for each in section.absent if "could not be made" in each]
    headings = [heading for heading, _ in (*section.drawings, *section.tables)]
    bare = dataclasses.replace(kind, parts=(), picture="")
    KINDS_OF_NOTHING = ANSWERED | {kind.name: bare}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalfm.tasks.kinds.ANSWERED", KINDS_OF_NOTHING)
        (less,) = sections(runs)
    without = [heading for heading, _ in (*less.drawings, *less.tables)]
    assert len(headings) >= len(without) + len(kind.parts), "each part shows something"
    assert bool(section.pictures) == (kind.picture in SHOWN)
    assert section.title in report_page(runs)
