from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.choose import Limits, choose, worst_stratum
from evalfm.cautions import Caution
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.features.cost import Cost
from evalfm.run import Run
from evalfm.statistics.auroc import auroc

from .made import GRADES, binary_table, class_scores, class_table, make_run, signal

TARGET = np.random.default_rng(0).random(400) < 0.4
CARDS = {
    "large": {"parameters": 300_000_000, "commercial_use": "no", "pooling": "cls", "poolings": {"cls": 1024}},
    "small": {"parameters": 20_000_000, "commercial_use": "yes", "pooling": "cls", "poolings": {"cls": 384}},
    "asked": {"parameters": 80_000_000, "commercial_use": "ask", "pooling": "cls", "poolings": {"cls": 768}},
    "poor": {"parameters": 1_000_000, "commercial_use": "yes", "pooling": "cls", "poolings": {"cls": 64}},
}
STRENGTHS = {"large": 2.0, "small": 1.9, "asked": 1.95, "poor": 0.3}


def runs(out: Path) -> list[Run]:
    made = []
    for seed, (name, strength) in enumerate(STRENGTHS.items()):
        table = binary_table(signal(TARGET, strength, seed), TARGET)
        table["view"] = np.where(np.arange(400) % 3 == 0, "AP", "PA")
        made.append(make_run(out, table, encoder=name, card=CARDS[name]))
    made.append(make_run(out, binary_table(np.full(400, 0.5), TARGET), encoder="constant", baseline=True))
    return made


def test_the_smallest_of_those_that_cannot_be_told_apart_comes_first(tmp_path: Path) -> None:
    found = choose(runs(tmp_path), "ptx-cls")
    names = [each.encoder for each in found.candidates]
    assert names == [name for name in ("small", "asked", "large") if name in names]
    assert len(names) >= 2
    assert found.candidates[0].parameters == CARDS[names[0]]["parameters"]
    assert found.candidates[0].dimensions == 384
    reasons = dict(found.excluded)
    assert reasons["poor · linear · frozen"].startswith("significantly worse than the best (p < .001")
    assert "are not significantly worse than the best in auroc: " in found.paragraph
    assert "would have been found with 80 % power" in found.paragraph
    assert "The best baseline, constant, reaches 0.500" in found.paragraph


def test_every_limit_excludes_with_its_reason(tmp_path: Path) -> None:
    made = runs(tmp_path)
    light = choose(made, "ptx-cls", Limits(most_parameters=100_000_000))
    assert dict(light.excluded)["large · linear · frozen"] == "300,000,000 parameters, more than 100,000,000"
    sold = choose(made, "ptx-cls", Limits(commercial=True))
    reasons = dict(sold.excluded)
    assert reasons["large · linear · frozen"] == "commercial use is 'no'"
    # What nobody knows is not allowed.
    assert reasons["asked · linear · frozen"] == "commercial use is 'ask'"
    assert [each.encoder for each in sold.candidates] == ["small"]
    assert "small (linear, frozen) is better than every other encoder that keeps to the limits" in sold.paragraph
    with pytest.raises(EvalfmError, match=r"No encoder is left for ptx-cls .*trained on 400 images, more than 100"):
        choose(made, "ptx-cls", Limits(most_labels=100))
    assert choose(made, "ptx-cls", Limits(most_labels=400)).candidates


def test_the_worst_stratum_and_doubts_are_told(tmp_path: Path) -> None:
    made = runs(tmp_path)
    found = choose(made, "ptx-cls")
    first = found.candidates[0]
    run = next(run for run in made if run.encoder == first.encoder)
    table = run.predictions()
    areas = {view: auroc(part["target"], part["score_ptx"]) for view, part in table.groupby("view")}
    worst = min(areas, key=lambda view: areas[view])
    assert first.worst == f"view = {worst}: auroc {areas[worst]:.3f} on {(table['view'] == worst).sum()} images"
    asked = next(each for each in found.candidates if each.encoder == "asked")
    assert asked.flags == (Caution("licence", "Read the licence before commercial use."),)


