"""Sentences of choices, tables and reports under designs that are not the demo's: each holds of what is beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.choose import Limits, choose
from evalfm.analysis.report.methods import methods_paragraph
from evalfm.analysis.report.page import report_page
from evalfm.analysis.report.task import sections
from evalfm.analysis.table import SHOWN_METRICS, every_metric, task_tables
from evalfm.cli.app import app
from evalfm.cli.console import print_metrics
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.features.cost import Cost
from evalfm.metrics.registry import metric_of
from evalfm.run import Run
from evalfm.tasks.cohort import resolve_task
from evalfm.tasks.task import list_tasks

from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4


def line(out: Path, strength: float, seed: int, parameters: int | None = 5, **more: object) -> Run:
    card = {"parameters": parameters}
    return make_run(out, binary_table(signal(TARGET, strength, seed), TARGET), card=card, **more)  # type: ignore[arg-type]


def paragraph(made: Sequence[Run], limits: Limits | None = None) -> str:
    return choose(made, "ptx-cls", limits).paragraph


def test_the_smallest_is_named_only_among_encoders_of_known_and_unequal_size(tmp_path: Path) -> None:
    alike = {"strength": 1.5, "seed": 3}
    heads = [line(tmp_path / "a", **alike, encoder="dino", head=head) for head in ("linear", "knn")]
    told = paragraph(heads)
    assert "all of them are of one encoder, dino, with 5 parameters" in told
    assert "smallest" not in told
    sizes: dict[tuple[int | None, ...], str] = {
        (5, 7, 9): "; e0 is the smallest of them, with 5 parameters.",
        (5, 5, 9): "; e0 and e1 are the smallest of them, with 5 parameters each.",
        (5, 5, 5): "; each has 5 parameters.",
        (5, None, 9): "; not every one of them has a known number of parameters, so none is called the smallest.",
    }
    for sized, words in sizes.items():
        folder = tmp_path / "-".join(map(str, sized))
        made = [line(folder, **alike, encoder=f"e{n}", parameters=each) for n, each in enumerate(sized)]
        assert words in paragraph(made)
        assert made[0].encoder in paragraph(made)
    # What nobody knows keeps to no limit.
    table = [line(tmp_path / "t", **alike, encoder="table", parameters=None), *heads]
    found = choose(table, "ptx-cls", Limits(most_parameters=10))
    assert dict(found.excluded)["table · linear · frozen"] == "its number of parameters is not known"


def test_better_than_whom_is_said_as_it_is(tmp_path: Path) -> None:
    best, worst = {"strength": 3.0, "seed": 0}, {"strength": 0.0, "seed": 1}
    one = line(tmp_path, **best, encoder="a")
    others = {
        "head of this one encoder": [line(tmp_path, **worst, encoder="a", head="knn")],
        "encoder": [line(tmp_path, **worst, encoder="b", head="knn")],
        "encoder, head and adaptation": [line(tmp_path, **worst, encoder=name, head="knn") for name in "ab"],
    }
    for words, made in others.items():
        assert f"a (linear, frozen) is better than every other {words} in these runs." in paragraph([one, *made])
    large = line(tmp_path, **worst, encoder="large", parameters=50)
    alone = paragraph([one, large], Limits(most_parameters=10))
    assert "a (linear, frozen) is the only encoder that keeps to the limits: nothing was compared." in alone


def test_a_baseline_that_is_better_is_said_to_be(tmp_path: Path) -> None:
    baseline = {"encoder": "metadata", "baseline": True}
    made = [line(tmp_path / "a", 0.0, 1, encoder="weak"), line(tmp_path / "a", 2.0, 2, **baseline)]
    assert "That baseline is better than weak (linear, frozen) (p < .001)." in paragraph(made)
    made = [line(tmp_path / "b", 2.0, 1, encoder="good"), line(tmp_path / "b", 0.0, 2, **baseline)]
    assert "baseline is better" not in paragraph(made)
    assert "not shown to be better" not in paragraph(made)
    errors = pd.DataFrame({"id": [f"i{n}" for n in range(60)], "patient": [f"p{n}" for n in range(60)], "target": 0.0})
    noise = np.random.default_rng(0).normal(size=60)
    made = [
        make_run(
            tmp_path / "c", errors.assign(prediction=scale * noise), encoder=name, kind="regression", baseline=baseline
        )
        for name, scale, baseline in (("weak", 3.0, False), ("constant", 1.0, True))
    ]
    assert "That baseline is better than weak (linear, frozen)" in choose(made, "ctr").paragraph


def test_a_metric_never_stands_without_its_other_half(tmp_path: Path) -> None:
    card = {"metrics": ["auroc", "auprc", "sensitivity", "ppv"]}
    (table,) = task_tables([line(tmp_path, 1.0, 0, task_card=card)])
    assert table.metric_names == ("auroc", "auprc", "auprc_chance", "sensitivity", "specificity")
    (table,) = task_tables([line(tmp_path / "b", 1.0, 0, task_card={"metrics": ["ppv", "calibration_slope"]})])
    assert table.metric_names == ("ppv", "npv", "calibration_slope", "calibration_intercept")
    for task in list_tasks().values():
        shown: list[str] = []
        for name in task.metrics:
            if sum(metric_of(each).better is not None for each in shown) < SHOWN_METRICS:
                shown += [name, *metric_of(name).beside]
        assert all(set(metric_of(name).beside) <= set(shown) for name in shown), task.name


def test_lines_are_ordered_by_the_direction_of_what_a_task_asks_for(tmp_path: Path) -> None:
    for metric in ("auroc", "brier", "calibration_rms", "calibration_slope"):
        card = {"metrics": [metric]}
        runs = [
            line(tmp_path / metric, strength, 0, encoder=f"s{strength}", task_card=card) for strength in (0.2, 2, 1)
        ]
        (table,) = task_tables(runs)
        badness = [metric_of(metric).badness(each.metrics[metric].value) for each in table.lines]
        assert badness == sorted(badness), metric


def test_an_old_run_whose_first_metric_ranks_nothing_any_more_is_listed(tmp_path: Path) -> None:
    card = {"metrics": ["brier", "ece"]}
    runs = [line(tmp_path, strength, 0, encoder=f"s{strength}", task_card=card) for strength in (0.2, 2)]
    for run in runs:
        content = (run.folder / "run.json").read_text()
        (run.folder / "run.json").write_text(content.replace('"brier",\n', '"ece",\n', 1))
    read = [Run(run.folder) for run in runs]
    assert {run.primary for run in read} == {"ece"}
    (table,) = task_tables(read)
    assert [each.encoder for each in table.lines] == ["s0.2", "s2"]


def test_a_run_of_an_older_version_lacks_a_metric_and_is_shown_all_the_same(tmp_path: Path) -> None:
    card = {"metrics": ["ppv"]}
    one, old = (line(tmp_path, 1.0, seed, encoder=name, task_card=card) for seed, name in enumerate(("new", "old")))
    content = json.loads((old.folder / "run.json").read_text())
    del content["metrics"]["npv"]
    (old.folder / "run.json").write_text(json.dumps(content))
    (table,) = task_tables([one, Run.read(old.folder)])
    missing = next(each for each in table.lines if each.encoder == "old").metrics["npv"]
    assert missing.value is None
    assert "not measured by the version" in str(missing.reason)


def test_every_metric_is_there_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = line(tmp_path, 1.0, 0)
    (table,) = task_tables([made])
    assert set(every_metric(table)) == set(made.metrics)

    def asked(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["ls", "runs", str(tmp_path), *arguments], env={"COLUMNS": "160"})
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked("--metrics", "all")
    assert code == 0, said
    assert all(f"│ {name} " in said for name in made.metrics)
    code, said = asked("--metrics", "all", "--json")
    assert set(json.loads(said)[0]["lines"][0]["metrics"]) == set(made.metrics)
    code, said = asked("--metrics", "npv")
    assert (code, "npv" in said, "auroc" in said) == (0, True, False)
    assert "Did you mean 'npv'" in asked("--metrics", "npw")[1]
    print_metrics(replace(table, cohort="toy where sex == 'F'"))
    assert capsys.readouterr().out.startswith("ptx-cls on toy where sex == 'F': ")
    (section,) = sections([made])
    (heading, whole) = section.folded[0]
    assert heading == "All metrics"
    assert {row[0] for row in whole.rows} == set(made.metrics)
    shown = dict(section.tables)["Metrics that the task names first"]
    assert shown.caption.startswith(f"1 of {len(made.metrics)} metrics, with 95 % intervals")
    assert "<details><summary>All metrics</summary>" in report_page([made])


def test_one_encoder_has_one_time_whatever_its_heads_and_training_sets(tmp_path: Path) -> None:
    def cost(milliseconds: float) -> Cost:
        where = {"input_size": (224, 224), "device": "CPU", "precision": "float32"}
        return Cost(milliseconds=milliseconds, gigaflops=1.0, batch=1, **where)

    made = [
        line(tmp_path, 1.0, seed, encoder="dino", head=head, cost=cost(10.0 + seed), settings={"shots": shots})
        for seed, (head, shots) in enumerate([("linear", 4), ("knn", 4), ("mlp", 4)])
    ]
    (section,) = sections(made)
    (row,) = dict(section.tables)["What an image costs the encoders"].rows
    assert (row[0], row[3]) == ("dino", 11.0)
    candidates = choose(made, "ptx-cls").candidates
    assert [each.milliseconds for each in candidates] == [11.0] * len(candidates)
    assert len(candidates) > 1


def test_a_plain_column_is_asked_in_words_that_fit_it(tmp_path: Path) -> None:
    columns = {
        "pneumothorax": (pd.Series([0.0, 1.0, np.nan]), "pneumothorax: yes or no?"),
        "sex": (pd.Series(["F", "M", None]), "sex: M or F?"),
        "shade": (pd.Series(["a", "b", "c"]), "shade: which class?"),
        "age": (pd.Series(np.arange(30.0)), "age: what value?"),
    }
    for name, (column, title) in columns.items():
        table = pd.DataFrame({"id": [str(row) for row in range(len(column))], "image": "a.png", name: column})
        assert resolve_task(name, Manifest(DatasetInfo(name="d"), table, tmp_path)).title == title


def test_methods_say_what_was_done(tmp_path: Path) -> None:
    seeds = [make_run(tmp_path / "s", binary_table(signal(TARGET, 1, n), TARGET), seed=n) for n in (0, 1)]
    assert "they vary initialisation and order, never the split" in methods_paragraph(seeds)
    drawn = [
        make_run(tmp_path / "d", binary_table(signal(TARGET, 1, n), TARGET), seed=n, settings={"shots": 4})
        for n in (0, 1)
    ]
    assert "initialisation and order, and which of the training images a subset holds" in methods_paragraph(drawn)
    folded = binary_table(signal(TARGET, 1, 0), TARGET).assign(fold=np.arange(300) % 3)
    mixed = [*seeds, make_run(tmp_path / "f", folded, encoder="two")]
    assert "Where there are folds, scores are out of fold (3 folds)" in methods_paragraph(mixed)
    assert "were compared in pairs" in methods_paragraph(seeds)
    # One line has nobody to be compared with.
    alone = report_page(seeds[:1])
    assert "compared in pairs" not in alone
    assert "One line that is no baseline: there is no pair to compare." in alone
    assert "TRIPOD+AI 14" not in alone
    said = CliRunner().invoke(app, ["compare", str(seeds[0].folder)], env={"COLUMNS": "200"}).output
    assert "there is no pair to compare" in said
    assert "Holm" not in said
