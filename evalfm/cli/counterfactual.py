"""`evalfm counterfactual`: what a chest tube alone changes in a run's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evalfm.probing.counterfactual import Change


def counterfactual(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    images: Annotated[int, typer.Option(help="Phantom films, each drawn without and with the tube.")] = 200,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 256,
    weights: Annotated[str | None, typer.Option(help="The checkpoint, where the run's came from a file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="file.py:build, where the run's encoder came from one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw the same phantom films without and with a chest tube, all else equal, and say how the answers change.

    Example:

        evalfm counterfactual runs/hog/ptx-cls/linear-frozen-1a2b3c4d
    """
    from evalfm.cli.console import Bars, emit_json, print_rows
    from evalfm.probing.counterfactual import counterfactual as changes_of

    found = changes_of(run, images=images, size=size, weights=weights, encoder=encoder, device=device, progress=Bars())
    if json:
        emit_json(found.to_json())
        return
    header = ["answer", "films", "images", "patients", "without tube", "with tube", "difference", "p"]
    print_rows(f"{found.model} on {found.task}: what the tube alone changes", header, map(_row, found.changes))
    typer.echo(
        "  Paired by film, 95 % interval over patients (t); p is not corrected. Decisions are at the run's threshold."
    )
    for note in found.notes:
        typer.echo(f"  {note}")


def _row(each: Change) -> list[str]:
    cells = [
        each.answer,
        each.among,
        str(each.images),
        str(each.patients),
        f"{each.without:.3f}",
        f"{each.with_tube:.3f}",
    ]
    found = each.difference
    if found is None:
        return [*cells, f"– ({each.reason})", "–"]
    reach = "" if found.low is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    p = "–" if found.p is None else "< .001" if found.p < 0.001 else f"{found.p:.3f}"
    return [*cells, f"{found.value:+.3f}{reach}", p]