def test_an_encoder_that_is_no_better_than_a_baseline_is_said_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(9).random(400)
    made = [
        make_run(tmp_path, binary_table(noise, TARGET), encoder="noise", card=CARDS["small"]),
        make_run(tmp_path, binary_table(np.full(400, 0.5), TARGET), encoder="constant", baseline=True),
    ]
    found = choose(made, "ptx-cls")
    assert "noise · linear does not beat constant: gain in auroc" in found.paragraph
    assert "noise (linear, frozen) is the only encoder in these runs: nothing was compared" in found.paragraph


def test_the_verb(tmp_path: Path) -> None:
    runs(tmp_path)

    def asked(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["choose", str(tmp_path), *map(str, arguments)], env={"COLUMNS": "220"})
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    code, said = asked("--task", "ptx-cls", "--max-params", "100M")
    assert code == 0, said
    assert "out: large · linear · frozen: 300,000,000 parameters" in said
    code, said = asked("--task", "ptx-cls", "--licence", "commercial", "--json")
    assert code == 0
    assert json.loads(said)["candidates"][0]["encoder"] == "small"
    assert "trained on 400 images, more than 100" in asked("--task", "ptx-cls", "--labels", "100")[1]
    assert "its time is not known" in asked("--task", "ptx-cls", "--max-ms", "50")[1]
    made = timed(tmp_path / "timed", {name: cost(20.0 + place) for place, name in enumerate(CARDS)})
    shown = CliRunner().invoke(
        app, ["choose", str(tmp_path / "timed"), "--task", "ptx-cls", "--max-ms", "20.5", "--json"]
    )
    assert [each["encoder"] for each in json.loads(shown.output)["candidates"]] == ["large"]
    table = CliRunner().invoke(app, ["choose", str(made[1].folder), "--task", "ptx-cls"], env={"COLUMNS": "220"}).output
    assert "measured on" in table
    assert "21" in table
    assert "'commercial'" in asked("--task", "ptx-cls", "--licence", "comercial")[1]
    assert "'ptx-cls'" in asked("--task", "ptx-clz")[1]


def test_runs_on_several_data_sets_are_no_choice(tmp_path: Path) -> None:
    made = runs(tmp_path / "one")
    other = make_run(tmp_path / "two", binary_table(signal(TARGET, 1, 0), TARGET), encoder="large", test_name="else")
    with pytest.raises(EvalfmError, match=r"tested on 2 data sets \(else, toy\)"):
        choose([*made, other], "ptx-cls")


def cost(milliseconds: float, device: str = "AMD EPYC, 2 threads") -> Cost:
    return Cost(
        milliseconds=milliseconds,
        gigaflops=milliseconds / 10,
        batch=1,
        input_size=(224, 224),
        device=device,
        precision="float32",
    )


def timed(out: Path, times: dict[str, Cost | None]) -> list[Run]:
    made = []
    for seed, (name, strength) in enumerate(STRENGTHS.items()):
        table = binary_table(signal(TARGET, strength, seed), TARGET)
        made.append(make_run(out, table, encoder=name, card=CARDS[name], cost=times.get(name)))
    return made


