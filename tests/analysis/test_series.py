"""What is one line of a table, what is a seed of it, and which figures stand in one table at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.choose import choose
from evalfm.analysis.cohort import cohort_of
from evalfm.analysis.compare import compare
from evalfm.analysis.report.task import sections
from evalfm.analysis.series import averaged, model_names, seed_sd
from evalfm.analysis.shortcuts import shortcut_curves
from evalfm.analysis.table import TaskTable, task_tables
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.study.results import rows_of, table_of

from .made import LABELS, binary_table, label_table, make_run, signal

TARGET = np.arange(120) % 2 == 0
PART = {"images": 120, "patients": 120, "positive_images": 60}


def one(out: Path, number: int = 0, **told: object) -> Run:
    return make_run(out, binary_table(signal(TARGET, 0.7, number), TARGET), **told)  # type: ignore[arg-type]


def names(table: TaskTable) -> list[str]:
    return sorted(line.encoder for line in table.lines)


def test_files_of_embeddings_are_never_seeds_of_each_other(tmp_path: Path) -> None:
    keys = ("aaaaaaaa1", "bbbbbbbb1", "cccccccc1")
    made = [
        one(tmp_path, place, seed=place, encoder="precomputed", made={"feature_key": key, "weights_digest": None})
        for place, key in enumerate(keys)
    ]
    (table,) = task_tables(made)
    assert names(table) == [f"precomputed (file {key[:8]})" for key in keys]
    assert [len(line.runs) for line in table.lines] == [1, 1, 1]
    (compared,) = compare(made)
    assert sorted(entry.encoder for entry in compared.entries) == names(table)
    assert {entry.seeds for entry in compared.entries} == {1}
    assert len({each.encoder for each in choose(made, "ptx-cls").candidates}) == len(choose(made, "ptx-cls").candidates)
    assert model_names(made)[0] == "precomputed · linear · frozen (file aaaaaaaa)"
    assert set(table_of(row for run in made for row in rows_of("s", run, tmp_path))["feature_key"]) == set(keys)


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"where": "view == 'PA'"}, {}),
        ({"test_where": "site == 'B'"}, {}),
        ({"limit": 100}, {}),
        ({}, {"folds": 5}),
        ({}, {"test_digest": "other"}),
        ({}, {"test_name": "elsewhere"}),
        ({}, {"label_source": {"ptx": "text-mined"}}),
    ],
)
def test_each_fact_of_a_cohort_alone_makes_another(
    tmp_path: Path, settings: dict[str, object], data: dict[str, object]
) -> None:
    plain, other = one(tmp_path / "a"), one(tmp_path / "b", settings=settings, **data)
    assert cohort_of(plain) == cohort_of(one(tmp_path / "c", 1, seed=1))
    assert cohort_of(plain) != cohort_of(other)


@pytest.mark.parametrize(
    ("settings", "made", "named"),
    [
        ({}, {"precision": "bfloat16", "feature_key": "b"}, ["one (bfloat16)", "one (float32)"]),
        ({}, {"precision": "bfloat16"}, ["one (bfloat16)", "one (float32)"]),
        ({"encoder": {"input_size": 112}}, {"feature_key": "b"}, ["one", "one (112 px)"]),
        ({"encoder": {"resize": "letterbox"}}, {"feature_key": "b"}, ["one", "one (letterbox)"]),
        ({"threshold": "f1"}, {}, ["one (threshold=default)", "one (threshold=f1)"]),
        ({"recipe": {"epochs": 3}}, {}, ["one (epochs=3)", "one (epochs=None)"]),
        ({"a_later_setting": 7}, {}, ["one (a_later_setting=7)", "one (a_later_setting=default)"]),
        ({}, {"weights_digest": "feedfeed0"}, ["one (weights feedfeed)", "one (weights one)"]),
        ({}, {"versions": {"evalfm": "0.2"}}, ["one (evalfm 0.2)", "one (evalfm None)"]),
        ({}, {"split_hash": "otherotherother"}, ["one (split otheroth)", "one (split s)"]),
    ],
)
def test_what_differs_beside_the_seed_is_another_line_and_says_by_what(
    tmp_path: Path, settings: dict[str, object], made: dict[str, object], named: list[str]
) -> None:
    runs = [one(tmp_path / "a"), one(tmp_path / "b", 1, seed=1, settings=settings, made=made)]
    (table,) = task_tables(runs)
    assert names(table) == named
    assert [line.seed_sd for line in table.lines] == [None, None]
    (compared,) = compare(runs)
    assert sorted(entry.encoder for entry in compared.entries) == named
    (section,) = sections(runs)
    assert sorted(str(row[0]) for row in section.tables[0][1].rows) == named


def test_what_changes_no_result_stands_in_no_group_and_a_run_found_twice_is_one_seed(tmp_path: Path) -> None:
    asked = [{"batch_size": 8, "maps": "store"}, {"batch_size": 64, "maps": "stream"}, {}]
    runs = [one(tmp_path / str(place), seed=place, settings={"encoder": each}) for place, each in enumerate(asked)]
    twice = one(tmp_path / "again", seed=0, settings={"encoder": {"batch_size": 2}, "processes": 2, "heads": ["knn"]})
    (table,) = task_tables([*runs, twice])
    (line,) = table.lines
    assert (line.encoder, [run.seed for run in line.runs]) == ("one", [0, 1, 2])
    # Of one seed and another key something differs that no record says: two lines, and no seeds.
    other = one(tmp_path / "other", 5, seed=0, made={"git_commit": "c"})
    (table,) = task_tables([runs[0], other])
    assert [len(line.runs) for line in table.lines] == [1, 1]
    assert len(set(names(table))) == 2


def test_seeds_are_sorted_and_shown_as_mean_and_sd(tmp_path: Path) -> None:
    runs = [one(tmp_path, seed, seed=seed) for seed in (11, 2, 7)]
    (table,) = task_tables(runs)
    (line,) = table.lines
    assert [run.seed for run in line.runs] == [2, 7, 11]
    values = [run.metrics["auroc"].value for run in runs]
    shown = line.metrics["auroc"]
    assert shown.value == pytest.approx(np.mean(values))
    assert line.seed_sd == pytest.approx(np.std(values, ddof=1))
    assert (shown.low, shown.high) == (
        min(run.metrics["auroc"].low or 1.0 for run in runs),
        max(run.metrics["auroc"].high or 0.0 for run in runs),
    )
    told = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} ["
    done = CliRunner().invoke(app, ["ls", "runs", str(tmp_path)], env={"COLUMNS": "200"})
    assert told in done.stdout
    assert "mean ± standard deviation" in done.stdout
    (content,) = json.loads(CliRunner().invoke(app, ["ls", "runs", str(tmp_path), "--json"]).stdout)
    assert content["lines"][0]["seeds"] == [2, 7, 11]
    (section,) = sections(runs)
    (cell,) = [row[3] for row in dict(section.tables)["Metrics that the task names first"].cells]
    assert cell.text.startswith(told)
    assert told in dict(section.tables)["Metrics that the task names first"].cells[0][3].text
    assert "3 seeds" in choose(runs, "ptx-cls").candidates[0].estimate
    # A seed without a value is said, and never 0.
    assert averaged(line.runs, "nothing").value is None
    assert seed_sd(line.runs, "nothing") is None


def cohorts(out: Path) -> list[Run]:
    """One encoder on five cohorts of one data set, and another on the first."""
    asked: tuple[tuple[str, dict[str, object], dict[str, object]], ...] = (
        ("plain", {}, {"test_digest": "d0"}),
        ("where", {"where": "view == 'PA'"}, {"test_digest": "d1"}),
        ("site", {"test_where": "site == 'B'"}, {"test_digest": "d2"}),
        ("mined", {}, {"test_digest": "d0", "label_source": {"ptx": "text-mined"}}),
    )
    runs = [one(out / name, 0, settings=settings, **data) for name, settings, data in asked]
    folded = binary_table(signal(TARGET, 0.7, 4), TARGET).assign(fold=np.arange(120) % 5)
    train = {"images": 621, "patients": 621, "positive_images": 300}
    splits = {"train": train, "val": PART, "test": PART}
    runs.append(make_run(out / "folds", folded, settings={"folds": 5}, splits=splits, test_digest="d4"))
    return [*runs, one(out / "plain", 9, encoder="two", test_digest="d0")]


def test_each_test_cohort_has_a_table_of_its_own_that_is_named(tmp_path: Path) -> None:
    runs = cohorts(tmp_path)
    tables = task_tables(runs)
    assert [table.cohort for table in tables] == [
        "toy, labels radiologist",
        "toy, where view == 'PA'",
        "toy, tested where site == 'B'",
        "toy, labels text-mined",
        "toy, 5 folds",
    ]
    assert [len(table.lines) for table in tables] == [2, 1, 1, 1, 1]
    assert tables[0].unit_counts == (
        "test: 120 patients, 120 images, 60 with the finding, holdout; labels: radiologist"
    )
    assert "5 folds (intervals exclude training variance); labels: radiologist" in tables[-1].unit_counts
    done = CliRunner().invoke(app, ["ls", "runs", str(tmp_path)], env={"COLUMNS": "200"}).stdout
    for table in tables:
        assert f"ptx-cls on {table.cohort}: Is it?" in done
    assert [found.cohort for found in compare(runs)] == [table.cohort for table in tables]
    assert [found.title for found in sections(runs)] == sorted(f"ptx-cls on {table.cohort}" for table in tables)
    written = table_of(row for run in runs for row in rows_of("s", run, tmp_path))
    assert set(written["where"].dropna()) == {"view == 'PA'"}
    assert set(written["test_where"].dropna()) == {"site == 'B'"}
    assert set(written["folds"].dropna()) == {5}


def test_a_choice_is_of_one_cohort(tmp_path: Path) -> None:
    runs = cohorts(tmp_path)
    with pytest.raises(EvalfmError, match=r"5 cohorts \(toy, labels radiologist; .*say which with --cohort"):
        choose(runs, "ptx-cls")
    assert choose(runs, "ptx-cls", cohort="5 folds").comparison.cohort == "toy, 5 folds"
    with pytest.raises(EvalfmError, match="no test cohort among these runs 'lateral'"):
        choose(runs, "ptx-cls", cohort="lateral")
    assert [found.cohort for found in compare(runs, cohort="labels radiologist")] == ["toy, labels radiologist"]


def test_curves_are_of_one_cohort_and_of_one_encoder(tmp_path: Path) -> None:
    few = {"train": {"images": 20, "patients": 20, "positive_images": 10}, "val": PART, "test": PART}
    runs = cohorts(tmp_path)
    runs += [
        one(tmp_path / f"few{seed}", seed, seed=seed, settings={"shots": 10}, splits=few, test_digest="d0")
        for seed in (0, 1)
    ]
    half = {"precision": "bfloat16", "feature_key": "b"}
    runs.append(one(tmp_path / "half", 3, settings={"shots": 10}, splits=few, test_digest="d0", made=half))
    shown = {found.title: dict(found.tables).get("Few labels") for found in sections(runs)}
    curve = shown.pop("ptx-cls on toy, labels radiologist")
    assert curve is not None
    assert [(row[0], row[1]) for row in curve.rows] == [("one · linear · frozen", 20), ("one · linear · frozen", 120)]
    mean = np.mean([run.metrics["auroc"].value for run in runs[-3:-1]])
    assert curve.rows[0][2].value == pytest.approx(mean)  # type: ignore[union-attr]
    assert set(shown.values()) == {None}


def test_shortcut_curves_do_not_mix_precisions(tmp_path: Path) -> None:
    runs = [
        one(
            tmp_path / f"{precision}{strength}",
            place,
            settings={"associate": f"tube={strength}"},
            made={"precision": precision, "feature_key": precision},
            test_digest="d",
        )
        for place, (precision, strength) in enumerate(
            (precision, strength) for precision in ("float32", "bfloat16") for strength in (0, 0.5)
        )
    ]
    curves = shortcut_curves(runs)
    assert sorted(each.model for each in curves) == [
        "one (bfloat16) · linear · frozen",
        "one (float32) · linear · frozen",
    ]
    assert [[point.strength for point in each.points] for each in curves] == [[0, 0.5], [0, 0.5]]


def one_view(out: Path) -> list[Run]:
    """Of three labels one is known on radiographs of one view alone; every radiograph is of one sex."""
    generator = np.random.default_rng(5)
    labels = (generator.random((120, 3)) < 0.5).astype(float)
    view = np.where(np.arange(120) % 2 == 0, "AP", "PA")
    labels[view == "AP", 0] = np.nan
    card = {"subgroups": ["view", "sex"]}
    runs = []
    for seed, name in enumerate(("one", "two")):
        scores = 1 / (1 + np.exp(-(np.nan_to_num(labels) + np.random.default_rng(seed).normal(size=labels.shape))))
        table = label_table(labels, scores).assign(view=view, sex="F")
        runs.append(make_run(out, table, encoder=name, kind="multilabel", classes=LABELS, task_card=card))
    return runs


def test_one_cohort_of_one_view_ends_neither_report_nor_bias(tmp_path: Path) -> None:
    (section,) = sections(one_view(tmp_path / "runs"))
    strata = next(each for heading, each in section.tables if heading.startswith("Subgroups of"))
    assert {row[0] for row in strata.rows} == {"effusion", "mass"}
    assert [reason.split(":")[0] for reason in section.absent] == ["Subgroups by sex"]
    assert "What an image costs the encoders" in dict(section.tables)
    page, markdown = tmp_path / "bias.html", tmp_path / "bias.md"
    asked = ["bias", str(tmp_path / "runs"), "--by", "view,sex", "--html", str(page), "--markdown", str(markdown)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.exception
    for text in (done.stdout, page.read_text().replace("&#39;", "'"), markdown.read_text()):
        assert "By view: 'view' has only the level 'PA' among the test images" in text
        assert "By sex: 'sex' has only the level 'F' among the test images" in text
    alone = CliRunner().invoke(app, ["bias", str(tmp_path / "runs"), "--by", "sex"])
    assert isinstance(alone.exception, EvalfmError)
    assert "only the level 'F'" in str(alone.exception)


def test_a_part_that_cannot_be_made_is_said_and_the_rest_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [one(tmp_path), one(tmp_path, 1, encoder="two")]
    whole = sections(runs)[0]

    def fail(*_: object, **__: object) -> None:
        raise EvalfmError("it is broken.")

    tables = ("add_subgroups", "operating_table", "costs_table", "splits_table")
    for name in ("charts.roc", "charts.forest", "charts.calibration", *tables):
        with monkeypatch.context() as patch:
            patch.setattr(f"evalfm.analysis.report.task.{name}", fail)
            (section,) = sections(runs)
        lost = set(dict(whole.tables)) | set(dict(whole.drawings))
        lost -= set(dict(section.tables)) | set(dict(section.drawings))
        assert len(lost) <= 1, name
        assert sum("it is broken." in reason for reason in section.absent) == 1, name
    with monkeypatch.context() as patch:
        patch.setattr("evalfm.analysis.report.task.task_tables", fail)
        (section,) = sections(runs)
    assert (section.title, section.words) == ("ptx-cls on toy", "This section could not be made: it is broken.")


def test_runs_that_differ_in_their_refits_alone_are_one_line_the_one_with_most(tmp_path: Path) -> None:
    again = [signal(TARGET, 0.7, number) for number in range(10, 16)]
    made = [
        one(tmp_path / "none", settings={"refits": 0}),
        one(tmp_path / "six", refits=again, made={"git_commit": "a"}),
        one(tmp_path / "two", refits=again[:2], made={"git_commit": "b"}),
        one(tmp_path / "other", 1, encoder="other", refits=again),
    ]
    (table,) = task_tables(made)
    assert names(table) == ["one", "other"]
    (line,) = [each for each in table.lines if each.encoder == "one"]
    assert line.runs == (made[1],)
    assert compare(made)[0].pairs == 1


def test_a_baseline_is_no_reference_of_others(tmp_path: Path) -> None:
    runs = [one(tmp_path), one(tmp_path, 1, encoder="two"), one(tmp_path, 2, encoder="pixels", baseline=True)]
    with pytest.raises(EvalfmError, match="pixels is a baseline here"):
        compare(runs, margin=0.1, reference="pixels")
    with pytest.raises(EvalfmError, match="no encoder among these runs 'pixel'"):
        compare(runs, margin=0.1, reference="pixel")
