"""Metrics of other packages: measured where they are named, part of the key, read where their package is not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.pairing import pair
from evalfm.analysis.report.methods import paired_tests
from evalfm.analysis.table import facts_of, task_tables
from evalfm.cli.app import app
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics.conformance import draw
from evalfm.metrics.registry import (
    METRICS,
    check_metrics,
    compute_metrics,
    list_metrics,
    measurable,
    metric_of,
    metric_plugins,
    metrics_of,
)
from evalfm.probing.predict import predict
from evalfm.probing.probe import probe
from evalfm.run import Run, find_runs
from evalfm.tasks.task import load_task

CODE = """
import numpy as np
from evalfm.metrics import Contrast, Metric, mean_among
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Statistic

def score(rows):
    return rows.score * {factor}

def mean(rows):
    return mean_among(rows, score(rows), undefined="no image")

class Flat(Statistic):
    def __init__(self, patients):
        self.patients = patients

    def values(self, weights):
        return 0.5

def broken(*given):
    return 1 / 0

MEAN = Metric("mean-score", ("binary",), mean, ("multilabel",), "points", "lower", words="x")
OTHER = Metric("other", ("binary",), mean, beside=("mean-score",))
BROKEN = Metric("broken", ("binary",), broken, contrast=Contrast("{{}}", broken, broken), words="x")
NUMBER = Metric("number", ("binary",), lambda rows: 0.5)
FLAT = Metric("flat", ("binary",), lambda rows: Measured(Flat(rows.patients.count), 1, "none"))
FAR = Metric("far", ("segmentation",), mean, ("segmentation",))
AWAY = Metric("far_away", ("segmentation",), mean, ("segmentation",))
STRANGE = Metric("strange", ("binary",), mean, beside=("no-such-metric",))
"""
NAMES = {"mean-score": "MEAN", "other": "OTHER", "broken": "BROKEN", "number": "NUMBER", "flat": "FLAT"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """Put ``their-metrics`` on the path; what it gives takes it away again."""
    place = tmp_path / "site"
    place.mkdir()

    def gone() -> None:
        sys.modules.pop("their_metrics", None)
        if str(place) in sys.path:
            sys.path.remove(str(place))

    def installed(factor: float = 1.0, version: str = "2.5", **more: str) -> Callable[[], None]:
        gone()
        (place / "their_metrics.py").write_text(CODE.format(factor=factor))
        for stale in ("their_metrics.dist-info", "__pycache__"):
            shutil.rmtree(place / stale, ignore_errors=True)
        info = place / "their_metrics.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-metrics\nVersion: {version}\n")
        points = "\n".join(f"{name} = their_metrics:{value}" for name, value in {**NAMES, **more}.items())
        (info / "entry_points.txt").write_text(f"[evalfm.metrics]\n{points}\n")
        monkeypatch.syspath_prepend(str(place))
        return gone

    yield installed
    gone()


def card(folder: Path, *metrics: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(
        f"schema: 1\nname: mine\nkind: binary\ntitle: x?\ntarget: [square]\nmetrics: [{', '.join(metrics)}]\n"
    )
    return str(path)


def runs_of(task: str, data: Manifest, out: Path) -> list[Run]:
    return probe("pixels", task, data=data, heads=["linear", "knn"], baselines="none", out=out)


def test_a_run_has_those_that_its_task_names_and_its_key_says_which(
    install: Callable[..., Callable[[], None]], squares: Manifest, tmp_path: Path
) -> None:
    install()
    plain = runs_of(card(tmp_path, "auroc"), squares, tmp_path)[0]
    assert set(plain.metrics) <= {metric.name for metric in METRICS}
    assert plain.record.plugged_metrics == {}
    run = runs_of(card(tmp_path, "auroc", "mean-score"), squares, tmp_path)[0]
    assert set(run.metrics) == {*plain.metrics, "mean-score"}
    scores = run.test_predictions()["score_square"]
    assert run.metrics["mean-score"].value == pytest.approx(scores.mean())
    assert run.metrics["mean-score"].low < scores.mean() < run.metrics["mean-score"].high
    said = run.record.plugged_metrics["mean-score"]
    assert (said.package, said.unit, said.better) == ("their-metrics 2.5", "points", "lower")
    again = runs_of(card(tmp_path, "auroc", "mean-score"), squares, tmp_path)[0]
    assert again.folder == run.folder
    install(factor=2.0)
    changed = runs_of(card(tmp_path, "auroc", "mean-score"), squares, tmp_path)[0]
    assert changed.metrics["mean-score"].value == pytest.approx(2 * scores.mean())
    install(factor=2.0, version="3")
    assert runs_of(card(tmp_path, "auroc", "mean-score"), squares, tmp_path)[0].folder != changed.folder
    # What no task names moves no run.
    assert runs_of(card(tmp_path, "auroc"), squares, tmp_path)[0].folder == plain.folder


def test_a_run_is_read_where_the_package_is_not(
    install: Callable[..., Callable[[], None]], squares: Manifest, tmp_path: Path
) -> None:
    gone = install()
    out = tmp_path / "runs"
    runs = runs_of(card(tmp_path, "mean-score", "other", "auroc"), squares, out)
    there = task_tables(find_runs(out))
    gone()
    with pytest.raises(UnknownNameError, match="no metric 'mean-score'"):
        metric_of("mean-score")
    (table,) = task_tables(find_runs(out))
    assert [line.head for line in table.lines] == [line.head for line in there[0].lines]
    means = [line.metrics["mean-score"].value for line in table.lines]
    assert means == sorted(means), "lower is better, as the run says"
    assert facts_of("mean-score", runs).direction == "lower"
    assert facts_of("other", runs).beside == ("mean-score",)
    shown = CliRunner().invoke(app, ["ls", "runs", str(out), "--metrics", "all"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert any("mean-score" in line and "points" in line and "lower" in line for line in shown.stdout.splitlines())
    for verb in (["report", str(out), "--out", str(tmp_path / "page.html")], ["show", "run", str(runs[0].folder)]):
        done = CliRunner().invoke(app, verb)
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["compare", str(out)])
    sentence = "mine is compared by mean-score of their-metrics 2.5, which is not installed; install it, or name"
    assert sentence in " ".join((done.output + str(done.exception or "")).split())
    assert paired_tests(runs) == []
    done = CliRunner().invoke(app, ["compare", str(out), "--metric", "auroc"])
    assert done.exit_code == 0, done.output
    assert len(predict(runs[0], squares, out=tmp_path / "predicted").table) == len(squares)


def test_runs_are_paired_by_one_that_their_task_does_not_name(
    install: Callable[..., Callable[[], None]], squares: Manifest, tmp_path: Path
) -> None:
    install()
    runs_of(card(tmp_path, "auroc"), squares, tmp_path / "runs")
    (table,) = task_tables(find_runs(tmp_path / "runs"))
    paired = pair(table.lines, "mean-score")
    assert paired.lower_is_better
    (found,) = paired.differences([(0, 1)])
    tables = [line.runs[0].test_predictions() for line in table.lines]
    means = [each["score_square"].mean() for each in tables]
    assert found.value == pytest.approx(means[0] - means[1])
    with pytest.raises(EvalfmError, match=r"'broken' of their-metrics \(their_metrics:BROKEN\) fails on .*division by"):
        pair(table.lines, "broken")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "division by zero"),
        ("number", "float, not Measured or Estimate"),
        ("flat", r"values of shape \(\) for two weights"),
    ],
)
def test_one_that_fails_is_absent_with_the_reason(
    name: str, reason: str, install: Callable[..., Callable[[], None]]
) -> None:
    install()
    found = compute_metrics("binary", draw("binary", 0.5), named=[name, "mean-score"])
    with pytest.raises(EvalfmError, match=rf"The metric '{name}' of their-metrics .* fails on .*\({reason}\)"):
        raise EvalfmError(str(found[name].reason))
    assert found[name].value is None
    assert found["mean-score"].value is not None
    assert found["auroc"] == compute_metrics("binary", draw("binary", 0.5), only=["auroc"])["auroc"]


def test_of_each_class_it_has_the_name_of_the_class(install: Callable[..., Callable[[], None]]) -> None:
    install()
    scored = draw("multilabel", 0.5)
    found = compute_metrics("multilabel", scored, only=["mean-score[mass]"])
    known = scored.table["target_mass"].notna()
    assert found["mean-score[mass]"].value == pytest.approx(np.mean(scored.table["score_mass"][known]))
    assert metric_of("mean-score[mass]").unit == "points"
    assert metric_of("other").beside == ("mean-score",)
    check_metrics(["mean-score[mass]"], "multilabel")
    with pytest.raises(UnknownNameError, match="no metric of regression tasks 'mean-score'"):
        check_metrics(["mean-score"], "regression")
    assert metrics_of("binary") == [metric for metric in METRICS if "binary" in metric.kinds]


def test_a_name_that_reads_as_that_of_a_class_is_refused_to_who_asks(
    install: Callable[..., Callable[[], None]], tmp_path: Path
) -> None:
    install(dice_all_heart="MEAN", strange="STRANGE")
    assert metric_of("dice_all_heart").beside == ("dice_positive_heart",), "evalfm's own, of the heart"
    with pytest.raises(EvalfmError, match=r"'dice_all_heart' of .* reads as dice_all of a class 'heart'; fix or"):
        check_metrics(["dice_all_heart"], "segmentation")
    with pytest.raises(EvalfmError, match=r"'strange' of .*it names no-such-metric, which no metric is called"):
        load_task(card(tmp_path, "auroc", "strange"))
    install(auroc="MEAN")
    with pytest.raises(EvalfmError, match=r"'auroc' of .* has the name of one of evalfm's own"):
        metric_plugins()["auroc"].load()
    assert load_task(card(tmp_path, "auroc")).primary == "auroc"
    assert compute_metrics("binary", draw("binary", 0.5), named=["auroc"])["auroc"].value is not None


def test_two_figures_of_one_name_are_refused(install: Callable[..., Callable[[], None]]) -> None:
    install(**{"far": "FAR", "far_away": "AWAY"})
    scored = draw("segmentation", 0.5)
    other = scored.table.rename(columns=lambda name: name.replace("_heart", "_away_heart")).drop(
        columns=["patient", "id"]
    )
    both = replace(scored, table=scored.table.join(other), class_names=("heart", "away_heart"))
    assert {"far_heart", "far_away_heart"} <= set(measurable("segmentation", both, ["far"]))
    with pytest.raises(EvalfmError, match="of these predictions are called 'far_away_heart'; rename a class or"):
        measurable("segmentation", both, ["far", "far_away"])


def test_they_are_listed_last_with_where_they_come_from(install: Callable[..., Callable[[], None]]) -> None:
    install()
    assert [metric.name for metric in list_metrics()][len(METRICS) :] == sorted(NAMES)
    listed = {each["name"]: each for each in json.loads(CliRunner().invoke(app, ["ls", "metrics", "--json"]).stdout)}
    assert listed["mean-score"] == {
        "name": "mean-score",
        "kinds": ["binary"],
        "of_class": ["multilabel"],
        "unit": "points",
        "better": "lower",
        "paired": True,
        "plugin": "their-metrics (their_metrics:MEAN)",
    }
    assert listed["other"]["paired"]
    assert not listed["ece"]["paired"]
    assert "plugin" not in listed["auroc"]
