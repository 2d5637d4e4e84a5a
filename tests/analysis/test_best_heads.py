from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.best_heads import best_heads, one_line_each
from evalfm.analysis.choose import choose
from evalfm.analysis.compare import compare
from evalfm.analysis.report.page import report_page
from evalfm.analysis.table import task_tables
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.auroc import auroc

from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(200) < 0.4
# Of each encoder and head how strong the signal is on val and on test: the orders are opposite.
PLANTED = {("one", "linear"): (0.5, 2.0), ("one", "mlp"): (2.0, 0.8), ("two", "linear"): (1.5, 1.4)}


def on_val(scores: np.ndarray, target: np.ndarray = TARGET) -> pd.DataFrame:
    table = binary_table(scores, target)
    return table.assign(id="v" + table["id"], patient="v" + table["patient"])


def planted(out: Path, seed: int = 0) -> list[Run]:
    return [
        make_run(
            out,
            binary_table(signal(TARGET, test, 10 * seed + place), TARGET),
            encoder=encoder,
            head=head,
            seed=seed,
            val=on_val(signal(TARGET, val, 100 + 10 * seed + place)),
        )
        for place, ((encoder, head), (val, test)) in enumerate(PLANTED.items())
    ]


def test_the_head_is_that_of_val_where_test_has_another_order(tmp_path: Path) -> None:
    (table,) = task_tables(planted(tmp_path))
    (found,) = best_heads(table)
    assert found.encoder == "one"
    assert found.chosen == ("one", "mlp", "frozen")
    expected = [auroc(TARGET, signal(TARGET, PLANTED["one", head][0], 100 + place)) for place, head in
                enumerate(("linear", "mlp"))]  # fmt: skip
    assert found.values == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert found.sentence == (
        f"Best head of one by val: mlp {expected[1]:.3f} (auroc on 200 val images; linear {expected[0]:.3f})."
    )
    assert [(line.encoder, line.head) for line in one_line_each(table, [found]).lines] == [
        ("two", "linear"), ("one", "mlp"),
    ]  # fmt: skip
    # On test the other one is better.
    assert next(line.head for line in table.lines if line.encoder == "one") == "linear"


def test_compare_takes_one_line_of_each_encoder_and_corrects_for_these_pairs(tmp_path: Path) -> None:
    made = planted(tmp_path)
    (every,) = compare(made)
    assert {(each.encoder, each.head): each.best_by_val for each in every.entries} == {
        ("one", "linear"): False, ("one", "mlp"): True, ("two", "linear"): None,
    }  # fmt: skip
    assert every.pairs == 3
    (table,) = compare(made, heads="best-by-val")
    assert [(each.encoder, each.head) for each in table.entries] == [("two", "linear"), ("one", "mlp")]
    assert (table.pairs, table.one_line_each) == (1, True)


def test_choose_never_takes_the_head_that_test_likes(tmp_path: Path) -> None:
    found = choose(planted(tmp_path), "ptx-cls")
    assert all((each.encoder, each.head) != ("one", "linear") for each in found.candidates)
    assert dict(found.excluded)["one · linear · frozen"].startswith("its mlp is better on val (auroc 0.9")
    assert "Best head of one by val: mlp 0.9" in found.paragraph


def test_seeds_are_averaged_on_val_too(tmp_path: Path) -> None:
    made = [*planted(tmp_path, 0), *planted(tmp_path, 1)]
    (found,) = best_heads(task_tables(made)[0])
    values = [auroc(TARGET, signal(TARGET, 0.5, 100 + 10 * seed)) for seed in (0, 1)]
    assert found.values[0] == pytest.approx(np.mean(values))


def folded(scores: np.ndarray, val: bool) -> pd.DataFrame:
    table = on_val(scores) if val else binary_table(scores, TARGET)
    return table.assign(fold=np.arange(len(TARGET)) % 2)


def test_folds_are_measured_one_by_one_and_averaged(tmp_path: Path) -> None:
    # In the second fold all scores are shifted, so that pooled over folds they would rank the heads otherwise.
    fold = np.arange(len(TARGET)) % 2
    strong, weak = signal(TARGET, 1.5, 1), signal(TARGET, 1.2, 2)
    shifted = np.clip(strong * 0.3 + 0.6 * fold, 0, 1)
    made = [
        make_run(tmp_path, folded(strong, False), head=head, val=folded(val, True))
        for head, val in (("linear", weak), ("mlp", shifted))
    ]
    (found,) = best_heads(task_tables(made)[0])
    of_folds = [np.mean([auroc(TARGET[fold == k], each[fold == k]) for k in (0, 1)]) for each in (weak, shifted)]
    assert found.values == (pytest.approx(of_folds[0]), pytest.approx(of_folds[1]))
    assert found.chosen == ("one", "mlp", "frozen")
    assert auroc(TARGET, shifted) < auroc(TARGET, weak)


