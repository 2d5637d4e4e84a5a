"""Images with the finding by lesion size: the cells are counts by hand, the tests those of the statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evalfm.analysis.bias import ReportOptions, bias
from evalfm.analysis.bias_of_values import bias_of_values
from evalfm.analysis.bias_page import BiasReport
from evalfm.analysis.scores import scores_of_table
from evalfm.cli.app import app
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.fixed_label import as_logit
from evalfm.statistics.size_strata import size_strata, within_size_strata

from .made import make_run
from .test_bias_of_values import masks


def predictions(effect: float = 0.0) -> pd.DataFrame:
    """Larger lesions score higher and have tubes; tubes move the score by ``effect``."""
    generator = np.random.default_rng(3)
    y = np.arange(600) % 2 == 0
    size = generator.normal(size=600)
    tube = generator.random(600) < np.where(y, 1 / (1 + np.exp(-2 * size)), 0.3)
    logit = y * (1.5 + size) + effect * tube * y + generator.normal(size=600) - 1
    return pd.DataFrame(
        {
            "patient": [f"p{row}" for row in range(600)],
            "target": y.astype(int),
            "score": 1 / (1 + np.exp(-logit)),
            "tube": tube.astype(int),
            "sex": np.where(generator.random(600) < 0.5, "F", "M"),
            "lesion_area": np.where(y, np.exp(size - 4), np.nan),
        }
    )


def read(tmp_path: Path, table: pd.DataFrame, threshold: float | None = 0.5):
    table.to_csv(tmp_path / "t.csv", index=False)
    return scores_of_table(tmp_path / "t.csv", threshold=threshold)


def test_cells_are_counts_and_severity_alone_is_not_the_tube(tmp_path: Path) -> None:
    table = predictions()
    found = bias(read(tmp_path, table), ["tube"]).parts[0].by_size
    assert found is not None
    ill = table[table["target"] == 1].assign(stratum=lambda each: pd.qcut(each["lesion_area"], 3, labels=False))
    assert len(found.cells) == 6
    for cell in found.cells:
        rows = ill[(ill["stratum"] == cell.stratum) & (ill["tube"].astype(str) == cell.level)]
        assert (cell.images, cell.patients) == (len(rows), rows["patient"].nunique())
        assert cell.found.value == pytest.approx((rows["score"] >= 0.5).mean())
        assert cell.found.low < cell.found.value < cell.found.high
        of_stratum = ill.loc[ill["stratum"] == cell.stratum, "lesion_area"]
        assert (cell.low, cell.high) == pytest.approx((of_stratum.min(), of_stratum.max()))
        assert cell.dice is None
    (test,) = found.tests
    area, patient = ill["lesion_area"].to_numpy(), ill["patient"].to_numpy()
    expected = within_size_strata(as_logit(ill["score"]), ill["tube"] == 1, area, patient, size_strata(area, patient))
    assert test.effect == expected
    assert test.corrected == expected.p > 0.05
    # Without the sizes the tube would be found.
    assert bias(read(tmp_path, table), ["tube"]).parts[0].contrasts[0].fixed[1].p < 0.01


def test_a_tube_within_sizes_is_found_and_said(tmp_path: Path) -> None:
    report = bias(read(tmp_path, predictions(effect=1.0)), ["tube", "sex"])
    tests = [test for part in report.parts for test in part.by_size.tests]
    assert [test.corrected for test in tests] == benjamini_hochberg([test.effect.p for test in tests]).tolist()
    text = BiasReport([report]).markdown
    assert "within strata of lesion size, the score's logit is higher with tube = 1 by" in text
    assert "the score's logit: no difference with sex = M was detected" in text
    assert "2 tests within lesion sizes" in text
    page = BiasReport([report]).html
    assert ">1 of 3</td>" in page
    assert "called at the threshold" in page


def test_unknown_areas_are_counted_and_other_columns_can_be_named(tmp_path: Path) -> None:
    table = predictions()
    lost = (table["target"] == 1) & (table.index % 20 == 0)
    scores = read(tmp_path, table.assign(lesion_area=table["lesion_area"].mask(lost)))
    found = bias(scores, ["tube"]).parts[0].by_size
    assert found.without_area == int(lost.sum())
    assert sum(cell.images for cell in found.cells) == 300 - int(lost.sum())
    assert f"{int(lost.sum())} images with the finding have no known area." in BiasReport([bias(scores, ["tube"])]).html
    other = read(tmp_path, table.rename(columns={"lesion_area": "mm2"}))
    assert bias(other, ["tube"]).parts[0].by_size is None
    four = bias(other, ["tube"], options=ReportOptions(lesion_area="mm2", size_strata=4)).parts[0].by_size
    assert len(four.cells) == 8
    with pytest.raises(UnknownNameError):
        bias(other, ["tube"], options=ReportOptions(lesion_area="mm3"))
    with pytest.raises(EvalfmError, match="holds words and is no area"):
        bias(other, ["tube"], options=ReportOptions(lesion_area="sex"))
    # A column of that name that nobody asked for ends nothing.
    worded = read(tmp_path, table.assign(lesion_area=np.where(table["target"] == 1, "large", "none")))
    assert bias(worded, ["tube"]).parts[0].by_size is None
    with pytest.raises(EvalfmError, match="strata of lesion size"):
        ReportOptions(size_strata=1)
    nothing = bias(read(tmp_path, table, threshold=None), ["tube"]).parts[0].by_size
    assert {cell.found.reason for cell in nothing.cells} == {"no threshold was given"}


def test_masks_have_dice_by_size_and_a_loss_within_sizes_is_found(tmp_path: Path) -> None:
    table = masks(drop=0.15)
    report = bias_of_values(make_run(tmp_path, table, kind="segmentation"), ["chest_tube"])
    (sized,) = report.by_size
    there = table[table["area_true_ptx"] > 0]
    there = there.assign(stratum=pd.qcut(there["area_true_ptx"], 3, labels=False))
    for cell in sized.by_size.cells:
        rows = there[(there["stratum"] == cell.stratum) & (there["chest_tube"].astype(int).astype(str) == cell.level)]
        assert cell.dice.value == pytest.approx(rows["dice_ptx"].mean())
        assert cell.found.value == pytest.approx((rows["dice_ptx"] > 0).mean())
    (test,) = sized.by_size.tests
    assert test.corrected < 0.05
    assert test.effect.value == pytest.approx(-0.15, abs=0.05)
    page = BiasReport(values=[report]).html
    assert "ptx by size of the lesion and chest_tube" in page
    assert "a mask that meets the lesion" in page


def test_the_verb_shows_them(tmp_path: Path) -> None:
    predictions(effect=1.0).rename(columns={"lesion_area": "mm2"}).to_csv(tmp_path / "t.csv", index=False)
    asked = ["bias", str(tmp_path / "t.csv"), "--by", "tube", "--threshold", "0.5"]
    done = CliRunner().invoke(app, [*asked, "--lesion-area", "mm2", "--size-strata", "2", "--json"])
    told = json.loads(done.stdout)
    cells = told["models"][0]["parts"][0]["by_size"]["cells"]
    assert [cell["stratum"] for cell in cells] == [0, 0, 1, 1]
    assert told["families"]["sizes"]["tests within lesion sizes of scores"] == 1
    assert "within strata" not in CliRunner().invoke(app, asked).output
    assert CliRunner().invoke(app, [*asked, "--size-strata", "1"]).exit_code != 0
