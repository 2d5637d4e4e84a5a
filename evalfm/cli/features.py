"""`evalfm features`: what encoders' features are like, without any label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.options import listed


def features(
    encoder: Annotated[list[str], typer.Option(help="As for probe; repeat for several, or commas between.")],
    data: Annotated[str | None, typer.Option(help="Folder or registered name; else the phantom.")] = None,
    images: Annotated[int, typer.Option(help="At most so many, drawn by patient.")] = 1000,
    weights: Annotated[str, typer.Option(help="Of all encoders: hub or random.")] = "hub",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    profile: Annotated[
        bool, typer.Option("--profile", help="Print seconds per stage at the end, as for probe.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for features.json; evalfm report shows it.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Effective rank of each encoder's features, and how alike each two encoders see the same images.

    Example:

        evalfm features --encoder hog,random:resnet18
    """
    from evalfm.probing.names import check_names, is_encoder_path

    encoders = listed(encoder, "--encoder", is_encoder_path)
    check_names(encoders, data=[data])

    from evalfm.analysis.report.section import quality_tables
    from evalfm.cli.console import Bars, emit_json, print_rows
    from evalfm.cli.phantom_notice import print_notice
    from evalfm.features.profile import NO_TIMES, StageTimes
    from evalfm.probing.feature_quality import FEATURES, feature_quality

    bars = Bars()
    print_notice(data, bars)
    times = StageTimes() if profile else NO_TIMES
    content = feature_quality(
        encoders, data, images=images, weights=weights, device=device, out=out, progress=bars, times=times
    )
    if json:
        emit_json(content | {"seconds": times.to_json()} if profile else content)
        return
    found = quality_tables(0, content)
    for heading, table in found.tables:
        print_rows(heading, table.header, [[cell.text for cell in row] for row in table.cells])
    typer.echo(found.words)
    for caution in found.cautions:
        typer.echo(f"  {caution}")
    typer.echo(f"Wrote {out / FEATURES}")
    if profile:
        typer.echo("\n".join(times.table()))