def test_ties_go_to_the_first_head_and_errors_are_better_small(tmp_path: Path) -> None:
    scores = signal(TARGET, 1.0, 3)
    made = [
        make_run(tmp_path / "a", binary_table(signal(TARGET, strength, 4), TARGET), head=head, val=on_val(scores))
        for head, strength in (("mlp", 2.0), ("knn", 0.5))
    ]
    (found,) = best_heads(task_tables(made)[0])
    assert found.chosen == ("one", "knn", "frozen")
    assert all(" is as good on val " in reason for reason in found.passed_over.values())
    target = np.random.default_rng(1).normal(size=60)
    values = pd.DataFrame({"id": [f"{row:03}" for row in range(60)], "patient": [f"{row:03}" for row in range(60)]})
    made = [
        make_run(
            tmp_path / "b",
            values.assign(target=target, prediction=target + error),
            kind="regression",
            head=head,
            val=values.assign(id="v" + values["id"], target=target, prediction=target + 1 - error),
        )
        for head, error in (("ridge", 0.1), ("mlp", 0.6))
    ]
    (found,) = best_heads(task_tables(made)[0])
    assert (found.metric, found.chosen) == ("mae", ("one", "mlp", "frozen"))


def test_where_val_cannot_tell_it_is_said_and_nothing_is_chosen_on_test(tmp_path: Path) -> None:
    made = [
        make_run(tmp_path, binary_table(signal(TARGET, strength, 4), TARGET), head=head)
        for head, strength in (("linear", 2.0), ("mlp", 0.5))
    ]
    (found,) = best_heads(task_tables(made)[0])
    assert found.chosen is None
    assert found.sentence == (
        "No head of one could be chosen on val (the run of linear keeps no val predictions; make it again "
        "with --force)."
    )
    with pytest.raises(EvalfmError, match=r"No head of one could be chosen on val .* name one head with --head"):
        compare(made, heads="best-by-val")
    assert "No head of one could be chosen on val" in choose(made, "ptx-cls").paragraph
    none = np.zeros(200, dtype=bool)
    made = [
        make_run(tmp_path / "none", binary_table(signal(TARGET, 1, place), TARGET), head=head,
                 val=on_val(signal(none, 1, place), none))
        for place, head in enumerate(("linear", "mlp"))
    ]  # fmt: skip
    assert "there are 0 and 200" in best_heads(task_tables(made)[0])[0].sentence


def test_few_val_patients_choose_though_no_auroc_of_them_would_be_reported(tmp_path: Path) -> None:
    few = np.arange(40) < 5
    made = [
        make_run(tmp_path, binary_table(signal(TARGET, 1, place), TARGET), head=head,
                 val=on_val(signal(few, strength, place), few))
        for place, (head, strength) in enumerate({"linear": 0.0, "mlp": 4.0}.items())
    ]  # fmt: skip
    (found,) = best_heads(task_tables(made)[0])
    assert found.chosen == ("one", "mlp", "frozen")
    assert found.values[1] == pytest.approx(auroc(few, signal(few, 4.0, 1)))
    assert "auroc on 40 val images" in found.sentence


def test_heads_of_other_val_images_or_other_train_images_are_not_held_against_each_other(tmp_path: Path) -> None:
    scores, other = signal(TARGET, 1.0, 3), TARGET[:150]
    made = [
        make_run(tmp_path / "a", binary_table(scores, TARGET), val=on_val(scores)),
        make_run(tmp_path / "a", binary_table(scores, TARGET), head="mlp", val=on_val(signal(other, 3, 1), other)),
    ]
    assert "validated on different images" in best_heads(task_tables(made)[0])[0].sentence
    made = [
        make_run(tmp_path / "b", binary_table(scores, TARGET), val=on_val(scores)),
        make_run(tmp_path / "b", binary_table(scores, TARGET), head="mlp", val=on_val(scores), settings={"shots": 5}),
    ]
    assert best_heads(task_tables(made)[0]) == ()


def test_the_verbs_and_the_page_say_it(tmp_path: Path) -> None:
    made = planted(tmp_path)

    def asked(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output

    assert "mlp (best by val)" in asked("compare", tmp_path)
    only = json.loads(asked("compare", tmp_path, "--head", "best-by-val", "--json"))[0]
    assert [(each["encoder"], each["head"]) for each in only["entries"]] == [("two", "linear"), ("one", "mlp")]
    assert only["heads"][0]["best"] == 1
    page = report_page(made)
    assert "mlp (best by val)" in page
    assert "Every head and adaptation" in page
    assert "of several heads of an encoder the one that is best on val speaks for it. Ranks are sets" in page
    assert "Best head of one by val: mlp" in page
