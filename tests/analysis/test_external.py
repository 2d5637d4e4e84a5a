from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from evalfm.analysis.compare import compare
from evalfm.analysis.external import by_test_data, external_validation
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import holm

from ..statistics.paired import compare_auroc
from .made import binary_table, make_run, signal

ON_A = {"one": 2.2, "two": 1.2, "three": 0.4, "four": 0.3, "five": 1.1}
# On B the order of one and two is turned.
ON_B = {"one": 0.4, "two": 1.8, "three": 0.2, "four": 0.3, "five": 1.1}


def made(out: Path, strengths: dict[str, float], seed: int, **data: object) -> list[Run]:
    target = np.random.default_rng(seed).random(300) < 0.4
    return [
        make_run(out, binary_table(signal(target, strength, 10 * seed + place), target), encoder=name, **data)
        for place, (name, strength) in enumerate(strengths.items())
    ]


def scores(strengths: dict[str, float], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    target = np.random.default_rng(seed).random(300) < 0.4
    return target, {name: signal(target, s, 10 * seed + place) for place, (name, s) in enumerate(strengths.items())}


def test_pairs_that_were_significant_on_a_have_their_difference_on_b(tmp_path: Path) -> None:
    a = made(tmp_path / "a", ON_A, 1)
    b = made(tmp_path / "b", ON_B, 2, name="else", test_name="else")
    (found,) = external_validation(a, b)
    (table,) = compare(a)
    significant = {frozenset((each.first, each.second)) for each in table.every_pair if each.p < 0.05}
    assert {frozenset(f"{name} · linear · frozen" for name in (each.better, each.worse)) for each in found.pairs} == (
        significant
    )
    target, on_b = scores(ON_B, 2)
    patient = binary_table(on_b["one"], target)["patient"].to_numpy()
    raw = []
    for each in found.pairs:
        expected = compare_auroc(target, on_b[each.better], on_b[each.worse], patient)
        assert each.on_a.value > 0
        assert (each.on_b.value, each.on_b.low) == (pytest.approx(expected.value), pytest.approx(expected.low))
        assert each.keeps_sign == (expected.value > 0)
        raw.append(expected.p)
    assert [each.p_b for each in found.pairs] == pytest.approx(holm(raw).tolist())
    signs = {(each.better, each.worse): each.keeps_sign for each in found.pairs}
    assert signs["one", "two"] is False
    assert signs["two", "three"] is True
    assert found.kept == sum(signs.values())
    target_a, on_a = scores(ON_A, 1)
    tau = stats.kendalltau(
        [auroc(target_a, on_a[name]) for name in found.models], [auroc(target, on_b[name]) for name in found.models]
    ).statistic
    assert found.tau is not None
    assert found.tau.tau == pytest.approx(tau)
    assert found.tau.low is not None


def test_with_one_folder_runs_with_test_data_are_b(tmp_path: Path) -> None:
    a = made(tmp_path, ON_A, 1)
    b = made(tmp_path, ON_B, 2, test_name="else", made={"split_hash": "b"})
    at_home, elsewhere = by_test_data([*a, *b])
    assert ({run.folder for run in at_home}, {run.folder for run in elsewhere}) == (
        {run.folder for run in a}, {run.folder for run in b},
    )  # fmt: skip
    done = CliRunner().invoke(app, ["compare", str(tmp_path), "--external"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "held against ptx-cls on else (trained on toy) (B)" in done.output
    assert "that were significant on A keep their sign on B" in done.output
    assert "turned" in done.output
    (written,) = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--external", "--json"]).output)
    assert written["kept"] == sum(each["keeps_sign"] for each in written["pairs"])


def test_tasks_of_one_name_are_held_against_each_other_alone_else_those_of_one_kind(tmp_path: Path) -> None:
    a = [*made(tmp_path / "a", ON_A, 1, task="edema"), *made(tmp_path / "a", ON_A, 3, task="mass")]
    b = made(tmp_path / "b", ON_B, 2, task="edema", test_name="else")
    assert [(each.task_a, each.task_b) for each in external_validation(a, b)] == [("edema", "edema")]
    other = made(tmp_path / "c", ON_B, 2, task="effusion", test_name="else")
    assert [(each.task_a, each.task_b) for each in external_validation(a, other)] == [
        ("edema", "effusion"), ("mass", "effusion"),
    ]  # fmt: skip


def test_where_nothing_fits_one_sentence_says_what(tmp_path: Path) -> None:
    a = made(tmp_path / "a", ON_A, 1)
    with pytest.raises(EvalfmError, match="ptx-cls and ptx-cls were both tested on toy"):
        external_validation(a, made(tmp_path / "b", ON_B, 2))
    with pytest.raises(EvalfmError, match="share 1 encoders"):
        external_validation(a, made(tmp_path / "c", {"one": 1.0, "six": 0.5}, 2, test_name="else"))
    target = np.random.default_rng(0).normal(size=40)
    table = binary_table(target, target > 0).drop(columns=["score_ptx", "threshold"]).assign(prediction=target)
    measured = make_run(tmp_path / "d", table, kind="regression")
    with pytest.raises(EvalfmError, match="B has no binary task"):
        external_validation(a, [measured])
    with pytest.raises(EvalfmError, match="no run of the second data set"):
        external_validation(a, [])

    def asked(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["compare", *map(str, arguments), "--external"])
        assert done.exit_code != 0
        return done.output + str(done.exception)

    folder = tmp_path / "a"
    assert "takes one folder or two" in asked(folder, folder, folder)
    assert "takes no --cohort" in asked(folder, folder, "--margin", ".1")


def test_where_nothing_was_significant_on_a_that_is_said(tmp_path: Path) -> None:
    alike = dict.fromkeys(ON_A, 1.0)
    made(tmp_path / "a", alike, 1)
    made(tmp_path / "b", alike, 2, test_name="else")
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--external"])
    assert "No pair of 5 encoders was significant on A" in done.output