def test_a_limit_on_time_excludes_the_slow_and_the_untimed(tmp_path: Path) -> None:
    made = timed(tmp_path, {"large": cost(80.0), "small": cost(20.0), "poor": cost(5.0)})
    found = choose(made, "ptx-cls", Limits(most_milliseconds=50))
    assert [each.encoder for each in found.candidates] == ["small"]
    (small,) = found.candidates
    assert (small.milliseconds, small.gigaflops) == (20.0, 2.0)
    assert small.timed == "AMD EPYC, 2 threads, batch of 1, 224 × 224, float32"
    reasons = dict(found.excluded)
    assert reasons["large · linear · frozen"] == f"80 ms an image ({small.timed}), more than 50"
    assert reasons["asked · linear · frozen"].startswith("its time is not known (a table of features, or a run of an")
    assert reasons["poor · linear · frozen"].startswith("significantly worse than the best")
    assert "A forward pass of one image takes it 20 ms (AMD EPYC, 2 threads" in found.paragraph
    assert {each.encoder for each in choose(made, "ptx-cls", Limits(most_milliseconds=80)).candidates} == {
        "large", "small",
    }  # fmt: skip
    for wrong in (0, float("nan")):
        with pytest.raises(EvalfmError, match="must be positive"):
            choose(made, "ptx-cls", Limits(most_milliseconds=wrong))


def test_times_of_two_devices_are_never_held_to_one_limit(tmp_path: Path) -> None:
    made = timed(tmp_path, {"large": cost(80.0), "small": cost(2.0, "NVIDIA H100")})
    with pytest.raises(EvalfmError, match=r"timed on 2 devices \(AMD EPYC, 2 threads; NVIDIA H100\)"):
        choose(made, "ptx-cls", Limits(most_milliseconds=50))
    found = choose(made, "ptx-cls")
    assert "Times are of 2 devices and do not compare: AMD EPYC, 2 threads; NVIDIA H100." in found.paragraph


def test_seeds_of_one_encoder_keep_to_a_limit_together(tmp_path: Path) -> None:
    made = [
        make_run(tmp_path, binary_table(signal(TARGET, 1.5, seed), TARGET), seed=seed, cost=cost(milliseconds))
        for seed, milliseconds in enumerate((9.0, 9.5, 10.5))
    ]
    found = choose(made, "ptx-cls", Limits(most_milliseconds=10))
    assert found.comparison.entries[0].seeds == 3
    assert found.candidates[0].milliseconds == 9.5


def test_the_worst_stratum_of_grades_and_errors(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    target = generator.integers(0, 4, 300)
    scores = class_scores(target, 1.5, 0)
    table = class_table(target, scores).assign(view=np.where(np.arange(300) % 3 == 0, "CC", "MLO"))
    table.loc[table["view"] == "CC", [f"score_{name}" for name in GRADES]] = 0.25
    run = make_run(tmp_path, table, kind="ordinal", classes=GRADES)
    assert worst_stratum(run, "quadratic_kappa") == "view = CC: quadratic_kappa 0.000 on 100 images"
    assert str(worst_stratum(run, "macro_auroc")).startswith("view = CC: macro_auroc 0.500")
    # A stratum without a class has another macro AUROC, which does not compare.
    fewer = table[(table["view"] == "MLO") | (table["target"] != 3)]
    assert str(
        worst_stratum(make_run(tmp_path / "b", fewer, kind="ordinal", classes=GRADES), "macro_auroc")
    ).startswith("view = MLO")
    error = np.where(np.arange(60) % 2, 0.5, 0.1)
    values = pd.DataFrame({"id": [f"{row:03}" for row in range(60)], "patient": [f"{row:03}" for row in range(60)]})
    values = values.assign(target=0.0, prediction=error, sex=np.where(np.arange(60) % 2, "F", "M"))
    assert (
        worst_stratum(make_run(tmp_path / "c", values, kind="regression"), "mae") == "sex = F: mae 0.500 on 30 images"
    )


def test_grades_are_chosen_by_kappa(tmp_path: Path) -> None:
    target = np.random.default_rng(2).integers(0, 4, 200)
    made = [
        make_run(tmp_path, class_table(target, class_scores(target, strength, seed)), encoder=name, kind="ordinal",
                 classes=GRADES, card=CARDS[name])
        for seed, (name, strength) in enumerate({"large": 1.5, "poor": 0.1}.items())
    ]  # fmt: skip
    found = choose(made, "density")
    assert [each.encoder for each in found.candidates] == ["large"]
    assert found.comparison.metric == "quadratic_kappa"
