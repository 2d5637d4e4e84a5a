"""The tables and the section of perturbed images, and the way of their file."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from evalfm.analysis.pages import page
from evalfm.analysis.robustness import (
    NeighbourIndex,
    PerturbationEffect,
    Robustness,
    RunRobustness,
    effects_table,
    index_table,
    robustness_section,
    strongest_table,
)
from evalfm.data.perturbations import Perturbation
from evalfm.errors import EvalfmError
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, method="BCa", n=80)


def effect(name: str, strength: float, shift: float, loss: float | None = -0.05) -> PerturbationEffect:
    metric = None if loss is None else Difference(loss, 0.01, loss - 0.02, loss + 0.02, 0.01, None, 80, "DeLong")
    return PerturbationEffect(
        name,
        strength,
        Perturbation(name, strength).label,
        cosine=estimate(0.9),
        shift=estimate(shift),
        score=estimate(-0.123),
        absolute=estimate(0.2),
        flipped=Estimate.absent("the run decides nothing"),
        metric=metric,
        reason=None if loss is not None else "too few patients",
    )


def run(encoder: str, key: str, *effects: PerturbationEffect, task: str = "ptx-cls") -> RunRobustness:
    return RunRobustness(
        run=key,
        encoder=encoder,
        head="linear",
        adaptation="frozen",
        task=task,
        data="nih",
        metric="auroc",
        clean=estimate(0.8),
        images=90,
        patients=80,
        unit="patients",
        baseline=False,
        effects=effects,
        index=NeighbourIndex("scanner", 10, estimate(0.61), 0.52, 88),
        cautions=("Random weights: the encoder has learnt nothing.",),
    )


FIRST = run("one", "a" * 64, effect("dose", 0.25, 0.1), effect("dose", 0.01, 0.7), effect("jpeg", 90, 0.2))
SECOND = run("two", "b" * 64, effect("dose", 0.25, 0.3), effect("dose", 0.01, 0.9), effect("jpeg", 90, 0.4, None))
FOUND = Robustness((FIRST, SECOND), (("constant · linear on ptx-cls", "reads no image"),))


def test_every_effect_has_a_row_with_its_change_and_the_reason_of_what_is_absent() -> None:
    made = effects_table("effects", SECOND)
    assert made.texts[0] == [
        "dose 0.25 of the photons", "0.900 [0.880, 0.920]", "0.300 [0.280, 0.320]", "-0.123 [-0.143, -0.103]",
        "0.200 [0.180, 0.220]", "–¹", "-0.0500 [-0.0700, -0.0300]",
    ]  # fmt: skip
    assert made.texts[2][-1] == "–²"
    assert made.notes == ["–¹ the run decides nothing", "–² too few patients"]
    assert made.header[-1] == "auroc"
    (row, *_) = csv.DictReader(io.StringIO(made.csv))
    assert (row["auroc"], row["auroc_low"], row["score"]) == ("-0.05", "-0.07", "-0.123")


def test_the_strongest_of_a_family_is_the_farthest_from_changing_nothing() -> None:
    # Of dose the smallest share of the photons, not the largest number.
    made = strongest_table("strongest", FOUND)
    assert made.header == ("task", "run", "dose 0.01 of the photons", "jpeg 90 quality")
    assert [row[2].split()[0] for row in made.texts] == ["0.700", "0.900"]


def test_the_index_stands_beside_its_chance() -> None:
    made = index_table("index", FOUND)
    assert made.texts[0] == ["ptx-cls", "one · linear · frozen", "scanner", "88", "0.610 [0.590, 0.630]", "0.520"]
    assert not index_table("index", Robustness((replace(FIRST, index=None),))).rows


def test_runs_that_are_called_alike_are_told_apart() -> None:
    twin = replace(FIRST, run="c" * 64)
    assert list(Robustness((FIRST, twin, SECOND)).names.values()) == [
        "one · linear · frozen (aaaaaaaa)", "one · linear · frozen (cccccccc)", "two · linear · frozen",
    ]  # fmt: skip


def test_the_page_draws_a_line_for_every_encoder_where_a_family_has_several_strengths() -> None:
    heads = replace(FIRST, run="d" * 64, head="knn")
    section = robustness_section(0, Robustness((FIRST, heads, SECOND), FOUND.left_out))
    (part,) = section.sections
    # One strength of JPEG is no line; two heads of one frozen encoder are one line.
    assert [title for title, _ in part.drawings] == ["dose", "dose: auroc"]
    assert str(part.drawings[0][1]).count("<polyline") == 2
    assert str(part.drawings[1][1]).count("<polyline") == 3
    assert len(part.folded) == 3
    assert section.cautions == ["Random weights: the encoder has learnt nothing."]
    shown = page("Robustness", [section])
    for words in ("scanner decides more than the class", "constant · linear on ptx-cls: reads no image", "80 patients"):
        assert words in shown
    assert "training variance is not counted" in shown


def test_tasks_stand_apart() -> None:
    other = replace(SECOND, task="view")
    assert [(task, len(runs)) for task, _, runs in Robustness((other, FIRST)).tasks] == [("ptx-cls", 1), ("view", 1)]
    assert [each.title for each in robustness_section(0, Robustness((other, FIRST))).sections] == [
        "ptx-cls on nih", "view on nih",
    ]  # fmt: skip


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "robustness.json").write_text(json.dumps(FOUND.to_json()))
    assert Robustness.read(tmp_path / "robustness.json") == FOUND


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 2, "runs": []}', '{"schema": 1, "runs": [{"run": 3}]}', '{"schema": 1}']
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "robustness.json").write_text(content)
    with pytest.raises(EvalfmError, match="write it again with `evalfm robustness --out`"):
        Robustness.read(tmp_path / "robustness.json")
