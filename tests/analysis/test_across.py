from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from evalfm.analysis.across import across_tasks
from evalfm.analysis.choose import choose
from evalfm.analysis.compare import Comparison, compare
from evalfm.analysis.report.across import across_section
from evalfm.analysis.report.page import report_page, write_tables
from evalfm.cli.app import app
from evalfm.run import Run
from evalfm.statistics.hierarchical import SCALES, mean_difference

from .made import binary_table, make_run, signal

STRENGTHS = {"good": 2.0, "fair": 1.3, "poor": 0.6, "worst": 0.3, "same": 1.9}


def runs(out: Path, tasks: int = 5, names: Sequence[str] = tuple(STRENGTHS)) -> list[Run]:
    made = []
    for task in range(tasks):
        target = np.random.default_rng(task).random(200) < 0.4
        for name in names:
            scores = signal(target, STRENGTHS[name], 10 * task + list(STRENGTHS).index(name))
            made.append(make_run(out, binary_table(scores, target), encoder=name, task=f"task{task}"))
    return made


def by_task(tables: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    return {table.task: {each.encoder: float(each.estimate.value or 0) for each in table.entries} for table in tables}


def test_average_ranks_friedman_and_orders_are_those_of_the_estimates(tmp_path: Path) -> None:
    tables = compare(runs(tmp_path))
    found = across_tasks(tables)
    assert found is not None
    values = pd.DataFrame(by_task(tables)).T
    ranks = values.rank(axis=1, ascending=False)
    assert {each.name: each.rank for each in found.models} == pytest.approx(ranks.mean().to_dict())
    assert [each.rank for each in found.models] == sorted(each.rank for each in found.models)
    for each in found.models:
        assert each.ranks == tuple(ranks.loc[list(found.tasks), each.name])
    assert found.friedman is not None
    reference = stats.friedmanchisquare(*values.to_numpy().T)
    assert (found.friedman.statistic, found.friedman.p) == (
        pytest.approx(reference.statistic), pytest.approx(reference.pvalue),
    )  # fmt: skip
    assert len(found.orders) == 10
    for each in found.orders:
        tau = stats.kendalltau(values.loc[each.first], values.loc[each.second]).statistic
        assert each.tau.tau == pytest.approx(tau)
        assert each.tau.low is not None


def test_the_interval_of_an_average_rank_is_the_mean_of_rank_sets_corrected_for_the_tasks(tmp_path: Path) -> None:
    tables = compare(runs(tmp_path, tasks=2, names=("good", "fair")))
    found = across_tasks(tables)
    assert found is not None
    # Of two encoders the only pair is held against .05 / 2.
    surely = [table.every_pair[0].difference.p < 0.025 for table in tables]
    ends = {each.name: (each.low, each.high) for each in found.models}
    assert ends["good"] == (1.0, np.mean([1 if each else 2 for each in surely]))
    assert ends["fair"] == (np.mean([2 if each else 1 for each in surely]), 2.0)


@pytest.mark.parametrize(("p", "ends"), [(0.03, (1.0, 2.0)), (0.02, (1.0, 1.0))])
def test_rank_sets_of_two_tasks_are_each_at_half_the_level(tmp_path: Path, p: float, ends: tuple[float, float]) -> None:
    tables = [
        replace(table, every_pair=tuple(replace(each, difference=replace(each.difference, p=p))
                                        for each in table.every_pair))
        for table in compare(runs(tmp_path, tasks=2, names=("good", "fair")))
    ]  # fmt: skip
    found = across_tasks(tables)
    assert found is not None
    assert (found.models[0].name, found.models[0].low, found.models[0].high) == ("good", *ends)


def test_pairs_are_turned_where_the_first_task_has_another_order(tmp_path: Path) -> None:
    made = []
    for task, strengths in enumerate(({"one": 0.2, "two": 2.0}, {"one": 2.0, "two": 0.2}, {"one": 2.0, "two": 0.4})):
        target = np.random.default_rng(task).random(200) < 0.4
        for place, (name, strength) in enumerate(strengths.items()):
            table = binary_table(signal(target, strength, 10 * task + place), target)
            made.append(make_run(tmp_path, table, encoder=name, task=f"task{task}"))
    found = across_tasks(compare(made))
    assert found is not None
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("one", "two")
    assert pair.widest.mean > 0


def test_below_five_tasks_there_is_no_friedman_and_below_five_encoders_no_interval_of_tau(tmp_path: Path) -> None:
    found = across_tasks(compare(runs(tmp_path, tasks=4, names=("good", "fair", "poor"))))
    assert found is not None
    assert found.friedman is None
    assert "Friedman and Nemenyi are given from 5 tasks on; there are 4." in found.cautions
    assert {each.tau.low for each in found.orders} == {None}


def test_other_cohorts_of_one_set_are_no_further_tasks(tmp_path: Path) -> None:
    made = []
    for folds in range(2, 8):
        target = np.random.default_rng(folds).random(240) < 0.4
        for place, name in enumerate(("good", "fair", "poor")):
            table = binary_table(signal(target, STRENGTHS[name], 10 * folds + place), target)
            table = table.assign(fold=np.arange(240) % folds)
            made.append(make_run(tmp_path / str(folds), table, encoder=name))
    tables = compare(made)
    assert len(tables) == 6
    # Six foldings of one data set: nothing across tasks.
    assert across_tasks(tables) is None
    both = across_tasks([*tables, *compare(runs(tmp_path / "more", 1))])
    assert both is not None
    assert len(both.tasks) == 2
    assert sum("No further task, and left out" in each for each in both.cautions) == 5


def test_pairs_are_the_hierarchical_model_of_the_differences_turned_to_the_better(tmp_path: Path) -> None:
    tables = compare(runs(tmp_path, tasks=3, names=("fair", "good", "poor")))
    found = across_tasks(tables)
    assert found is not None
    pair = next(each for each in found.pairs if {each.first, each.second} == {"good", "poor"})
    assert (pair.first, pair.second) == ("good", "poor")
    x, s = [], []
    for table in tables:
        known = {(each.first, each.second): each.difference for each in table.every_pair}
        one, other = "good · linear · frozen", "poor · linear · frozen"
        difference, sign = (known[one, other], 1) if (one, other) in known else (known[other, one], -1)
        x.append(sign * difference.value)
        s.append(difference.standard_error)
    assert min(x) > 0
    for scale, posterior in zip(SCALES, pair.posteriors, strict=True):
        expected = mean_difference(x, s, scale=scale)
        assert posterior.mean == pytest.approx(expected.mean)
        assert posterior.better == pytest.approx(expected.better)
    assert pair.widest.scale == max(SCALES)
    assert pair.widest.high - pair.widest.low == max(each.high - each.low for each in pair.posteriors)


def test_few_degrees_of_freedom_widen_a_pair(tmp_path: Path) -> None:
    tables = compare(runs(tmp_path, tasks=2, names=("fair", "good")))
    few = [
        replace(table, every_pair=tuple(replace(each, difference=replace(each.difference, degrees_of_freedom=4.0))
                                        for each in table.every_pair))
        for table in tables
    ]  # fmt: skip
    plain, wide = across_tasks(tables), across_tasks(few)
    assert plain is not None
    assert wide is not None
    widths = [each.pairs[0].posteriors[0].high - each.pairs[0].posteriors[0].low for each in (plain, wide)]
    assert widths[1] > 1.15 * widths[0]


def test_errors_in_the_unit_of_the_target_have_ranks_and_no_common_difference(tmp_path: Path) -> None:
    made = []
    for task in ("ctr", "size"):
        target = np.random.default_rng(len(task)).normal(size=60)
        for name, spread in (("near", 0.1), ("far", 1.0)):
            table = pd.DataFrame(
                {"id": [f"{row:03}" for row in range(60)], "patient": [f"{row:03}" for row in range(60)]}
            )
            noise = np.random.default_rng(len(name)).normal(size=60)
            table = table.assign(target=target, prediction=target + spread * noise)
            made.append(make_run(tmp_path, table, encoder=name, kind="regression", task=task))
    found = across_tasks(compare(made))
    assert found is not None
    assert [(each.name, each.rank) for each in found.models] == [("near", 1.0), ("far", 2.0)]
    assert [(each.low, each.high) for each in found.models] == [(1.0, 1.0), (2.0, 2.0)]
    assert found.pairs == ()
    assert "No mean difference over tasks in mae: it is measured in unit of the target." in found.cautions


def test_encoders_that_a_task_lacks_are_left_out_and_named(tmp_path: Path) -> None:
    made = [*runs(tmp_path, 1), *runs(tmp_path / "more", 2, ("good", "fair"))[2:]]
    found = across_tasks(compare(made))
    assert found is not None
    assert {each.name for each in found.models} == {"good", "fair"}
    assert any("poor · linear · frozen" in each for each in found.cautions)
    assert across_tasks(compare(runs(tmp_path / "one", 1))) is None
    # A task of other encoders takes nothing from those that share some.
    target = np.random.default_rng(8).random(200) < 0.4
    strange = [
        make_run(tmp_path / "strange", binary_table(signal(target, 1.0, seed), target), encoder=f"other{seed}")
        for seed in range(3)
    ]
    again = across_tasks(compare([*made, *strange]))
    assert again is not None
    assert again.models == found.models
    assert "Has too few of these encoders, and left out: ptx-cls on toy." in again.cautions


def test_the_report_has_a_section_of_it(tmp_path: Path) -> None:
    made = runs(tmp_path)
    found = across_tasks([choose(made, f"task{task}").comparison for task in range(5)])
    assert found is not None
    section = across_section(compare(made))
    assert section is not None
    ranks = dict(section.tables)["Average ranks"]
    assert [row[:2] for row in ranks.texts] == [
        [each.name, f"{each.rank:.2f} [{each.low:.2f}, {each.high:.2f}]"] for each in found.models
    ]
    assert [title for title, _ in section.tables] == [
        "Average ranks", "Pairs by Nemenyi", "Pairs over tasks", "Orders of two tasks",
    ]  # fmt: skip
    assert len(dict(section.tables)["Pairs by Nemenyi"].rows) == 10
    page = report_page(made)
    assert "Across 5 tasks" in page
    assert "Ranks and differences speak of these trained heads." in page
    assert "across-pairs.csv" in {path.name for path in write_tables(made, tmp_path / "csv")}
    assert "Across" not in report_page(runs(tmp_path / "one", 1))


def test_the_verb_ends_with_it(tmp_path: Path) -> None:
    runs(tmp_path)
    said = CliRunner().invoke(app, ["compare", str(tmp_path)], env={"COLUMNS": "200"}).output
    assert "across 5 tasks" in said
    assert "Friedman: χ²" in said
    assert "P worse · equal · better" in said
    last = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--json"]).output)[-1]["across_tasks"]
    assert len(last["pairs"]) == len(list(combinations(STRENGTHS, 2)))
    assert last["speaks_of"] == "these trained heads"
    alone = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--task", "task0", "--json"]).output)
    assert len(alone) == 1
