"""The table of lesions that runs of masks have: what is in it, what reads it, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import label

from evalfm.analysis.compare import compare
from evalfm.analysis.report.lesions import by_size, froc_chart, lesions_table, masks_of
from evalfm.analysis.report.page import report_page
from evalfm.analysis.table import task_tables
from evalfm.data.manifest import Manifest
from evalfm.data.rle import decode
from evalfm.errors import EvalfmError
from evalfm.predictions import LESION_COLUMNS, LESIONS
from evalfm.probing.import_predictions import import_predictions
from evalfm.probing.probe import probe
from evalfm.run import Run

from .analysis.made import without_digests
from .squares import make_squares

EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_squares(tmp_path_factory.mktemp("squares"), patients=90)


@pytest.fixture(scope="module")
def run(data: Manifest, square_seg: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs")
    (made,) = probe("random:resnet18", square_seg, data=data, heads="linear", baselines="none", out=out)
    return made


def test_a_row_for_each_region_of_every_test_image(run: Run, data: Manifest) -> None:
    table, lesions = run.test_predictions(), run.lesions()
    assert list(lesions.columns) == list(LESION_COLUMNS)
    rows = {name: row for row, name in enumerate(data.table["id"])}
    for row in table.to_dict("records"):
        mine = lesions[lesions["id"] == row["id"]]
        size = int(row["height"]), int(row["width"])
        truth = data.mask(rows[row["id"]], "square")
        predicted = decode("relative", row["prediction_rle_square"], size)
        for mask, is_lesion in ((truth, True), (predicted, False)):
            numbers, _ = label(mask, EIGHT)
            sizes = sorted(np.bincount(numbers.ravel())[1:] / numbers.size)
            assert sorted(mine["share"][mine["lesion"] == is_lesion]) == pytest.approx(sizes)
        assert row["lesions_square"] == label(truth, EIGHT)[1]
        assert row["lesions_found_square"] == (mine["lesion"] & mine["matched"]).sum()
        assert row["false_positives_square"] == (~mine["lesion"] & ~mine["matched"]).sum()
        called = mine[~mine["lesion"]]
        assert (called["score"] >= row["threshold_square"]).all()
        if len(called):
            assert called["score"].max() >= row["score_square"] or row["score_square"] < row["threshold_square"]
    assert set(lesions["id"]) <= set(table["id"])
    assert lesions["lesion"].sum() == (table["area_true_square"] > 0).sum()
    found = run.metrics["lesion_sensitivity"].value
    assert found == pytest.approx(table["lesions_found_square"].sum() / table["lesions_square"].sum())
    assert 0 < run.metrics["froc_score"].value <= found


def test_folds_have_their_own_lesions(data: Manifest, square_seg: str, tmp_path: Path) -> None:
    (made,) = probe("pixels", square_seg, data=data, heads="mean-mask", baselines="none", folds=3, out=tmp_path)
    lesions, table = made.lesions(), made.test_predictions()
    counts = lesions[lesions["lesion"]].groupby("id").size()
    assert counts.to_dict() == dict.fromkeys(table["id"][table["area_true_square"] > 0], 1)
    false = lesions[~lesions["lesion"] & ~lesions["matched"]].groupby("id").size()
    assert (
        table.set_index("id")["false_positives_square"].pipe(lambda each: each[each > 0]).to_dict() == false.to_dict()
    )
    assert made.metrics["froc_score"].value is not None


def test_runs_are_compared_by_what_they_find(run: Run, data: Manifest, square_seg: str, tmp_path: Path) -> None:
    (other,) = probe("pixels", square_seg, data=data, heads="mean-mask", baselines="none", out=tmp_path)
    for metric in ("froc_score", "lesion_sensitivity", "false_positives_per_image"):
        (table,) = compare([run, other], metric=metric)
        for entry in table.entries:
            of = next(each for each in (run, other) if each.encoder in entry.encoder and each.head == entry.head)
            assert entry.estimate.value == of.metrics[metric].value
        (difference,) = [each.difference for each in table.entries if each.difference is not None]
        assert difference.p is not None


def test_a_run_of_an_older_version_stays_readable(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(run.folder, folder)
    (folder / LESIONS).unlink()
    table = pd.read_parquet(folder / "predictions.parquet")
    mark = table.attrs
    table = table.drop(columns=[name for name in table if name.startswith(("lesions_", "false_positives_"))])
    table.attrs = mark
    table.to_parquet(folder / "predictions.parquet", index=False)
    record = json.loads((folder / "run.json").read_text())
    for name in ("lesion_sensitivity", "false_positives_per_image", "froc_score"):
        del record["metrics"][name]
    (folder / "run.json").write_text(json.dumps(record))
    old = Run.read(folder)
    assert old.lesions() is None
    assert compare([old])[0].entries[0].estimate.value == run.metrics["dice_positive"].value
    page = report_page([old], "Title")
    assert "that did not count them" in page
    assert masks_of(old, "square") is None


def test_what_no_run_writes_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(run.folder, folder)
    right = pd.read_parquet(folder / LESIONS)
    right.assign(score=right["score"] / 2).to_parquet(folder / LESIONS, index=False)
    with pytest.raises(EvalfmError, match="not the table that this run was written with"):
        Run.read(folder).lesions()
    without_digests(Run.read(folder))
    faults = {
        "it has": right.drop(columns="score"),
        "names what is no class": right.assign(finding="heart"),
        "must hold a word": right.assign(id=1),
        "must hold true or false": right.assign(lesion=right["lesion"].astype(int)),
        "'share' must lie between 0 and 1": right.assign(share=2.0),
        "'area_mm2' must": right.assign(area_mm2=-1.0),
        "'score' must": right.assign(score=np.inf),
    }
    for words, table in faults.items():
        table.to_parquet(folder / LESIONS, index=False)
        with pytest.raises(EvalfmError, match=words):
            Run.read(folder).lesions()
    (folder / LESIONS).write_bytes(b"no parquet")
    with pytest.raises(EvalfmError, match="no Parquet"):
        Run.read(folder).lesions()
    assert "is not what a run writes" in report_page([Run.read(folder)], "Title")


def test_thirds_of_the_sizes_hold_what_loops_count(run: Run) -> None:
    masks = masks_of(run, "square")
    strata = by_size(masks)
    there = run.lesions().query("lesion")
    size = there["share"].to_numpy()
    edges = np.quantile(size, [1 / 3, 2 / 3])
    for number, each in enumerate(strata):
        low = -np.inf if number == 0 else edges[number - 1]
        high = np.inf if number == 2 else edges[number]
        inside = (size >= low) & (size < high)
        assert each.lesions == inside.sum()
        assert each.sensitivity.value == pytest.approx(there["matched"][inside].mean())
    assert sum(each.lesions for each in strata) == len(there)
    assert "% of the image" in strata[0].words


def test_thirds_are_in_mm2_where_every_lesion_has_a_spacing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "spaced"
    shutil.copytree(run.folder, folder)
    without_digests(Run.read(folder))
    table = run.lesions()
    table.assign(area_mm2=table["share"] * 1000).to_parquet(folder / LESIONS, index=False)
    assert "mm²" in by_size(masks_of(Run.read(folder), "square"))[0].words
    table["area_mm2"] = table["share"] * 1000
    table.loc[table.index[table["lesion"]][0], "area_mm2"] = np.nan
    table.to_parquet(folder / LESIONS, index=False)
    assert "% of the image" in by_size(masks_of(Run.read(folder), "square"))[0].words


def test_the_report_shows_them_and_says_where_there_is_no_curve(
    run: Run, data: Manifest, square_seg: str, tmp_path: Path
) -> None:
    run.predictions().drop(columns="score_square").to_parquet(tmp_path / "theirs.parquet")
    theirs = import_predictions(tmp_path / "theirs.parquet", square_seg, "theirs", data=data, out=tmp_path / "runs")
    (summary,) = task_tables([run, theirs])
    found = lesions_table("lesions", summary.lines, "square")
    by_name = {row[0]: row for row in found.rows}
    own, other = by_name["random:resnet18 · linear"], by_name["theirs · imported · unknown"]
    assert own[1] == other[1] == run.metrics["lesion_sensitivity"]
    assert own[2] == other[2]
    assert own[3].value is not None
    assert "one operating point" in other[3].reason
    assert own[4:] == other[4:]
    drawing = str(froc_chart(summary.lines, "square"))
    assert drawing.count("<polyline") == 1
    assert drawing.count("<circle") >= 1
    page = report_page([run, theirs], "Title")
    assert "Lesions of square" in page
    assert "intersection over union of 0.1" in page
