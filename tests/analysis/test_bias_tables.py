"""Tables of predictions as outside models leave them: each is told rightly or refused in one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evalfm import cli
from evalfm.analysis.bias import bias
from evalfm.analysis.scores import scores_of_table
from evalfm.statistics.fixed_label import at_fixed_label
from evalfm.statistics.subgroups import SubgroupScores

Asked = Callable[..., tuple[int, str, str]]


def predictions(rows: int = 300) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    y = generator.random(rows) < 0.4
    return pd.DataFrame(
        {
            "patient": [f"p{row // 2}" for row in range(rows)],
            "target": y.astype(int),
            "score": 1 / (1 + np.exp(-(y + generator.normal(size=rows)))),
            "tube": (generator.random(rows) < np.where(y, 0.7, 0.2)).astype(int),
            "sex": np.where(generator.random(rows // 2) < 0.5, "F", "M")[np.arange(rows) // 2],
            "age": generator.integers(18, 90, rows),
        }
    )


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """Exit status, output and error of ``evalfm bias`` on a table; a page is asked for too."""

    def ask(table: pd.DataFrame | str, *arguments: str) -> tuple[int, str, str]:
        path = tmp_path / "t.csv"
        text = table if isinstance(table, str) else table.to_csv(index=False)
        path.write_text(text)
        chosen = arguments if "--by" in arguments else ("--by", "tube", *arguments)
        page = tmp_path / "page.html"
        page.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["evalfm", "bias", str(path), *chosen, "--html", str(page)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        told = capsys.readouterr()
        assert page.exists() == (caught.value.code in (0, None)), "half written"
        return int(caught.value.code or 0), told.out, told.err

    return ask


TABLE = predictions()
FIRST = TABLE.index == 0
REFUSED: dict[str, tuple[pd.DataFrame | str, tuple[str, ...], str]] = {
    "labels 1 and 2": (TABLE.assign(target=TABLE["target"] + 1), (), "must hold 0, 1 or nothing"),
    "labels in words": (TABLE.assign(target=TABLE["target"] == 1), (), "must hold 0, 1 or nothing"),
    "no label": (TABLE.assign(target=None), (), "No row of t.csv has a label in 'target'"),
    "no row": ("target,score,tube\n", (), "No row of t.csv has a label"),
    "nothing": ("", (), "cannot be read as CSV"),
    "a word for a score": (TABLE.assign(score=TABLE["score"].astype(object).mask(FIRST, "high")), (), "1 cells that"),
    "no score": (TABLE.assign(score=TABLE["score"].mask(FIRST)), (), "1 cells that are no number"),
    "NA for a score": (TABLE.assign(score=TABLE["score"].astype(object).mask(FIRST, "NA")), (), "1 cells that"),
    "an infinite score": (TABLE.assign(score=TABLE["score"].mask(FIRST, np.inf)), (), "1 cells that are no number"),
    "two columns of one name": (TABLE.rename(columns={"age": "score"}), (), "has the column score twice"),
    "no such column": (TABLE, ("--score", "prob"), "no column of t.csv 'prob'"),
    "no such patient": (TABLE, ("--patient", "pateint"), "Did you mean 'patient'?"),
    "some patients": (TABLE.assign(patient=TABLE["patient"].mask(FIRST)), (), "is empty in 1 rows"),
    "an attribute unknown": (TABLE.assign(tube=None), (), "'tube' has no known value"),
    "an attribute all NA": (TABLE.assign(tube="NA"), (), "'tube' has no known value"),
    "an attribute of one level": (TABLE.assign(tube=1), (), "only the level '1'"),
    "a number without threshold": (TABLE, ("--by", "age"), "give a threshold"),
    "a threshold beyond everybody": (TABLE, ("--by", "age:200"), "lies in one level"),
    "the label as attribute": (TABLE, ("--by", "target"), "no attribute in the predictions 'target'"),
    "the score as attribute": (TABLE, ("--by", "score:0.5"), "no attribute in the predictions 'score'"),
    "adjusted for the score": (TABLE, ("--adjust", "score"), "no attribute in the predictions 'score'"),
    "adjusted for the patient": (TABLE, ("--adjust", "patient"), "no attribute in the predictions 'patient'"),
    "a threshold that is none": (TABLE, ("--threshold", "nan"), "threshold: Input should be a finite number"),
    "a threshold in per cent": (TABLE, ("--threshold", "50"), "50 is no threshold of these scores"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_is_refused_in_one_sentence(case: str, asked: Asked) -> None:
    table, arguments, sentence = REFUSED[case]
    code, out, error = asked(table, *arguments)
    assert (code, out) == (2, "")
    assert sentence in " ".join(error.split())
    assert error.count("\n") == 1
    assert "Traceback" not in error


UNSAID: dict[str, tuple[pd.DataFrame, str]] = {
    "constant scores": (TABLE.assign(score=0.3), "the score is constant"),
    "constant among negatives": (
        TABLE.assign(score=np.where(TABLE["target"] == 1, TABLE["score"], 0.1 + 0.2)),
        "the score is constant at label 0",
    ),
    "the label as score": (TABLE.assign(score=0.1 + 0.8 * TABLE["target"]), "the score is constant at label 0"),
    "no negatives": (TABLE.assign(target=1), "needs 10 patients of either level at label 0; the smaller has 0"),
    "few rows": (TABLE[:12], "needs 10 patients of either level at label 0"),
    "a stratum without negatives": (
        TABLE[(TABLE["tube"] == 0) | (TABLE["target"] == 1)],
        "needs 10 patients of either level at label 0; the smaller has 0",
    ),
}


@pytest.mark.parametrize("case", UNSAID)
def test_where_nothing_can_be_said_no_number_is(case: str, asked: Asked) -> None:
    table, reason = UNSAID[case]
    code, out, error = asked(table, "--json")
    assert (code, error) == (0, "")
    (contrast,) = json.loads(out)["models"][0]["parts"][0]["contrasts"]
    assert contrast["verdict"].startswith(f"Cannot be said for tube = 1: {reason}")
    effect = contrast["fixed"]["0"]["effect"]
    assert {effect[name] for name in ("value", "low", "standardised", "detectable", "p")} == {None}
    assert contrast["corrected"] is None
    assert contrast["fixed"]["0"]["auroc"]["low"] is None
    assert all(
        (each["low"] is None) or each["low"] < each["high"] for each in [*contrast["cross"].values(), contrast["gap"]]
    )


def test_without_positives_the_negatives_are_still_asked(asked: Asked) -> None:
    code, out, _ = asked(TABLE.assign(target=0), "--json")
    part = json.loads(out)["models"][0]["parts"][0]
    assert code == 0
    assert part["contrasts"][0]["fixed"]["0"]["effect"]["p"] is not None
    assert part["contrasts"][0]["fixed"]["1"]["auroc"]["value"] is None
    assert part["strata"][0]["metrics"]["auroc"]["value"] is None
    assert part["strata"][0]["metrics"]["auroc"]["reason"]


def read(tmp_path: Path, table: pd.DataFrame, **rest: Any) -> Any:
    table.to_csv(tmp_path / "read.csv", index=False)
    return scores_of_table(tmp_path / "read.csv", **rest)


def test_a_patient_in_both_groups_is_no_two_patients(tmp_path: Path) -> None:
    report = bias(read(tmp_path, TABLE), ["tube", "sex"])
    tube, sex = (part.contrasts[0].fixed[0] for part in report.parts)
    # Half of the patients have a radiograph with a tube and one without; sexes do not change between radiographs.
    assert tube.method == "2000 permutations of patients, and within patients, within the label"
    assert sex.method == "2000 permutations of patients within the label"
    member = TABLE["tube"].to_numpy() == 1
    expected = at_fixed_label(SubgroupScores.of(TABLE["target"], TABLE["score"], member, TABLE["patient"]))[0]
    assert tube.p == pytest.approx(expected.p, rel=1e-9)
    apart = at_fixed_label(SubgroupScores.of(TABLE["target"], TABLE["score"], member, np.arange(len(TABLE))))[0]
    assert tube.effect.p != pytest.approx(apart.effect.p, rel=1e-3)


def test_scores_that_are_no_probabilities_are_ranked_and_not_calibrated(tmp_path: Path) -> None:
    logit = np.log(TABLE["score"] / (1 - TABLE["score"]))
    as_is, moved = (
        bias(read(tmp_path, table, threshold=threshold), ["tube"]).parts[0]
        for table, threshold in ((TABLE, 0.5), (TABLE.assign(score=100 * logit), 0.0))
    )
    one, other = as_is.contrasts[0], moved.contrasts[0]
    assert other.cross["gap"].value == pytest.approx(one.cross["gap"].value)
    assert other.fixed[0].effect.standardised == pytest.approx(one.fixed[0].effect.standardised, rel=1e-6)
    assert other.fixed[0].effect.p == pytest.approx(one.fixed[0].effect.p, rel=1e-6)
    assert moved.strata[0].metrics["sensitivity"].value == as_is.strata[0].metrics["sensitivity"].value
    assert moved.strata[0].calibration_in_the_large is None


def test_unknown_cells_are_left_out_and_said_however_they_are_written(tmp_path: Path) -> None:
    gone = TABLE.index % 3 == 0
    empty = bias(read(tmp_path, TABLE.assign(tube=TABLE["tube"].astype(float).mask(gone))), ["tube"])
    said = bias(read(tmp_path, TABLE.assign(tube=TABLE["tube"].astype(object).mask(gone, "NA"))), ["tube"])
    kept = bias(read(tmp_path, TABLE[~gone]), ["tube"])
    assert empty.parts[0].unknown == said.parts[0].unknown == 100
    assert empty.cautions == ()
    assert said.cautions == ("Cells that say NA or the like count as unknown: 100 in tube.",)
    expected = kept.parts[0].contrasts[0].fixed[0].effect
    for report in (empty, said):
        assert report.parts[0].contrasts[0].fixed[0].effect == expected
        assert sum(stratum.images for stratum in report.parts[0].strata) == 200


def test_a_level_that_never_occurs_is_no_stratum(tmp_path: Path) -> None:
    table = TABLE.assign(pacemaker=np.where(TABLE["sex"] == "F", 0, TABLE["tube"]))
    (part,) = bias(read(tmp_path, table), ["sex*pacemaker"]).parts
    assert [stratum.level for stratum in part.strata] == ["F, 0", "M, 0", "M, 1"]
    assert all(stratum.images > 0 for stratum in part.strata)


def test_a_score_that_is_the_tube_is_told_though_it_has_no_standard_error(asked: Asked, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=len(TABLE))
    whole = TABLE.assign(score=np.where(TABLE["tube"] == 1, 0.9, 0.2))
    spread = TABLE.assign(score=1 / (1 + np.exp(-(3 * TABLE["tube"] + 0.1 * noise))))
    for table in (whole, spread):
        verdict = bias(read(tmp_path, table), ["tube"]).parts[0].contrasts[0].verdict
        assert verdict.startswith("Among negatives every score with tube = 1 is higher than every other")
    upside_down = bias(read(tmp_path, whole.assign(score=1 - whole["score"])), ["tube"]).parts[0].contrasts[0]
    assert "is lower than every other" in upside_down.verdict
    # No p that rounding made, and none that would move the correction of the others.
    assert upside_down.fixed[0].effect.p is None
    assert upside_down.corrected is None
    code, out, _ = asked(whole, "--by", "tube,tube")
    assert code == 0
    assert out.count("every score with") == 1
