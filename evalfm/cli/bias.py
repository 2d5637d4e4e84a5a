"""`evalfm bias`: does the score depend on the chest tube, the sex, the view?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evalfm.runs import Run

TABLES = (".csv", ".tsv", ".parquet", ".pq")


def bias(
    models: Annotated[list[Path], typer.Argument(help="Runs, folders that hold some, or a table of predictions.")],
    by: Annotated[str, typer.Option(help="Attributes: chest_tube,sex,age:65,view; sex*view for both at once.")],
    adjust: Annotated[str, typer.Option(help="Columns to adjust the test for, such as age,sex,view.")] = "",
    task: Annotated[str | None, typer.Option(help="Runs of this task only.")] = None,
    target: Annotated[str, typer.Option(help="Of a table: column of the label, 0 or 1.")] = "target",
    score: Annotated[str, typer.Option(help="Of a table: column of the score.")] = "score",
    patient: Annotated[str, typer.Option(help="Of a table: column of the patient.")] = "patient",
    threshold: Annotated[
        float | None,
        typer.Option(help="Of a table: at and above it a score is positive; it must not come from these rows."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report on one page here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the summary as Markdown here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report each attribute's strata and whether the score depends on it at fixed label.

    Scores are tested among images without the finding; Dice, false alarms and errors by their means. Runs, and the
    predictions of any outside model for a yes-or-no question.

    Examples:

        evalfm bias runs --task ptx-cls --by chest_tube,sex,view --html bias.html

        evalfm bias predictions.csv --by sex,age:65 --adjust view --threshold 0.5
    """
    from evalfm.analysis.bias import bias as report_on
    from evalfm.analysis.bias import scores_of_run, scores_of_table
    from evalfm.analysis.bias_page import bias_markdown, bias_page, cautions_of, summary
    from evalfm.analysis.bias_values import bias_of_values
    from evalfm.cli.console import emit_json, print_rows, refuse_folder
    from evalfm.data.atomic import write_atomically

    refuse_folder(html)
    refuse_folder(markdown)
    asked, held = _listed(by), _listed(adjust)
    runs, tables = _found(models, task, threshold)
    scores = [scores_of_run(run) for run in runs if run.record.task["kind"] == "binary"]
    scores += [
        scores_of_table(path, target=target, score=score, patient=patient, threshold=threshold) for path in tables
    ]
    reports = [report_on(each, asked, adjust=held) for each in scores]
    values = [bias_of_values(run, asked, adjust=held) for run in runs if run.record.task["kind"] != "binary"]
    if html is not None:
        write_atomically(html, bias_page(reports, values).encode())
    if markdown is not None:
        write_atomically(markdown, bias_markdown(reports, values).encode())
    if json:
        emit_json([*(report.to_json() for report in reports), *(told.to_json() for told in values)])
        return
    if reports:
        rows = [[name, *cells] for name, cells in summary(reports)]
        title = "Among images without the finding: score's difference in standard deviations, corrected p"
        print_rows(title, ["attribute", *(report.model for report in reports)], rows)
    for report in reports:
        typer.echo(f"{report.model}: {report.images} images, {report.patients} {report.unit}")
        for part in report.parts:
            for contrast in part.contrasts:
                typer.echo(f"  {contrast.verdict}")
    for told in values:
        typer.echo(f"{told.model}: {told.images} images")
        for outcome in told.outcomes:
            for gap in outcome.gaps:
                typer.echo(f"  {gap.verdict}")
    for caution in cautions_of(reports, values):
        typer.echo(f"  {caution}")
    for out in (html, markdown):
        if out is not None:
            typer.echo(f"Wrote {out}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _found(models: list[Path], task: str | None, threshold: float | None) -> tuple[list[Run], list[Path]]:
    """Runs and tables: every run below a folder but floors, or the one that a folder is."""
    from evalfm.errors import EvalfmError
    from evalfm.runs import find_runs

    runs: list[Run] = []
    tables = [path for path in models if path.suffix.lower() in TABLES and path.is_file()]
    for path in models:
        if path in tables:
            continue
        if not path.is_dir():
            raise EvalfmError(
                f"There is no run or table {path}; name a run's folder, or a CSV or Parquet of predictions."
            )
        found = [run for run in find_runs(path) if task in (None, run.task)]
        if len(found) > 1:
            found = [run for run in found if not run.is_floor]
        if not found:
            raise EvalfmError(f"There is no run in {path} to report on; make one with `evalfm probe --task ptx-cls`.")
        runs += found
    if threshold is not None and not tables:
        raise EvalfmError("--threshold is for a table; a run brings its own, chosen on val.")
    return runs, tables
