"""`evalfm robustness`: what perturbed images change in features, scores and metric of finished runs."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from evalfm.cards import CardModel, validate
from evalfm.cli.compare import runs_in
from evalfm.cli.console import Bars, emit_json, print_rows, refuse_folder
from evalfm.cli.options import configured

if TYPE_CHECKING:
    from evalfm.analysis.report.tables import Table
    from evalfm.analysis.robustness import Robustness


class RobustnessOptions(CardModel):
    """Which images are perturbed how, and how the encoders of the runs are loaded again."""

    data: Annotated[str | None, Field(description="Where the images are; without it each run's own data.")] = None
    perturbations: Annotated[
        tuple[str, ...] | None,
        Field(description="Such as blur,jpeg=30: a family at its stated strengths, or one strength; without it all."),
    ] = None
    by: Annotated[
        str | None, Field(description="Attribute with sites or scanners, for the robustness index of the features.")
    ] = None
    images: Annotated[int, Field(ge=1, description="At most so many of each run, whole patients drawn.")] = 200
    seed: Annotated[int, Field(ge=0, description="Of the draw of images and of what perturbations draw.")] = 0
    trained_on: Annotated[
        str | None, Field(description="The runs' own data, where --data are others and their name is not registered.")
    ] = None
    weights: Annotated[str | None, Field(description="The checkpoint of runs whose weights came from a file.")] = None
    encoder: Annotated[str | None, Field(description="file.py:build, where a run's encoder came from one.")] = None
    device: Annotated[str, Field(description="auto, cpu or cuda.")] = "auto"


@configured(RobustnessOptions)
def robustness(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    options: Mapping[str, Any],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with figures to this file.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for robustness.json, which evalfm report shows.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how far features move, and what becomes of scores, decisions and metric, where images are perturbed.

    Dose (noise), blur, gamma, JPEG, down-sampling, rotation, a side marker and inversion, each at stated strengths, on
    images that a run has not seen; all encoders see the same pixels. With --by, whether nearest neighbours share the
    class or the site.

    Examples:

        evalfm robustness runs/dinov2-base/ptx-cls/linear-frozen-1a2b3c4d --data build/nih --html robustness.html

        evalfm robustness runs --data build/nih --perturbations blur,jpeg=30,rotation=5 --by scanner
    """
    from evalfm.data.perturbations import parse_perturbations
    from evalfm.probing.names import check_names
    from evalfm.publishing import check_writable

    request = validate(RobustnessOptions, dict(options), "The call")
    parse_perturbations(request.perturbations)
    check_names([] if request.encoder is None else [request.encoder], data=[request.data, request.trained_on])
    refuse_folder(html)
    if out is not None:
        check_writable(out)
    chosen = runs_in(runs)

    from evalfm.analysis.pages import page
    from evalfm.analysis.robustness import ROBUSTNESS, robustness_section
    from evalfm.data.atomic import write_atomically
    from evalfm.probing.robustness import robustness as measure

    found = measure(chosen, **request.model_dump(), progress=Bars())
    if out is not None:
        text = json_format.dumps(found.to_json(), indent=1, allow_nan=False)
        write_atomically(out / ROBUSTNESS, f"{text}\n".encode())
    if html is not None:
        write_atomically(html, page("Feature robustness", [robustness_section(0, found)]).encode())
    if json:
        emit_json(found.to_json())
        return
    _print(found)
    for path in (None if out is None else out / ROBUSTNESS, html):
        if path is not None:
            typer.echo(f"Wrote {path}")


def _print(found: Robustness) -> None:
    from evalfm.analysis.figures import describe
    from evalfm.analysis.robustness import INDEX_WORDS, WORDS, effects_table, index_table, strongest_table

    for run in found.runs:
        if run.effects:
            counted = f"{run.images} images of {run.patients} {run.unit}"
            title = f"{found.names[run.run]} on {run.task}: {counted}, clean {run.metric} {describe(run.clean)}"
            _print_table(title, effects_table("effects", run))
    if len(found.runs) > 1 and any(run.effects for run in found.runs):
        _print_table("Share of the way to another patient's image, at the strongest", strongest_table("all", found))
    indices = [run.index for run in found.runs if run.index is not None]
    if indices:
        _print_table("Neighbours by class or by site", index_table("index", found))
    for words in dict.fromkeys(each for run in found.runs for each in run.cautions):
        typer.echo(f"  {words}")
    for name, why in found.left_out:
        typer.echo(f"  Left out: {name}: {why}")
    if any(run.effects for run in found.runs):
        typer.echo(f"  {WORDS}")
    if indices:
        typer.echo(f"  {INDEX_WORDS.format(by=indices[0].by, k=indices[0].k)}")


def _print_table(title: str, table: Table) -> None:
    print_rows(title, table.header, table.texts)
    for note in table.notes:
        typer.echo(f"  {note}")
