"""Gates: what passes, what fails, and what must never pass silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.analysis.compare import compare
from evalfm.analysis.gates import Gate, fail_under, gated_lines, no_worse_than
from evalfm.errors import EvalfmError
from evalfm.run import RECORD, Run
from evalfm.statistics.auroc import auroc

from ..cli.typed import Shown, evalfm
from ..statistics.paired import compare_auroc
from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4
GOOD, SAME, POOR = (signal(TARGET, strength, seed) for seed, strength in enumerate((2.0, 1.95, 0.6)))


def binary(out: Path, encoder: str, score: np.ndarray, **facts: object) -> Run:
    return make_run(out, binary_table(score, TARGET), encoder=encoder, **facts)


def values(out: Path, encoder: str, spread: float, *, task: str = "ctr") -> Run:
    generator = np.random.default_rng(len(encoder))
    truth = generator.normal(0.5, 0.1, 120)
    table = pd.DataFrame(
        {
            "id": [f"i{row:03}" for row in range(120)],
            "patient": [f"p{row:03}" for row in range(120)],
            "target": np.random.default_rng(1).normal(0.5, 0.1, 120),
        }
    )
    table["prediction"] = table["target"] + spread * truth.std() * generator.normal(size=120)
    return make_run(out, table, encoder=encoder, kind="regression", task=task)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two encoders and a baseline that no gate is about."""
    out = tmp_path / "runs"
    binary(out, "good", GOOD)
    binary(out, "poor", POOR)
    binary(out, "constant", np.full(300, 0.4), baseline=True)
    return out


def gated(*arguments: object) -> Shown:
    return evalfm("compare", *arguments)


def gate_lines(shown: Shown) -> list[str]:
    return [line for line in shown.stdout.splitlines() if line.startswith("Gate ")]


def test_every_line_that_is_no_baseline_must_reach_the_figure(runs: Path) -> None:
    areas = {"good": auroc(TARGET, GOOD), "poor": auroc(TARGET, POOR)}
    assert areas["poor"] < 0.75 < areas["good"]
    passed = gated(runs, "--fail-under", "auroc=.5")
    assert passed.returncode == 0, passed.stderr
    assert [line.partition(" on ")[0] for line in gate_lines(passed)] == [
        "Gate passed: good · linear · frozen",
        "Gate passed: poor · linear · frozen",
    ]
    failed = gated(runs, "--fail-under", "auroc=.75")
    assert failed.returncode == 1
    last = gate_lines(failed)[-1]
    assert last.startswith("Gate failed: poor · linear · frozen on ptx-cls")
    assert f"auroc {areas['poor']:.3f} is under 0.75." in last
    one = gated(runs / "good", runs / "constant", "--fail-under", "auroc=.75")
    assert one.returncode == 0, "a baseline is never gated"


def test_the_value_or_the_end_of_the_interval(runs: Path) -> None:
    (table,) = compare([Run.read(path.parent) for path in (runs / "good").rglob(RECORD)])
    estimate = table.entries[0].estimate
    assert estimate.value is not None
    assert estimate.low is not None
    between = (estimate.value + estimate.low) / 2
    assert gated(runs / "good", "--fail-under", f"auroc={between}").returncode == 0
    failed = gated(runs / "good", "--fail-under", f"auroc:low={between}")
    assert failed.returncode == 1
    assert "the lower end of auroc" in gate_lines(failed)[0]
    assert gated(runs / "good", "--fail-under", f"auroc:low={estimate.low - 1e-6}").returncode == 0


def test_a_figure_that_equals_its_bound_passes_and_one_that_rounds_to_it_does_not(runs: Path) -> None:
    (run,) = [Run.read(path.parent) for path in (runs / "good").rglob(RECORD)]
    value = run.metrics["auroc"].value
    tables = gated_lines([run])
    assert value is not None
    assert fail_under([Gate("", "auroc", value)], tables).passed
    just = fail_under([Gate("", "auroc", value + 1e-7)], tables)
    assert not just.passed
    said = just.verdicts[0].sentence
    assert f"{value:.7f}"[:7] in said, "the figure is shown with the digits that decide"


def test_the_gate_of_an_error_is_an_upper_bound(tmp_path: Path) -> None:
    run = values(tmp_path, "one", 0.3)
    mae = run.metrics["mae"]
    assert mae.value is not None
    assert mae.high is not None
    assert gated(tmp_path, "--fail-under", f"mae={mae.value * 1.01}").returncode == 0
    failed = gated(tmp_path, "--fail-under", f"mae={mae.value * 0.99}")
    assert failed.returncode == 1
    assert "is above" in gate_lines(failed)[0]
    assert gated(tmp_path, "--fail-under", f"mae:high={mae.value * 1.01}").returncode == 1
    assert gated(tmp_path, "--fail-under", f"mae:high={mae.high * 1.01}").returncode == 0
    wrong = gated(tmp_path, "--fail-under", "mae:low=.1")
    assert wrong.returncode == 2
    assert "mae:high=0.1" in wrong.stderr


