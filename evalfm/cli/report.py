"""`evalfm report`: everything that runs say, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.compare import of_task, runs_in
from evalfm.cli.console import refuse_folder


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some, such as a study's.")],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("report.html"),
    task: Annotated[str | None, typer.Option(help="Runs of this task only.")] = None,
    title: Annotated[str, typer.Option(help="What stands at its top.")] = "Encoders compared",
    csv: Annotated[Path | None, typer.Option(help="Write every table as CSV into this folder too.")] = None,
) -> None:
    """Write one HTML file that opens offline: tables, intervals, curves, images, subgroups, methods and provenance.

    A features.json (evalfm embed --similarity), robustness.json (evalfm robustness) or counterfactual.json (evalfm
    benchmark) in a named folder is a section.

    Examples:

        evalfm report runs --out report.html

        evalfm report runs/data-scarcity runs/feature-quality

        evalfm report runs --task ptx-cls --title "Pneumothorax, site A" --csv tables
    """
    from evalfm.analysis.report.page import report_page, write_tables
    from evalfm.analysis.report.section import CHANGES, FEATURES, read_changes, read_features
    from evalfm.analysis.robustness import ROBUSTNESS, Robustness
    from evalfm.data.atomic import write_atomically
    from evalfm.publishing import check_writable

    refuse_folder(out)
    if csv is not None:
        check_writable(csv, "--csv")
    chosen = of_task(runs_in(runs, episodes=True), task)
    features = [read_features(folder / FEATURES) for folder in runs if (folder / FEATURES).is_file()]
    robustness = [Robustness.read(folder / ROBUSTNESS) for folder in runs if (folder / ROBUSTNESS).is_file()]
    changes = [read_changes(folder / CHANGES) for folder in runs if (folder / CHANGES).is_file()]
    content = report_page(chosen, title, features, robustness, changes).encode()
    write_atomically(out, content)
    typer.echo(f"Wrote {out} ({len(content) / 1e6:.1f} MB, {len(chosen)} runs)")
    if csv is not None:
        typer.echo(f"Wrote {len(write_tables(chosen, csv, features, robustness, changes))} tables into {csv}")
