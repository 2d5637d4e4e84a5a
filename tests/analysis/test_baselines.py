from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evalfm.analysis.baselines import AgainstBaselines, against_baselines, one_sided_p
from evalfm.analysis.compare import compare
from evalfm.analysis.pairing import Paired
from evalfm.analysis.table import task_tables
from evalfm.cli.app import app
from evalfm.run import Run
from evalfm.statistics.comparison import Difference

from ..statistics.paired import compare_auroc
from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4


def made(out: Path, encoders: dict[str, np.ndarray], baselines: dict[str, np.ndarray]) -> list[Run]:
    return [
        make_run(out, binary_table(score, TARGET), encoder=name, baseline=name in baselines)
        for name, score in {**encoders, **baselines}.items()
    ]


def found(runs: list[Run]) -> dict[str, AgainstBaselines]:
    (table,) = task_tables(runs)
    return {each.encoder: each for each in against_baselines(table)}


def test_the_p_is_twice_the_largestone_sided_p_one(tmp_path: Path) -> None:
    encoders = {"good": signal(TARGET, 2.0, 0), "fair": signal(TARGET, 1.0, 1)}
    baselines = {"constant": np.full(300, 0.4), "metadata": signal(TARGET, 0.9, 2), "pixels": signal(TARGET, 0.5, 3)}
    against = found(made(tmp_path, encoders, baselines))
    patient = binary_table(encoders["good"], TARGET)["patient"].to_numpy()
    for name, score in encoders.items():
        tests = {other: compare_auroc(TARGET, score, its, patient) for other, its in baselines.items()}
        one_sided = {each: test.p / 2 if test.value > 0 else 1 - test.p / 2 for each, test in tests.items()}
        hardest = max(one_sided, key=lambda each: one_sided[each])
        assert against[name].baseline == hardest
        assert against[name].p == pytest.approx(min(1, 2 * one_sided[hardest]))
        assert against[name].gain.value == pytest.approx(tests[hardest].value)
        assert against[name].unbeaten == tuple(each for each in baselines if one_sided[each] >= 0.025)
    assert against["good"].beats_all
    assert against["good"].sentence.startswith("good · linear beats every baseline; nearest metadata: gain in auroc +0")


def test_one_that_is_worse_than_a_baseline_beats_nothing_though_the_difference_is_significant(tmp_path: Path) -> None:
    baselines = {"metadata": signal(TARGET, 2.0, 2), "constant": np.full(300, 0.4)}
    against = found(made(tmp_path, {"poor": signal(TARGET, 0.3, 1)}, baselines))["poor"]
    assert not against.beats_all
    assert against.p == 1
    assert against.gain.value < -0.2
    assert against.sentence.startswith("poor · linear does not beat metadata: gain in auroc -0.")


def test_every_baseline_that_stands_is_named(tmp_path: Path) -> None:
    baselines = {"metadata": signal(TARGET, 1.3, 2), "pixels": signal(TARGET, 1.5, 3), "constant": np.full(300, 0.4)}
    against = found(made(tmp_path, {"one": signal(TARGET, 1.0, 1)}, baselines))["one"]
    assert set(against.unbeaten) == {"metadata", "pixels"}
    (other,) = {"metadata", "pixels"} - {against.baseline}
    assert f"does not beat {against.baseline} (nor {other}): gain in auroc -0." in against.sentence
    twice = replace(against, unbeaten=(other, *against.unbeaten, other))
    assert twice.sentence == against.sentence


def test_an_error_is_better_where_it_is_lower(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    rows = binary_table(truth, truth).drop(columns=["score_ptx", "threshold"])
    tables = {"one": rows.assign(prediction=truth + rng.normal(0, 0.1, 200)), "constant": rows.assign(prediction=0.0)}
    runs = [
        make_run(tmp_path, table, kind="regression", encoder=name, baseline=name == "constant")
        for name, table in tables.items()
    ]
    against = found(runs)["one"]
    assert against.beats_all
    assert against.gain.value > 0.5
    assert against.gain.low is not None
    assert against.gain.high is not None
    assert against.gain.low < against.gain.value < against.gain.high


def test_an_encoder_as_good_as_the_best_baseline_is_seldom_said_to_beat_it() -> None:
    # The p over several baselines is never below that against the best of them.
    rng, rejected, studies = np.random.default_rng(0), 0, 300
    for _ in range(studies):
        label = np.arange(120) < 50
        scores = [rng.normal(size=120) + label for _ in range(3)] + [rng.normal(size=120)]
        tests = [compare_auroc(label, scores[0], other) for other in scores[1:]]
        rejected += 2 * max(map(one_sided_p, tests)) < 0.05
    # One-sided at .025 each: at most 2.5 % of studies; 16 of 300 are beyond one in a thousand.
    assert rejected < 16


def test_without_baselines_or_encoders_nothing_is_said(tmp_path: Path) -> None:
    assert not found(made(tmp_path / "a", {"one": signal(TARGET, 1.0, 1)}, {}))
    assert not found(made(tmp_path / "b", {}, {"constant": np.full(300, 0.4)}))


def test_it_speaks_of_encoders_only_where_training_variance_counts_against_every_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines = {"constant": np.full(300, 0.4), "metadata": signal(TARGET, 0.9, 2)}
    runs = made(tmp_path, {"good": signal(TARGET, 2.0, 0)}, baselines)
    plain, counted = Paired.differences, {1, 2}

    def differences(self: Paired, pairs: list[tuple[int, int]]) -> list[Difference]:
        found = plain(self, pairs)
        return [
            replace(each, training_error=0.01 if pair[1] in counted else None)
            for pair, each in zip(pairs, found, strict=True)
        ]

    monkeypatch.setattr(Paired, "differences", differences)
    assert found(runs)["good"].speaks_of == "encoders"
    counted = {1}
    assert found(runs)["good"].speaks_of == "these trained heads"


def test_compare_and_its_json_say_it_too(tmp_path: Path) -> None:
    runs = made(tmp_path, {"good": signal(TARGET, 2.0, 0)}, {"constant": np.full(300, 0.4)})
    (table,) = compare(runs)
    assert [each.encoder for each in table.against] == ["good"]
    said = CliRunner().invoke(app, ["compare", str(tmp_path)], catch_exceptions=False).stdout
    assert "Against all baselines at once (intersection–union); speaks of these trained heads" in said
    assert table.against[0].sentence in said
    plain = json.loads(CliRunner().invoke(app, ["compare", str(tmp_path), "--json"], catch_exceptions=False).stdout)
    assert plain[0]["against"][0]["p"] == table.against[0].p
