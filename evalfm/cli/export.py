"""`evalfm export`: runs for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.compare import of_task, runs_in
from evalfm.cli.console import emit_json
from evalfm.cli.options import listed, listed_words
from evalfm.errors import UnknownNameError


def export(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some, such as a study's.")],
    out: Annotated[Path, typer.Option(help="The folder that everything is written into.")] = Path("paper"),
    format: Annotated[
        list[str] | None, typer.Option(help="latex, markdown, csv, xlsx or json; several with commas between.")
    ] = None,
    figures: Annotated[str, typer.Option(help="Figures as pdf, svg or png; or none.")] = "pdf",
    task: Annotated[str | None, typer.Option(help="Runs of this task only.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="These, with commas between, or all; else those that tables show.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="Write one .zip that a journal can keep: runs, results, methods, digests."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Write the results of runs for a paper: a table, a methods paragraph, a checklist and figures.

    csv, xlsx and json hold a row per model and metric, every number with all its digits; latex and markdown hold a
    table per task as it would be printed.

    Examples:

        evalfm export runs --out paper --format latex,csv

        evalfm export runs --task ptx-cls --metrics auroc,sensitivity --format xlsx --figures svg

        evalfm export runs --format csv --archive supplement.zip
    """
    from evalfm.analysis.archive import check_archive, write_archive
    from evalfm.analysis.export import FIGURE_FORMATS, FORMATS, export_runs
    from evalfm.publishing import check_writable

    formats = listed_words(format, "--format", FORMATS) or ["latex"]
    if figures not in FIGURE_FORMATS:
        raise UnknownNameError("format of figures", figures, FIGURE_FORMATS)
    check_writable(out)
    if archive is not None:
        check_archive(archive)
    chosen = of_task(runs_in(runs, episodes=True), task)
    written = export_runs(chosen, out, formats=formats, figures=figures, metrics=listed(metrics, "--metrics"))
    if archive is not None:
        write_archive(chosen, archive, {path.name: path.read_bytes() for path in written if path.parent == out})
        written.append(archive)
    if json:
        emit_json([str(path) for path in written])
        return
    for path in written:
        typer.echo(f"Wrote {path}")
