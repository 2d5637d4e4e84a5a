"""Comparisons and verdicts on flipped labels: strong answers stand, weak ones do not, and the counts are right."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from evalfm.analysis.bias import bias
from evalfm.analysis.compare import compare
from evalfm.analysis.label_noise import DRAWS, FlipRates, noise_of_runs
from evalfm.analysis.scores import questions_of_run
from evalfm.analysis.verdict_noise import verdicts_under_noise
from evalfm.errors import EvalfmError
from evalfm.run import Run
from evalfm.statistics.comparison import holm
from evalfm.statistics.label_noise import auroc_ceiling, flip_labels

from ..cli.typed import evalfm
from ..statistics.paired import compare_auroc
from .made import binary_table, make_run, signal

TARGET = np.random.default_rng(0).random(300) < 0.4


def runs(out: Path, **strengths: float) -> list[Run]:
    made = [
        make_run(out, binary_table(signal(TARGET, strength, seed), TARGET), encoder=name)
        for seed, (name, strength) in enumerate(strengths.items())
    ]
    return [*made, make_run(out, binary_table(np.full(300, 0.4), TARGET), encoder="constant", baseline=True)]


def test_every_share_is_that_of_draws_by_hand(tmp_path: Path) -> None:
    # Fair and weak share their noise: they differ surely, and neither from the best.
    strengths = {"good": (1.5, 0), "fair": (1.3, 1), "weak": (1.1, 1), "poor": (0.9, 3)}
    rates, draws = FlipRates(0.1, 0.03), 40
    scores = [signal(TARGET, strength, seed) for strength, seed in strengths.values()]
    made = [
        make_run(tmp_path, binary_table(score, TARGET), encoder=name)
        for name, score in zip(strengths, scores, strict=True)
    ]
    (found,) = noise_of_runs(made, [rates], draws=draws, seed=4)
    patient = binary_table(scores[0], TARGET)["patient"].to_numpy()
    pairs = list(combinations(range(4), 2))

    def tested(label: np.ndarray) -> tuple[list[float], list[float], np.ndarray]:
        areas = [roc_auc_score(label, score) for score in scores]
        p = holm([compare_auroc(label, scores[a], scores[b], patient).p for a, b in pairs])
        return areas, [areas[a] - areas[b] for a, b in pairs], p

    areas, gaps, p = tested(TARGET.astype(float))
    generator = np.random.default_rng(4)
    first, order, kept, sets = 0, np.zeros(6), np.zeros(6), np.zeros(4)
    for _ in range(draws):
        label = flip_labels(TARGET, 0.1, 0.03, generator.random((1, 300))[0])
        now, now_gaps, now_p = tested(label)
        best = int(np.argmax(now))
        first += best == int(np.argmax(areas))
        order += np.sign(now_gaps) == np.sign(gaps)
        kept += (np.sign(now_gaps) == np.sign(gaps)) & (now_p < 0.05)
        for line in range(4):
            beaten = [now_p[place] < 0.05 for place, each in enumerate(pairs) if set(each) == {line, best}]
            sets[line] += not any(beaten)
    (under,) = found.under
    assert under.best_first == first / draws
    significant = [place for place in range(6) if p[place] < 0.05]
    assert significant
    names = list(strengths)
    expected = {}
    for place in significant:
        one, other = pairs[place] if gaps[place] > 0 else pairs[place][::-1]
        expected[f"{names[one]} · linear", f"{names[other]} · linear"] = (order[place] / draws, kept[place] / draws)
    assert {(each.better, each.worse): (each.order, each.significant) for each in under.pairs} == expected
    by_name = {name.split(" ")[0]: share for name, share in under.best_set.items()}
    assert [by_name[name] for name in strengths] == (sets / draws).tolist()
    assert under.ceilings == {"ptx": auroc_ceiling(TARGET.mean(), 0.1, 0.03)}
    assert found.draws == draws
    assert DRAWS == 200


def test_a_wide_gap_stands_to_the_bound_and_a_narrow_one_does_not(tmp_path: Path) -> None:
    (wide,) = noise_of_runs(runs(tmp_path / "wide", good=3.0, poor=0.0), [FlipRates(0.05, 0.05)], draws=40)
    assert wide.up_to == wide.bound == "25 %"
    assert wide.under[0].stands == 1.0
    assert "(the largest tried)" in wide.sentences[-1]
    (narrow,) = noise_of_runs(runs(tmp_path / "narrow", good=1.9, fair=1.1), [FlipRates(0.2, 0.2)], draws=40)
    assert narrow.under[0].pairs
    assert narrow.under[0].stands < 0.95
    assert narrow.up_to not in (narrow.bound, "20 %")
    assert 0 < narrow.under[0].pairs[0].significant < narrow.under[0].pairs[0].order


def test_without_a_significant_pair_there_is_no_order_to_lose(tmp_path: Path) -> None:
    (found,) = noise_of_runs(runs(tmp_path, one=1.5, other=1.5), [FlipRates(0.05, 0.05)], draws=10)
    assert found.under[0].pairs == ()
    assert found.under[0].stands is None
    assert found.up_to is None
    assert "no order to lose" in found.sentences[-1]


def test_the_runs_as_they_are_do_not_change(tmp_path: Path) -> None:
    made = runs(tmp_path, good=1.6, poor=0.6)
    before = compare(made)[0].to_json()
    noise_of_runs(made, [FlipRates(0.1, 0.1)], draws=5)
    assert compare([Run.read(each.folder) for each in made])[0].to_json() == before


def test_another_metric_is_taken_as_compare_takes_it(tmp_path: Path) -> None:
    made = runs(tmp_path, good=2.0, poor=0.3)
    (found,) = noise_of_runs(made, [FlipRates(0.1, 0.1)], metric="f1", draws=5, seed=2)
    assert found.metric == "f1"
    generator, first = np.random.default_rng(2), 0
    for _ in range(5):
        label = flip_labels(TARGET, 0.1, 0.1, generator.random((1, 300))[0])
        values = [f1_score(label, signal(TARGET, strength, seed) >= 0.5) for seed, strength in enumerate((2.0, 0.3))]
        first += values[0] > values[1]
    assert found.under[0].best_first == first / 5


def test_several_labels_are_flipped_each(tmp_path: Path) -> None:
    names = ("a", "b")
    draw = np.random.default_rng(1)
    targets = {f"target_{name}": (draw.random(200) < 0.4).astype(float) for name in names}
    targets["target_b"][:20] = np.nan

    def table(strength: float, seed: int) -> pd.DataFrame:
        scores = {f"score_{name}": signal(np.nan_to_num(targets[f"target_{name}"]), strength, seed) for name in names}
        thresholds = {f"threshold_{name}": 0.5 for name in names}
        ids = [f"i{row:03}" for row in range(200)]
        return pd.DataFrame({"id": ids, "patient": ids, **targets, **scores, **thresholds})

    made = [
        make_run(tmp_path, table(strength, seed), encoder=name, kind="multilabel", classes=names)
        for seed, (name, strength) in enumerate({"good": 2.5, "poor": 0.2}.items())
    ]
    (found,) = noise_of_runs(made, [FlipRates(0.05, 0.05)], draws=10)
    assert found.metric == "macro_auroc"
    assert set(found.under[0].ceilings) == {"a", "b"}
    assert found.under[0].stands == 1.0


def test_tasks_without_yes_or_no_labels_and_odd_rates_are_refused(tmp_path: Path) -> None:
    table = binary_table(np.zeros(40), np.zeros(40)).drop(columns=["target", "score_ptx", "threshold"])
    made = [
        make_run(tmp_path, table.assign(target=np.arange(40.0), prediction=np.arange(40.0) + each), encoder=f"e{each}",
                 kind="regression")
        for each in (1, 2)
    ]  # fmt: skip
    with pytest.raises(EvalfmError, match="for yes-or-no labels, and ctr is regression"):
        noise_of_runs(made, [FlipRates(0.1, 0.1)])
    for text in ("", "a", "0", "0/0", ".6", ".1/.2/.3", "-.1", "nan"):
        with pytest.raises(EvalfmError, match="is no rate of wrong labels"):
            FlipRates.parse(text)
    assert FlipRates.parse(" .1/0 ") == FlipRates(0.1, 0.0)


def test_draws_that_leave_no_positives_are_drawn_anew_or_refused(tmp_path: Path) -> None:
    rare = np.arange(200) < 12
    made = [
        make_run(tmp_path, binary_table(signal(rare, strength, seed), rare), encoder=f"e{seed}")
        for seed, strength in enumerate((2.0, 1.0))
    ]
    with pytest.raises(EvalfmError, match="most draws leave too few images of a class"):
        noise_of_runs(made, [FlipRates(0.49, 0.0)], draws=20)


def test_verdicts_of_a_subgroup_report_on_flipped_labels(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    target = (np.arange(600) % 3 == 0).astype(float)
    tube = draw.random(600) < 0.4
    leaning = signal(target + 2.0 * tube, 1.0, 1)
    table = binary_table(leaning, target).assign(tube=np.where(tube, "yes", "no"), noise=draw.random(600) < 0.5)
    (scores,) = questions_of_run(make_run(tmp_path, table))
    found = verdicts_under_noise(
        scores, lambda each: bias(each, ["tube"]), [FlipRates(0.02, 0.02), FlipRates(0.05, 0.0)], draws=4
    )
    assert [(each.attribute, each.level, each.associated, each.same) for each in found] == [
        ("tube", "yes", True, 1.0),
        ("tube", "yes", True, 1.0),
    ]
    assert found[0].sentence == "one · linear · frozen, tube = yes: associated; so in 100% of draws at 2 %."
    labels: list[np.ndarray] = []

    def seen(each):
        labels.append(each.target)
        return bias(each, ["tube"])

    verdicts_under_noise(scores, seen, [FlipRates(0.1, 0.0)], draws=2, seed=3)
    generator = np.random.default_rng(3)
    for label in labels[1:]:
        assert (label == flip_labels(target, 0.1, 0.0, generator.random(600))).all()


def test_the_command_line_says_it(tmp_path: Path) -> None:
    runs(tmp_path / "runs", good=2.5, poor=0.3)
    shown = evalfm("compare", "runs", "--label-noise=.05,.1/.02", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "on flipped labels" in shown.stdout
    assert "Every significant pair keeps its order" in shown.stdout
    tables = json.loads(evalfm("compare", "runs", "--label-noise=.05", "--json", cwd=tmp_path).stdout)
    (noise,) = [each["label_noise"] for each in tables if "label_noise" in each]
    assert noise["under"][0]["missed"] == 0.05
    assert noise["up_to"]
    plain = json.loads(evalfm("compare", "runs", "--json", cwd=tmp_path).stdout)
    assert not any("label_noise" in each for each in plain)
    assert evalfm("compare", "runs", "--label-noise=2", cwd=tmp_path).returncode == 2


def test_the_command_line_says_how_often_verdicts_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verdicts_under_noise.__kwdefaults__, "draws", 2)
    tube = np.random.default_rng(2).random(300) < 0.5
    table = binary_table(signal(TARGET + 2.0 * tube, 1.5, 1), TARGET).assign(tube=np.where(tube, "yes", "no"))
    make_run(tmp_path / "runs", table)
    shown = evalfm("bias", "runs", "--by=tube", "--label-noise=.02", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "tube = yes: associated; so in 100% of draws at 2 %" in shown.stdout
    (noise,) = json.loads(evalfm("bias", "runs", "--by=tube", "--label-noise=.02", "--json", cwd=tmp_path).stdout)[
        "label_noise"
    ]
    assert (noise["level"], noise["associated"], noise["same"]) == ("yes", True, 1.0)
    plain = json.loads(evalfm("bias", "runs", "--by=tube", "--json", cwd=tmp_path).stdout)
    assert "label_noise" not in plain
