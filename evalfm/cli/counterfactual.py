"""`evalfm counterfactual`: what a chest tube alone changes in a run's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evalfm.probing.counterfactual import Change
    from evalfm.probing.erasing import Erased, Erasure
    from evalfm.statistics.comparison import Difference

PAIRED = "Paired by film, 95 % interval over patients (t); p is not corrected. Decisions are at the run's threshold."


def counterfactual(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    data: Annotated[
        str | None, typer.Option(help="Films with outlined devices, painted out, in place of phantom films.")
    ] = None,
    mask: Annotated[str | None, typer.Option(help="Whose outline, with --data: chest_tube where not said.")] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="The run's own data, where --data are others and its name is not registered.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Phantom films, each drawn twice: 200 where not said.")] = None,
    size: Annotated[int | None, typer.Option(help="Their side in pixels: 256 where not said.")] = None,
    weights: Annotated[str | None, typer.Option(help="The checkpoint, where the run's came from a file.")] = None,
    encoder: Annotated[str | None, typer.Option(help="file.py:build, where the run's encoder came from one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how a run's answers change by a chest tube, all else equal.

    Without --data the same phantom films are drawn without and with a tube. With --data every film of it that shows a
    tube, and that the run has not seen, is answered three times: as it is, with the tube painted out, and with a
    region of the same shape on the other side painted over by the same means.

    Example:

        evalfm counterfactual runs/hog/ptx-cls/linear-frozen-1a2b3c4d

        evalfm counterfactual runs/hog/ptx-cls/linear-frozen-1a2b3c4d --data candid-ptx --trained-on siim-acr
    """
    from evalfm.probing.names import check_names, check_run

    check_run(run)
    check_names([encoder] if encoder is not None else [], data=[data, trained_on])

    from evalfm.cli.console import Bars, emit_json, print_rows
    from evalfm.errors import EvalfmError

    if data is not None:
        if images is not None or size is not None:
            raise EvalfmError("--images and --size are of phantom films; leave them out, or leave --data out.")
        from evalfm.probing.erasing import DEVICE, erase

        erased = erase(
            run,
            data,
            mask=mask or DEVICE,
            trained_on=trained_on,
            weights=weights,
            encoder=encoder,
            device=device,
            progress=Bars(),
        )
        if json:
            emit_json(erased.to_json())
        else:
            _print_erased(erased)
        return
    if mask is not None or trained_on is not None:
        raise EvalfmError("--mask and --trained-on go with films that have outlines; name them with --data.")
    from evalfm.probing.counterfactual import IMAGES, SIZE
    from evalfm.probing.counterfactual import counterfactual as changes_of

    found = changes_of(
        run,
        images=IMAGES if images is None else images,
        size=SIZE if size is None else size,
        weights=weights,
        encoder=encoder,
        device=device,
        progress=Bars(),
    )
    if json:
        emit_json(found.to_json())
        return
    header = ["answer", "films", "images", "patients", "without tube", "with tube", "difference", "p"]
    print_rows(f"{found.model} on {found.task}: what the tube alone changes", header, map(_change, found.changes))
    _print_notes(found.notes)


def _print_erased(found: Erased) -> None:
    from evalfm.cli.console import print_rows

    name = found.mask
    header = ["answer", "films", "images", "patients", "as it is", f"{name} out", "control out", "contrast", "p"]
    title = f"{found.model} on {found.task}: {name} painted out of {found.films} films of {found.data}"
    print_rows(title, header, map(_erasure, found.erasures))
    out = "; ".join(f"{item.images} {item.reason}" for item in found.left_out)
    _print_notes((f"Left out: {out}." if out else "No film was left out.", *found.notes))


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
