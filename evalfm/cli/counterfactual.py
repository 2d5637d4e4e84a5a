"""`evalfm counterfactual`: what a chest tube alone changes in a run's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from evalfm.cards import CardModel, validate
from evalfm.cli.console import Bars, emit_json, print_rows
from evalfm.cli.options import configured
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.probing.counterfactual import Change
    from evalfm.probing.erasing import Erased, Erasure
    from evalfm.statistics.comparison import Difference

PAIRED = "Paired by image, 95 % interval over patients (t); p is not corrected. Decisions are at the run's threshold."


class CounterfactualOptions(CardModel):
    """On which images the tube is drawn or painted out, and how the run's encoder is loaded again."""

    data: Annotated[
        str | None, Field(description="Images with outlined devices, painted out, in place of phantom images.")
    ] = None
    mask: Annotated[str | None, Field(description="Whose outline, with --data; without it chest_tube.")] = None
    trained_on: Annotated[
        str | None,
        Field(description="The run's own data, where --data are others and its name is not registered."),
    ] = None
    images: Annotated[int | None, Field(description="Phantom images, each drawn twice; without it 200.")] = None
    size: Annotated[int | None, Field(description="Their height and width in pixels; without it 256.")] = None
    weights: Annotated[str | None, Field(description="The checkpoint, where the run's came from a file.")] = None
    encoder: Annotated[str | None, Field(description="file.py:build, where the run's encoder came from one.")] = None
    device: Annotated[str, Field(description="auto, cpu or cuda.")] = "auto"


@configured(CounterfactualOptions)
def counterfactual(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    options: Mapping[str, Any],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how a run's answers change by a chest tube, all else equal.

    Without --data the same phantom images are drawn without and with a tube. With --data every image of it that shows a
    tube, and that the run has not seen, is answered three times: as it is, with the tube painted out, and with a
    region of the same shape mirrored to the other half painted over by the same means.

    Example:

        evalfm counterfactual runs/hog/ptx-cls/linear-frozen-1a2b3c4d

        evalfm counterfactual runs/hog/ptx-cls/linear-frozen-1a2b3c4d --data candid-ptx --trained-on siim-acr
    """
    from evalfm.probing.names import check_names, check_run

    request = validate(CounterfactualOptions, dict(options), "The call")
    check_run(run)
    check_names([] if request.encoder is None else [request.encoder], data=[request.data, request.trained_on])

    again: dict[str, Any] = request.model_dump(include={"weights", "encoder", "device"}) | {"progress": Bars()}
    if request.data is not None:
        if request.images is not None or request.size is not None:
            raise EvalfmError("--images and --size are of phantom images; leave them out, or leave --data out.")
        from evalfm.probing.erasing import DEVICE, erase

        erased = erase(run, request.data, mask=request.mask or DEVICE, trained_on=request.trained_on, **again)
        if json:
            emit_json(erased.to_json())
        else:
            _print_erased(erased)
        return
    if request.mask is not None or request.trained_on is not None:
        raise EvalfmError("--mask and --trained-on go with images that have outlines; name them with --data.")
    from evalfm.probing.counterfactual import counterfactual as changes_of

    found = changes_of(run, **request.model_dump(include={"images", "size"}, exclude_none=True), **again)
    if json:
        emit_json(found.to_json())
        return
    header = ["answer", "among", "images", "patients", "without tube", "with tube", "difference", "p"]
    print_rows(f"{found.model} on {found.task}: what the tube alone changes", header, map(_change, found.changes))
    _print_notes(found.notes)


def _print_erased(found: Erased) -> None:

    name = found.mask
    header = ["answer", "among", "images", "patients", "as it is", f"{name} out", "control out", "contrast", "p"]
    title = f"{found.model} on {found.task}: {name} painted out of {found.images} images of {found.data}"
    print_rows(title, header, map(_erasure, found.erasures))
    out = "; ".join(f"{item.images} {item.reason}" for item in found.left_out)
    _print_notes((f"Left out: {out}." if out else "No image was left out.", *found.notes))


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in (PAIRED, *notes):
        typer.echo(f"  {note}")


def _change(each: Change) -> list[str]:
    cells = [each.answer, each.among, str(each.images), str(each.patients), _mean(each.without), _mean(each.with_tube)]
    if each.difference is None:
        return [*cells, f"– ({each.reason})", "–"]
    return [*cells, _difference(each.difference), _p(each.difference)]


def _erasure(each: Erasure) -> list[str]:
    cells = [each.answer, each.among, str(each.images), str(each.patients), _mean(each.as_it_is)]
    if each.device is None or each.control is None or each.contrast is None:
        return [*cells, "–", "–", f"– ({each.reason})", "–"]
    return [*cells, *map(_difference, (each.device, each.control, each.contrast)), _p(each.contrast)]


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:.{_digits(value)}f}"


def _difference(found: Difference) -> str:
    ends = [] if found.low is None or found.high is None else [found.low, found.high]
    digits = _digits(found.value, *ends)
    reach = f" [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]" if ends else ""
    return f"{found.value:+.{digits}f}{reach}"


def _digits(*values: float) -> int:
    """Three decimals; four where all is below .1, so that a small area keeps its digits."""
    return 3 if max(map(abs, values)) >= 0.1 else 4


def _p(found: Difference) -> str:
    return "–" if found.p is None else "< .001" if found.p < 0.001 else f"{found.p:.3f}"
