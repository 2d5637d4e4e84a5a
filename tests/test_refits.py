"""Refits of a run as a table of anybody's: what the record speaks of is read, all else refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.errors import EvalfmError
from evalfm.refits import REFIT, REFITS
from evalfm.run import RECORD, Run

from .analysis.made import binary_table, make_run, signal, without_digests

N, COUNT = 40, 3
TARGET = (np.arange(N) % 2).astype(float)
OWN, *AGAIN = (signal(TARGET, 1.0, seed) for seed in range(COUNT + 1))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    table = binary_table(OWN, TARGET).assign(age=50.0 + np.arange(N))
    return without_digests(make_run(tmp_path, table, refits=AGAIN))


def test_refits_of_another_run_are_refused_though_they_fit(tmp_path: Path) -> None:
    mine = make_run(tmp_path / "mine", binary_table(OWN, TARGET), refits=AGAIN)
    other = make_run(tmp_path / "other", binary_table(OWN, TARGET), refits=AGAIN[::-1])
    assert list(mine.refits()) == [0, 1, 2]
    (mine.folder / REFITS).write_bytes((other.folder / REFITS).read_bytes())
    with pytest.raises(EvalfmError, match=r"refits\.parquet is not the table that this run was written with"):
        Run.read(mine.folder).refits()


def test_a_refit_is_the_runs_test_rows_with_other_scores(run: Run) -> None:
    found, own = run.refits(), run.test_predictions()
    assert list(found) == [0, 1, 2]
    for number, table in found.items():
        assert table["id"].tolist() == own["id"].tolist()
        assert table["score_ptx"].to_numpy() == pytest.approx(AGAIN[number], abs=1e-6)
        for name in ("patient", "target", "age"):
            assert table[name].equals(own[name])


def test_rows_may_stand_in_any_order(run: Run) -> None:
    path = run.folder / REFITS
    pd.read_parquet(path).sample(frac=1, random_state=1).to_parquet(path, index=False)
    assert run.refits()[1]["score_ptx"].to_numpy() == pytest.approx(AGAIN[1], abs=1e-6)


def test_a_run_without_refits_has_none(tmp_path: Path) -> None:
    plain = make_run(tmp_path, binary_table(OWN, TARGET))
    assert plain.refits() == {}
    content = json.loads((plain.folder / RECORD).read_text())
    # As older versions wrote it.
    del content["refits"]
    (plain.folder / RECORD).write_text(json.dumps(content))
    assert Run.read(plain.folder).refits() == {}


def test_what_is_said_of_test_images_is_never_taken_from_a_refit(run: Run) -> None:
    path = run.folder / REFITS
    stored = pd.read_parquet(path)
    stored.drop(columns="threshold").assign(target=1 - TARGET[0], threshold=0.25).to_parquet(path, index=False)
    table = run.refits()[0]
    assert (table["threshold"] == 0.25).all()
    assert table["target"].tolist() == TARGET.tolist()


def changed(column: str, value: object, row: int = 5) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table.infer_objects()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.iloc[:-1], "does not answer each"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "more than the record counts"),
        (lambda table: pd.concat([table.iloc[1:], table.iloc[1:2]]), "does not answer each"),
        (changed("id", "stranger"), "does not answer each"),
        (changed(REFIT, 7), "not those that the record counts"),
        (changed(REFIT, np.nan), "'refit' must"),
        (changed("score_ptx", np.inf), "score_ptx"),
        (changed("score_ptx", np.nan), "score_ptx"),
        (changed("threshold", np.nan), "threshold"),
        (lambda table: table.drop(columns="score_ptx"), "no column 'score_ptx'"),
        (lambda table: table.drop(columns="threshold"), "no column 'threshold'"),
        (lambda table: table.drop(columns=REFIT), "no column 'refit'"),
        (lambda table: table.assign(score_ptx="high"), "must hold numbers"),
        (lambda table: table.assign(score_ptx=[[0.1]] * len(table)), "no words or numbers"),
        (lambda table: table.assign(calibrated_ptx=1.5), "calibrated_ptx"),
    ],
)
def test_a_table_that_is_not_what_the_record_says_is_one_sentence(
    run: Run, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    path = run.folder / REFITS
    change(pd.read_parquet(path).reset_index(drop=True)).to_parquet(path, index=False)
    with pytest.raises(EvalfmError, match=r"is not what its run.json says .*copy the whole run again") as said:
        run.refits()
    assert words in str(said.value)


def test_a_file_that_is_gone_or_damaged_is_one_sentence(run: Run) -> None:
    (run.folder / REFITS).write_bytes(b"PAR1 nothing")
    with pytest.raises(EvalfmError, match="no Parquet"):
        run.refits()
    (run.folder / REFITS).unlink()
    with pytest.raises(EvalfmError, match=f"has no {REFITS}"):
        run.refits()


@pytest.mark.parametrize("numbers", [[0, 0, 1], [-1, 0, 1], list(range(5000)), [1 << 20, 0, 1]])
def test_a_record_of_draws_that_cannot_be_is_refused(run: Run, numbers: list[int]) -> None:
    content = json.loads((run.folder / RECORD).read_text())
    content["refits"]["numbers"] = numbers
    (run.folder / RECORD).write_text(json.dumps(content))
    with pytest.raises(EvalfmError, match="cannot be read as a run"):
        Run.read(run.folder)
