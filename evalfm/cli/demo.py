"""`evalfm demo`: the main job on what ships with evalfm, in a few minutes and without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.console import Bars, emit_json, print_overview
from evalfm.errors import EvalfmError


def demo(
    out: Annotated[Path, typer.Option(help="Where runs and the picture are written.")] = Path("runs/demo"),
    json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Probe three embedded encoders on three questions about phantom radiographs.

    Nothing is downloaded. The radiographs are synthetic and no encoder has seen a radiograph before:
    the table shows what evalfm does, not how good a model is.

    Example:

        evalfm demo
    """
    from evalfm.analysis.figures import Caption, draw_forest
    from evalfm.analysis.table import as_json, task_tables
    from evalfm.study import load_study, run_study

    study = load_study("demo")
    bars = Bars()
    bars.say(f"{study.title}: {len(study.encoders)} encoders × {len(study.tasks)} tasks")
    runs = run_study(study, out, bars)
    for outcome in runs.failed:
        assert outcome.failure is not None
        raise EvalfmError(f"A part of the demo failed ({outcome.cell.description}): {outcome.failure.sentence}")
    tables = task_tables(runs)
    picture = out / "demo.png"
    panels = []
    for table in tables:
        lines = [
            (
                f"{line.encoder} · {line.head}" + (" (baseline)" if line.baseline else ""),
                line.metrics[table.metric_names[0]],
                line.baseline,
            )
            for line in table.lines
        ]
        panels.append((f"{table.task}: {table.metric_names[0]}", lines))
    draw_forest(picture, panels, Caption(study.title, ("phantom data", "no encoder has seen a radiograph")))
    if json:
        emit_json([as_json(table) for table in tables])
        return
    print_overview(study.title, tables)
    typer.echo("Phantom data: these figures say nothing about patients or about trained models.")
    typer.echo(f"Wrote {len(runs)} runs under {out}, the table {runs.results} and the picture {picture}")
    typer.echo("Next: evalfm probe --encoder hog --task cardiomegaly-cls      (or: evalfm ls encoders, evalfm --help)")
