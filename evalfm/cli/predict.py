"""`evalfm predict`: apply a finished run to other data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalfm.cli.console import Bars, emit_json


def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[str, typer.Option(help="Folder or registered name; labels are not needed.")],
    weights: Annotated[str | None, typer.Option(help="The checkpoint, where the run's came from a file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="file.py:build, where the run's encoder came from one.")] = None,
    out: Annotated[Path, typer.Option(help="A new folder for the predictions.")] = Path("predictions"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    local_ids: Annotated[
        bool, typer.Option("--local-ids", help="Write local_ids.csv too: your own id and file of each hashed id.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply a finished run, its head and the threshold it chose on val, to other data.

    Example:

        evalfm predict runs/pixels/ptx-cls/linear-frozen-1a2b3c4d --data build/nih --out build/predicted
    """
    from evalfm.probing.names import check_names, check_run

    check_run(run)
    check_names([encoder] if encoder is not None else [], data=[data])

    from evalfm.probing.predict import as_plain
    from evalfm.probing.predict import predict as apply

    predicted = apply(
        run, data, weights=weights, encoder=encoder, out=out, device=device, local_ids=local_ids, progress=Bars()
    )
    if json:
        emit_json(as_plain(predicted))
        return
    for caution in predicted.cautions:
        typer.echo(f"  {caution}")
    typer.echo(f"{len(predicted.table)} images: {predicted.folder / 'predictions.parquet'}")
