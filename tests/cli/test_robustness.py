"""`evalfm robustness` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evalfm
from evalfm.data.manifest import Manifest
from evalfm.run import Run

from .typed import evalfm as typed


@pytest.fixture(scope="module")
def run(squares: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs")
    (made,) = evalfm.probe("pixels", "square", data=squares, heads=["linear"], baselines="none", out=out, folds=3)
    return made


def test_tables_page_file_and_report_say_the_same(run: Run, squares: Manifest, tmp_path: Path) -> None:
    html, out = tmp_path / "page.html", tmp_path / "out"
    words = ("--data", squares.folder, "--perturbations", "jpeg,gamma=2", "--by", "sex", "--images", 60)
    told = typed("robustness", run.folder, *words, "--html", html, "--out", out)
    assert told.returncode == 0, told.stderr
    shown = json.loads(typed("robustness", run.folder, *words, "--json").stdout)
    assert shown == json.loads((out / "robustness.json").read_text())
    (found,) = shown["runs"]
    assert [each["label"] for each in found["effects"]] == [
        "jpeg 90 quality", "jpeg 50 quality", "jpeg 10 quality", "gamma 2",
    ]  # fmt: skip
    assert found["images"] <= 60
    for text in (told.stdout, html.read_text()):
        assert "jpeg 10 quality" in text
        assert f"{found['effects'][3]['cosine']['value']:.3f} [" in text
        assert f"{found['index']['chance']:.3f}" in text
        assert "Share of the way: the mean of 1 − cosine" in text
    assert f"Wrote {html}" in told.stdout
    report = tmp_path / "report.html"
    assert typed("report", run.folder, out, "--out", report, "--csv", tmp_path / "tables").returncode == 0
    assert "Feature robustness" in report.read_text()
    assert (tmp_path / "tables" / "robustness-0-strongest.csv").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--perturbations", "blurr"), "blur"),
        (("--perturbations", "jpeg=900"), "from 1 to 100 quality"),
        (("--by", "scanner", "--perturbations", "jpeg"), "scanner"),
        (("--images", "0"), "images"),
        (("--html", "{folder}"), "folder"),
    ],
)
def test_a_mistake_is_a_sentence(
    run: Run, squares: Manifest, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    given = [word.format(folder=tmp_path) for word in words]
    told = typed("robustness", run.folder, "--data", squares.folder, *given)
    assert told.returncode == 2
    assert says in told.stderr
    assert "Traceback" not in told.stderr
