"""`evalfm convert`: a whole pickled model to safetensors, once and with a yes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from evalfm.errors import EvalfmError


def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint that evalfm refuses because it names code.")],
    out: Annotated[Path, typer.Option(help="The file to write, ending in .safetensors.")],
    yes: Annotated[bool, typer.Option("--yes", help="Convert without a question.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Take the tensors out of a pickled model that evalfm does not load as it is.

    The file's SHA-256 and everything that its pickle would import are shown first, and a yes is needed. Then a
    process of its own reads it, with an empty stand-in for every class and function that it names, and writes tensors
    and their names alone.

    Example:

        evalfm convert densenet121-best.pt --out densenet121-best.safetensors
    """
    from evalfm.encoders.converting import convert as write
    from evalfm.encoders.converting import examine

    examined = examine(file)
    typer.echo(f"{examined.path}: {examined.size:,} bytes, SHA-256 {examined.sha256}")
    typer.echo(f"An ordinary reader would import and run these {len(examined.imports)} names of it:")
    for name in examined.imports:
        typer.echo(f"  {name}")
    typer.echo("evalfm replaces them by empty stand-ins and keeps the tensors. Still, a file that was made to harm")
    typer.echo("could reach for a fault of the reader itself: go on only if you know where it comes from.")
    if not yes:
        if not sys.stdin.isatty():
            raise EvalfmError("Nothing was converted, as no terminal is there to say yes: add --yes.")
        if not typer.confirm("Convert it?", default=False):
            typer.echo("Nothing was converted.")
            raise typer.Exit(1)
    made = write(examined, out, force=force)
    typer.echo(f"Wrote {made.tensors} tensors ({made.values:,} values) to {made.path}")
    if made.left_out:
        shown = ", ".join(made.left_out[:8]) + (" …" if len(made.left_out) > 8 else "")
        typer.echo(f"Left out, as they are no tensors by name: {shown}")
    typer.echo("Next: give it to --weights.")
