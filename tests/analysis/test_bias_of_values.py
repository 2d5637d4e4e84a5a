from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.bias_page import BiasReport
from evalfm.cli.app import app
from evalfm.errors import EvalfmError
from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.comparison import benjamini_hochberg

from .made import GRADES, class_scores, class_table, make_run


def masks(n: int = 300, *, drop: float = 0.0, alarm: float = 0.0) -> pd.DataFrame:
    """Half of the images have a lesion; tubes go with large ones, Dice with size, less ``drop`` where a tube is."""
    generator = np.random.default_rng(0)
    there = np.arange(n) % 2 == 0
    area = np.where(there, np.exp(generator.normal(-4, 1, n)), 0.0)
    tube = generator.random(n) < np.where(there, 1 / (1 + np.exp(-(np.log(np.maximum(area, 1e-9)) + 4))), 0.4)
    dice = np.where(
        there,
        np.clip(0.6 + 0.1 * (np.log(np.maximum(area, 1e-9)) + 4) - drop * tube + generator.normal(0, 0.1, n), 0, 1),
        0,
    )
    predicted = np.where(there, area, np.maximum(0, 0.001 + alarm * tube + generator.normal(0, 0.0005, n)))
    return pd.DataFrame(
        {
            "id": [f"{row:04}" for row in range(n)],
            "patient": [f"{row:04}" for row in range(n)],
            "dice_ptx": dice,
            "area_true_ptx": area,
            "area_predicted_ptx": predicted,
            "chest_tube": tube.astype(float),
        }
    )


def test_dice_is_told_of_radiographs_with_a_lesion_and_held_to_its_size(tmp_path: Path) -> None:
    table = masks()
    report = bias_of_values(make_run(tmp_path, table, kind="segmentation"), ["chest_tube"])
    dice, area = report.outcomes
    there = table[table["area_true_ptx"] > 0]
    expected = mean_difference(
        there["dice_ptx"], there["chest_tube"], there["patient"], {"log area": np.log(there["area_true_ptx"])}
    )
    assert dice.gaps[0].difference == expected
    assert [level.images for level in dice.levels] == [int((there["chest_tube"] == side).sum()) for side in (0, 1)]
    means = [there["dice_ptx"][there["chest_tube"] == side].mean() for side in (0, 1)]
    assert [level.mean.value for level in dice.levels] == pytest.approx(means)
    # Larger lesions have tubes and better Dice; held to the size, nothing is left.
    assert means[1] > means[0] + 0.03
    assert "no difference with chest_tube = 1 was detected" in dice.gaps[0].verdict
    assert sum(level.images for level in area.levels) == 150


def test_a_planted_loss_and_false_alarms_are_found(tmp_path: Path) -> None:
    report = bias_of_values(make_run(tmp_path, masks(drop=0.15, alarm=0.001), kind="segmentation"), ["chest_tube"])
    dice, area = report.outcomes
    assert dice.gaps[0].verdict.startswith("Dice of ptx where it is there is lower with chest_tube = 1 by 0.1")
    assert area.gaps[0].verdict.startswith("predicted area of ptx where it is not is higher with chest_tube = 1")
    assert dice.gaps[0].corrected is not None
    assert dice.gaps[0].corrected >= dice.gaps[0].difference.p


def test_several_models_stand_side_by_side(tmp_path: Path) -> None:
    reports = [
        bias_of_values(make_run(tmp_path, masks(drop=drop), kind="segmentation", encoder=name), ["chest_tube"])
        for name, drop in (("one", 0.0), ("two", 0.15))
    ]
    rows = {row[0]: row[1:] for row in BiasReport(values=reports).differences.texts}
    cells = rows["Dice of ptx where it is there, chest_tube = 1"]
    for cell, report in zip(cells, reports, strict=True):
        found = report.outcomes[0].gaps[0]
        assert cell.startswith(f"{found.difference.value:+.3g} [")
    assert cells[1].endswith("p < .001")
    assert " | ".join(cells) in BiasReport(values=reports).markdown
    assert BiasReport(values=reports).html.count(f">{cells[0]}</td>") == 1


