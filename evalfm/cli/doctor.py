"""`evalfm doctor`: is this machine ready, and does an encoder work on it?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from evalfm.cli.console import emit_json
from evalfm.errors import EvalfmError


def doctor(
    encoder: Annotated[str | None, typer.Option(help="Send a test image through this encoder.")] = None,
    weights: Annotated[str, typer.Option(help="hub, random, or the path of a checkpoint.")] = "hub",
    input_size: Annotated[int | None, typer.Option(help="Another side of the input than the card's.")] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; auto takes a GPU if there is one.")] = "auto",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Hold the encoder against its library's own model; exit 1 where they differ."),
    ] = False,
    write_golden: Annotated[
        bool, typer.Option("--write-golden", help="Keep the embedding of a test image, to see later drifts by.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, device, disk and hub, and an encoder if one is named; exit 2 if something must be fixed.

    Examples:

        evalfm doctor

        evalfm doctor --encoder rad-dino --weights random

        evalfm doctor --encoder rad-dino --verify
    """
    from evalfm.doctor import LIBRARY, examine

    for option, given in (("--write-golden", write_golden), ("--verify", verify)):
        if given and encoder is None:
            raise EvalfmError(f"{option} needs an encoder; name it with --encoder.")
    how = {"weights": weights, "input_size": input_size, "precision": precision, "device": device}
    findings = []
    for finding in examine(encoder, golden=write_golden, verify=verify, **how):
        findings.append(finding)
        if not json:
            mark = {True: "ok     ", None: "limited", False: "FAILED "}[finding.fine]
            typer.echo(f"{mark}  {finding.name}: {finding.said}")
            if finding.remedy:
                typer.echo(f"         {finding.remedy}")
    if json:
        emit_json([asdict(finding) for finding in findings])
    failed = {finding.name for finding in findings if finding.fine is False}
    if failed:
        raise typer.Exit(1 if failed == {LIBRARY} else 2)
