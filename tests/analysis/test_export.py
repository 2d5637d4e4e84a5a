"""Runs as a paper needs them: every number of a run, as a number and as it is printed."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook
from typer.testing import CliRunner

from evalfm.analysis.export import COLUMNS, FORMATS, Results, export_runs
from evalfm.cautions import RANDOM_WEIGHTS
from evalfm.cli.app import app
from evalfm.errors import UnknownNameError
from evalfm.run import Run
from tests.analysis.made import make_run


def scores(seed: int, n: int = 120) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    target = np.arange(n) % 3 == 0
    return pd.DataFrame(
        {
            "id": [f"i{row}" for row in range(n)],
            "patient": [f"p{row}" for row in range(n)],
            "split": ["val"] * (n // 3) + ["test"] * (n - n // 3),
            "target": target.astype(float),
            "score_ptx": 1 / (1 + np.exp(-generator.normal(target * 1.5))),
            "threshold": 0.5,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Run]:
    out = tmp_path_factory.mktemp("runs")
    return [
        make_run(out, scores(0), encoder="=evil & co_1"),
        make_run(out, scores(1), encoder="two", seed=0),
        make_run(out, scores(2), encoder="two", seed=1),
        make_run(out, scores(3), encoder="pixels", baseline=True),
    ]


def test_numbers_keep_every_digit_and_seeds_are_averaged(made: list[Run]) -> None:
    results = Results.of(made, ["auroc"])
    by_name = {row["encoder"]: row for row in results.rows}
    assert [list(row) for row in results.rows] == [list(COLUMNS)] * 3
    assert by_name["=evil & co_1"]["value"] == made[0].metrics["auroc"].value
    assert by_name["=evil & co_1"]["low"] == made[0].metrics["auroc"].low
    both = [run.metrics["auroc"].value for run in made[1:3]]
    assert by_name["two"]["value"] == pytest.approx(np.mean(both), abs=1e-12)
    assert by_name["two"]["seeds"] == 2
    assert by_name["two"]["seed_sd"] == pytest.approx(np.std(both, ddof=1))
    assert by_name["pixels"]["baseline"] is True


def test_random_weights_of_a_baseline_are_not_said_of_the_encoder(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, scores(0), encoder="one"),
        make_run(
            tmp_path,
            scores(1),
            encoder="one",
            baseline=True,
            made={"random_weights": True},
            cautions=[RANDOM_WEIGHTS],
        ),
    ]
    assert RANDOM_WEIGHTS.sentence not in Results.of(runs).cautions
    assert any("random weights" in each.lower() for each in Results.of(runs).cautions)


def test_every_format_says_the_same_numbers(made: list[Run], tmp_path: Path) -> None:
    written = export_runs(made, tmp_path, formats=list(FORMATS), figures="none", metrics=["all"])
    assert {path.name for path in written} == {
        *(f"results.{suffix}" for suffix, _ in FORMATS.values()),
        *("methods.md", "checklist.md"),
    }
    wanted = [(row["metric"], row["value"], row["low"]) for row in Results.of(made, ["all"]).rows]
    as_json = json.loads((tmp_path / "results.json").read_text())
    assert [(row["metric"], row["value"], row["low"]) for row in as_json["results"]] == wanted
    with open(tmp_path / "results.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))

    def number(text: str) -> float | None:
        return float(text) if text else None

    assert [(line["metric"], number(line["value"]), number(line["low"])) for line in lines] == wanted
    book = load_workbook(tmp_path / "results.xlsx")
    sheet = book["results"]
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in sheet.iter_rows(min_row=2, values_only=True)]
    # A spreadsheet keeps sixteen digits.
    assert [row["metric"] for row in rows] == [name for name, _, _ in wanted]
    for place, column in enumerate(("value", "low"), 1):
        numbers = [np.nan if line[place] is None else line[place] for line in wanted]
        found = [np.nan if row[column] is None else row[column] for row in rows]
        assert found == pytest.approx(numbers, rel=1e-15, nan_ok=True)


def test_no_spreadsheet_runs_a_name(made: list[Run], tmp_path: Path) -> None:
    export_runs(made, tmp_path, formats=["xlsx", "csv"], figures="none")
    cells = [cell for line in load_workbook(tmp_path / "results.xlsx")["results"].iter_rows() for cell in line]
    assert "f" not in {cell.data_type for cell in cells}
    assert "'=evil & co_1" in {cell.value for cell in cells}
    assert ",=evil" not in (tmp_path / "results.csv").read_text()


def test_a_table_for_print_has_the_figures_of_compare_and_says_what_is_a_baseline(
    made: list[Run], tmp_path: Path
) -> None:
    export_runs(made, tmp_path, formats=["latex", "markdown"], figures="none", metrics=["auroc"])
    auroc = made[0].metrics["auroc"]
    cell = f"{auroc.value:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]"
    latex, markdown = (tmp_path / "results.tex").read_text(), (tmp_path / "results.md").read_text()
    assert rf"=evil \& co\_1 & {cell} \\" in latex
    assert f"| =evil & co_1 | {cell} |" in markdown
    assert "pixels $\\cdot$ linear (baseline)" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(made: list[Run], tmp_path: Path) -> None:
    export_runs(made, tmp_path, formats=["latex"], figures="none", metrics=["all"])
    rules = r"\let\toprule\hline\let\midrule\hline\let\bottomrule\hline"
    packages = rf"\IfFileExists{{booktabs.sty}}{{\usepackage{{booktabs}}}}{{{rules}}}"
    lines = [rf"\documentclass{{article}}{packages}\begin{{document}}", r"\input{results}", r"\end{document}"]
    (tmp_path / "paper.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_are_of_the_format_that_was_asked_for(made: list[Run], tmp_path: Path, in_full: None) -> None:
    written = export_runs(made[:1], tmp_path, formats=["json"], figures="svg")
    names = sorted(path.name for path in written if path.parent.name == "figures")
    stem = f"1-ptx-cls-evil-co-1-linear-{made[0].record.key[:8]}"
    curves = [f"{stem}-{each}.svg" for each in ("calibration", "net_benefit", "roc")]
    assert names == [*curves, "1-ptx-cls-forest.svg"]
    assert all(path.read_text().startswith("<?xml") for path in written if path.suffix == ".svg")


def test_a_wrong_metric_or_format_is_refused_and_nothing_written(made: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="aurocc"):
        export_runs(made, tmp_path / "a", metrics=["aurocc"])
    folder = str(made[0].folder)
    for words in (["--format", "pdf"], ["--figures", "gif"], ["--task", "heart"], ["--metrics", "aurocc"]):
        done = CliRunner().invoke(app, ["export", folder, "--out", str(tmp_path / "a"), *words])
        assert done.exit_code != 0
        assert isinstance(done.exception, UnknownNameError), done.output
    assert not (tmp_path / "a").exists()


def test_the_verb_names_what_it_wrote(made: list[Run], tmp_path: Path) -> None:
    words = ["export", str(made[0].folder), "--out", str(tmp_path), "--format", "csv", "--figures", "none"]
    done = CliRunner().invoke(app, words)
    assert done.output == "".join(
        f"Wrote {tmp_path / name}\n" for name in ("results.csv", "methods.md", "checklist.md")
    )