def test_errors_of_measurements(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    sex = np.where(generator.random(200) < 0.5, "F", "M")
    target = generator.normal(0.5, 0.05, 200)
    table = pd.DataFrame(
        {
            "id": [f"{row:04}" for row in range(200)],
            "patient": [f"{row:04}" for row in range(200)],
            "target": target,
            "prediction": target + 0.02 * (sex == "M") + generator.normal(0, 0.01, 200),
            "sex": sex,
        }
    )
    absolute, signed = bias_of_values(make_run(tmp_path, table, kind="regression"), ["sex"]).outcomes
    assert signed.gaps[0].verdict.startswith("prediction − truth is higher with sex = M by 0.0")
    assert signed.gaps[0].difference.value == pytest.approx(0.02, abs=0.005)
    assert absolute.levels[0].mean.value == pytest.approx(np.abs(table["prediction"] - target)[sex == "F"].mean())


def test_the_verb_takes_scores_and_masks_at_once(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", masks(), kind="segmentation")
    done = CliRunner().invoke(
        app,
        ["bias", str(tmp_path / "runs"), "--by", "chest_tube", "--html", str(tmp_path / "b.html")],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.output
    assert "no difference with chest_tube = 1" in done.output
    page = (tmp_path / "b.html").read_text()
    assert "adjusted for log area" in page
    assert "without the finding" not in page
    told = CliRunner().invoke(app, ["bias", str(tmp_path / "runs"), "--by", "chest_tube", "--json"])
    for option, words in (("--label-noise", "yes-or-no labels"), ("--prevalence", "predictive values")):
        refused = CliRunner().invoke(app, ["bias", str(tmp_path / "runs"), "--by", "chest_tube", option, ".1"])
        assert isinstance(refused.exception, EvalfmError)
        assert words in str(refused.exception)
    assert json.loads(told.stdout)["models"][0]["outcomes"][0]["name"] == "Dice of ptx where it is there"


def test_pages_of_values_alone_and_refusals(tmp_path: Path) -> None:
    run = make_run(tmp_path, masks(), kind="segmentation")
    report = bias_of_values(run, ["chest_tube"])
    assert "| attribute |" not in BiasReport(values=[report]).markdown
    assert "no difference with chest_tube" in BiasReport(values=[report]).markdown
    assert BiasReport(values=[report]).html.count("<h3>") == 3
    with pytest.raises(EvalfmError, match="--by chest_tube"):
        bias_of_values(run, [])


def test_grades_are_asked_by_the_error_of_the_expected_grade(tmp_path: Path) -> None:
    target = np.random.default_rng(0).integers(0, 4, 400)
    scores = class_scores(target, 1.5, 1)
    old = np.arange(400) % 2 == 0
    # Older breasts are graded half a class too high, at the same truth.
    scores[old] = 0.5 * scores[old] + 0.5 * np.eye(4)[np.minimum(target[old] + 1, 3)]
    table = class_table(target, scores).assign(old=old.astype(float))
    run = make_run(tmp_path, table, kind="ordinal", classes=GRADES)
    size, signed = bias_of_values(run, ["old"]).outcomes
    assert (size.name, signed.name) == ("absolute error in grades", "expected − true grade")
    error = scores @ np.arange(4) - target
    expected = mean_difference(error, old, table["patient"], {"truth": target.astype(float)})
    assert signed.gaps[0].difference.value == pytest.approx(expected.value)
    assert signed.gaps[0].difference.p == pytest.approx(expected.p)
    assert "is higher with old = 1" in signed.gaps[0].verdict
    assert [level.mean.value for level in size.levels] == pytest.approx(
        [np.abs(error)[old == side].mean() for side in (False, True)]
    )
    raw = class_table(target, np.log(scores)).assign(old=old.astype(float))
    with pytest.raises(EvalfmError, match="no probabilities, so there is no expected grade; ask a class with --label"):
        bias_of_values(make_run(tmp_path / "raw", raw, kind="ordinal", classes=GRADES), ["old"])


def test_one_of_several_masks_can_be_asked_alone(tmp_path: Path) -> None:
    table = masks()
    for column in ("dice", "area_true", "area_predicted"):
        table[f"{column}_mass"] = table[f"{column}_ptx"]
    run = make_run(tmp_path, table, kind="segmentation", classes=("ptx", "mass"))
    assert len(bias_of_values(run, ["chest_tube"]).outcomes) == 4
    assert [each.name for each in bias_of_values(run, ["chest_tube"], label="mass").outcomes] == [
        "Dice of mass where it is there",
        "predicted area of mass where it is not",
    ]


def test_p_is_corrected_over_all_values_and_levels_and_each_table_has_a_name_of_its_own(tmp_path: Path) -> None:
    sex = np.where(np.random.default_rng(7).random(300) < 0.5, "F", "M")
    run = make_run(tmp_path, masks(drop=0.03, alarm=0.0002).assign(sex=sex), kind="segmentation")
    report = bias_of_values(run, ["chest_tube", "sex", "sex*chest_tube"])
    raw = [gap.difference.p for _, gap in report.gaps]
    corrected = [gap.corrected for _, gap in report.gaps]
    assert len(raw) == 2 * (1 + 1 + 4)
    assert corrected == benjamini_hochberg(raw).tolist()
    assert corrected != raw
    assert [gap.verdict for _, gap in report.gaps] == BiasReport(values=[report]).verdicts[0][2][: len(raw)]
    tables = [each.name for part in BiasReport(values=[report, report]).sections for each in part.every_table]
    assert len(tables) == len(set(tables)) == 1 + 2 * (2 * 6 + 2 * 3)
