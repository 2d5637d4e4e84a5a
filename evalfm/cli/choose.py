"""`evalfm choose`: which encoder to take for a task, under limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.compare import average_of, runs_in
from evalfm.cli.console import emit_json, print_rows
from evalfm.errors import UnknownNameError


def choose(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    task: Annotated[str, typer.Option(help="The task to choose for.")],
    cohort: Annotated[
        str | None, typer.Option(help="Part of the words of the test cohort that is meant, where there are several.")
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters, such as 90M.")] = None,
    licence: Annotated[str | None, typer.Option(help="commercial: only encoders known to allow it.")] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="Longest forward pass of one image, in ms, as the runs measured it.")
    ] = None,
    labels: Annotated[int | None, typer.Option(help="Only runs trained on at most so many images.")] = None,
    average_over: Annotated[
        str, typer.Option(help="What counts once in a mean (Dice, MAE, accuracy …): image or patient.")
    ] = "image",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank the encoders that are not significantly worse than the best by their cost, and say why others are out.

    Of several heads or adaptations of an encoder the best on val speaks for it.

    Every run holds the time of a forward pass of one image on the device that it was made on; --max-ms takes runs of
    one device.

    Examples:

        evalfm choose runs --task ptx-cls --max-params 100M --licence commercial

        evalfm choose runs --task ptx-seg --max-ms 50 --labels 100
    """
    from evalfm.analysis.choose import Limits
    from evalfm.analysis.choose import choose as answer
    from evalfm.encoders.catalogue import parameters_of

    if licence not in (None, "commercial"):
        raise UnknownNameError("demand on the licence", str(licence), ["commercial"])
    most = None if max_params is None else parameters_of(max_params)
    limits = Limits(most, licence == "commercial", labels, max_ms)
    choice = answer(runs_in(runs), task, limits, cohort=cohort, average_over=average_of(average_over))
    if json:
        emit_json(choice.to_json())
        return
    header = [
        "encoder",
        "head",
        "adaptation",
        choice.comparison.metric,
        "parameters",
        "GFLOP",
        "ms",
        "measured on",
        "dimensions",
        "licence",
        "worst stratum",
    ]
    rows = [
        [
            each.encoder,
            each.head,
            each.adaptation,
            each.estimate,
            "–" if each.parameters is None else f"{each.parameters:,}",
            "–" if each.gigaflops is None else f"{each.gigaflops:.3g}",
            "–" if each.milliseconds is None else f"{each.milliseconds:.3g}",
            "–" if each.milliseconds is None else each.timed,
            str(each.dimensions or "–"),
            each.licence,
            each.worst or "–",
        ]
        for each in choice.candidates
    ]
    print_rows(f"{choice.task}: not significantly worse than the best, the smallest first", header, rows)
    typer.echo(choice.paragraph)
    for name, reason in choice.excluded:
        typer.echo(f"  out: {name}: {reason}")