def test_several_gates_and_a_task_that_one_says_nothing_of(runs: Path) -> None:
    values(runs, "good", 0.3)
    shown = gated(runs, "--fail-under", "auroc=.5", "--fail-under", "mae=1")
    assert shown.returncode == 0, shown.stderr
    said = "\n".join(gate_lines(shown))
    assert said.count("passed") == 3
    assert "auroc=.5 says nothing of ctr on toy" in said
    assert "mae=1 says nothing of ptx-cls on toy" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-under", "aurok=.9"], "Did you mean 'auroc'"),
        (["--fail-under", "mae=.9"], "There is no metric of a gate among these runs 'mae'"),
        (["--fail-under", "auroc"], "is no gate"),
        (["--fail-under", "auroc=high"], "is no gate"),
        (["--fail-under", "auroc=nan"], "is no gate"),
        (["--fail-under", "auroc:middle=.9"], "is no gate"),
        (["--fail-under", "auroc:high=.9"], "auroc:low=0.9"),
        (["--fail-under", "auprc_chance=.1"], "no gate can be set on one side"),
        (["--task", "ctr", "--fail-under", "auroc=.9"], "There is no task among these runs 'ctr'"),
        (["--external", "--fail-under", "auroc=.9"], "--external takes no"),
        (["--no-worse-than", "{nowhere}", "--margin", ".02"], "There is no folder"),
        (["--no-worse-than", "{empty}", "--margin", ".02"], "There is no run in"),
        (["--no-worse-than", "{good}"], "takes --margin"),
        (["--no-worse-than", "{good}", "--margin", ".02", "--reference", "good"], "no --reference"),
        (["--no-worse-than", "{good}", "--margin", "0"], "positive"),
        (["--no-worse-than", "{constant}", "--margin", ".02"], "baselines alone"),
        (["--no-worse-than", "{other}", "--margin", ".02"], "No run was held against"),
        (["--no-worse-than", "{patients}", "--margin", ".02"], "other images or labels of ptx-cls"),
        (["--no-worse-than", "{runs}", "--margin", ".02"], "No run was held against"),
    ],
)
def test_a_wrong_gate_is_a_mistake_and_never_passes(
    runs: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    values(tmp_path / "other", "good", 0.3)
    make_run(tmp_path / "patients", binary_table(GOOD[:200], TARGET[:200]), encoder="good")
    places = {name: tmp_path / name for name in ("nowhere", "empty", "other", "patients")}
    places |= {"good": runs / "good", "constant": runs / "constant", "runs": runs}
    shown = gated(runs, *(each.format(**places) for each in arguments))
    assert shown.returncode == 2, shown.stdout
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_metric_that_some_lines_lack_is_a_mistake(runs: Path) -> None:
    (path,) = (runs / "poor").rglob(RECORD)
    content = json.loads(path.read_text())
    del content["metrics"]["sensitivity"]
    path.write_text(json.dumps(content))
    shown = gated(runs, "--fail-under", "sensitivity=.01")
    assert shown.returncode == 2
    assert "poor · linear · frozen on ptx-cls on toy was not measured by sensitivity" in shown.stderr


def test_an_absent_figure_fails_and_so_does_an_absent_interval(runs: Path) -> None:
    (path,) = (runs / "good").rglob(RECORD)
    content = json.loads(path.read_text())
    content["metrics"]["brier"] |= {"low": None, "high": None}
    content["metrics"]["ppv"] |= {"value": None, "low": None, "high": None, "reason": "nothing was called positive"}
    path.write_text(json.dumps(content))
    assert gated(runs / "good", "--fail-under", "brier=1").returncode == 0
    assert gated(runs / "good", "--fail-under", "brier:high=1").returncode == 1
    absent = gated(runs / "good", "--fail-under", "ppv=0")
    assert absent.returncode == 1
    assert "nothing was called positive" in gate_lines(absent)[0]


def test_no_worse_is_decided_by_the_end_of_the_paired_interval(tmp_path: Path) -> None:
    binary(tmp_path / "new", "same", SAME)
    binary(tmp_path / "old", "good", GOOD)
    found = compare_auroc(TARGET, SAME, GOOD, binary_table(GOOD, TARGET)["patient"].to_numpy())
    assert found.low is not None
    assert found.low < found.value
    wide, narrow = -found.low * 1.01, -found.low * 0.99
    assert -found.value < narrow, "the value alone would pass"
    passed = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", wide)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert f"auroc {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" in gate_lines(passed)[-1]
    failed = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", narrow)
    assert failed.returncode == 1
    assert "not inside the margin" in gate_lines(failed)[-1]
    better = gated(tmp_path / "old", "--no-worse-than", tmp_path / "new", "--margin", ".5")
    assert better.returncode == 0


def test_of_errors_the_other_end_decides(tmp_path: Path) -> None:
    values(tmp_path / "old", "first", 0.3)
    values(tmp_path / "new", "second!", 0.6)
    failed = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", ".001")
    assert failed.returncode == 1
    assert gated(tmp_path / "old", "--no-worse-than", tmp_path / "new", "--margin", ".001").returncode == 0


def test_training_variance_is_counted_where_both_have_refits(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)

    def refits(score: np.ndarray) -> list[np.ndarray]:
        return [np.clip(score + generator.normal(0, 0.15, len(score)), 0, 1) for _ in range(10)]

    old = binary(tmp_path / "old", "good", GOOD, refits=refits(GOOD))
    new = binary(tmp_path / "new", "same", SAME, refits=refits(SAME))
    tables = gated_lines([new])
    (counted,) = no_worse_than([old], "old", tables, 0.5).verdicts
    bare_old, bare_new = binary(tmp_path / "a", "good", GOOD), binary(tmp_path / "b", "same", SAME)
    (bare,) = no_worse_than([bare_old], "old", gated_lines([bare_new]), 0.5).verdicts
    assert counted.low is not None
    assert bare.low is not None
    assert counted.value == pytest.approx(bare.value)
    assert counted.low < bare.low
    assert counted.sentence.endswith("of encoders.")
    assert bare.sentence.endswith("of these trained heads.")


def test_another_version_of_the_same_encoder_is_held_against_the_earlier_one(tmp_path: Path) -> None:
    binary(tmp_path / "new", "mine", POOR, made={"weights_digest": "b" * 64})
    binary(tmp_path / "old", "mine", GOOD, made={"weights_digest": "a" * 64})
    failed = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", ".02")
    assert failed.returncode == 1
    assert "weights bbbbbbbb" in gate_lines(failed)[-1]


def test_a_copy_of_the_earlier_run_passes_and_says_so(tmp_path: Path) -> None:
    binary(tmp_path / "old", "mine", GOOD)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shown = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", ".02")
    assert shown.returncode == 0, shown.stderr
    assert "is the same run as" in gate_lines(shown)[-1]


def test_a_run_of_a_stronger_tie_is_refused_in_words(tmp_path: Path) -> None:
    binary(tmp_path / "old", "mine", GOOD, settings={"associate": "tube=0.0"}, made={"weights_digest": "a" * 64})
    binary(tmp_path / "new", "mine", POOR, settings={"associate": "tube=0.5"}, made={"weights_digest": "b" * 64})
    shown = gated(tmp_path / "new", "--no-worse-than", tmp_path / "old", "--margin", ".02")
    assert shown.returncode == 2
    assert "tied to tube=0.5" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_no_run_of_a_stronger_tie_goes_by_unheld(tmp_path: Path) -> None:
    binary(tmp_path, "mine", GOOD, settings={"associate": "tube=0.0"}, made={"weights_digest": "a" * 64})
    binary(tmp_path, "mine", POOR, settings={"associate": "tube=0.5"}, made={"weights_digest": "b" * 64})
    refused = gated(tmp_path, "--fail-under", "auroc=.1")
    assert refused.returncode == 2
    assert "tied to tube=0.5" in refused.stderr


def test_seeds_of_one_line_are_no_two_runs(tmp_path: Path) -> None:
    binary(tmp_path / "old", "mine", GOOD, seed=0)
    binary(tmp_path / "new", "mine", SAME, seed=1)
    with pytest.raises(EvalfmError, match="differ in their seeds alone"):
        no_worse_than(
            [Run.read(path.parent) for path in (tmp_path / "old").rglob(RECORD)],
            "old",
            gated_lines(Run.read(path.parent) for path in (tmp_path / "new").rglob(RECORD)),
            0.1,
        )


def test_the_head_that_val_chose_speaks_for_its_encoder(tmp_path: Path) -> None:
    val = binary_table(signal(TARGET, 1.5, 9), TARGET).assign(id=[f"v{row}" for row in range(300)])
    bad = val.assign(score_ptx=np.random.default_rng(5).random(300))
    binary(tmp_path, "mine", GOOD, head="linear", val=val)
    binary(tmp_path, "mine", POOR, head="knn", val=bad)
    assert gated(tmp_path, "--fail-under", "auroc=.8").returncode == 1
    chosen = gated(tmp_path, "--head", "best-by-val", "--fail-under", "auroc=.8")
    assert chosen.returncode == 0, chosen.stdout
    assert len(gate_lines(chosen)) == 1


def test_json_holds_the_gates_and_the_sentences_go_to_the_other_stream(runs: Path) -> None:
    shown = gated(runs, "--fail-under", "auroc=.75", "--json")
    assert shown.returncode == 1
    gates = json.loads(shown.stdout)[-1]["gates"]
    assert gates["passed"] is False
    assert {each["line"]: each["passed"] for each in gates["verdicts"]} == {
        "good · linear · frozen": True,
        "poor · linear · frozen": False,
    }
    assert gates["verdicts"][0]["low"] < gates["verdicts"][0]["value"] < gates["verdicts"][0]["high"]
    assert "Gate failed: poor" in shown.stderr
