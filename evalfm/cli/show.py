"""`evalfm show`: one encoder, task, data set or run as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.console import emit_json, print_rows
from evalfm.cli.options import Verbs
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalfm.cards import CardModel

app = Verbs(help="Show one encoder, task, data set or run.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def encoder(
    name: Annotated[str, typer.Argument(help="A card's name or path, or a library's model: hf:ORG/MODEL, timm:NAME …")],
    write_card: Annotated[
        Path | None, typer.Option(help="Write the card to this file, to change a fact of it and name it as encoder.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the card of an encoder; that of a library's model is made of what the library says and a forward pass.

    Examples:

        evalfm show encoder rad-dino

        evalfm show encoder timm:vit_small_patch16_dinov3.lvd1689m --write-card mine.yaml

        evalfm show encoder hf:facebook/dinov2-small
    """
    from evalfm.encoders import find_card
    from evalfm.encoders.catalogue import described
    from evalfm.encoders.registry import find_absent

    card = find_absent(name) or find_card(name)
    if write_card is not None:
        _write_card(card, write_card)
    if json:
        _print(card.model_dump(mode="json", by_alias=True, exclude_none=True), json)
        return
    for title, lines in described(card):
        typer.echo("\n".join([title, *(f"  {line}" for line in lines)] if title else lines))


def _write_card(card: CardModel, path: Path) -> None:
    """Write ``card`` as a file that ``--encoder`` takes; what every card has by default is left out.

    Raises:
        EvalfmError: it is not loaded by evalfm, the name ends otherwise, or the file is there.
    """
    import yaml

    from evalfm.data.atomic import write_atomically
    from evalfm.encoders.card import EncoderCard

    if not isinstance(card, EncoderCard):
        raise EvalfmError(
            "evalfm does not load that encoder, so its card can be none of yours; see `--encoder precomputed:FILE`."
        )
    if path.suffix not in (".yaml", ".yml"):
        raise EvalfmError(f"A card is a YAML file; call it {path.name}.yaml.")
    if path.exists():
        raise EvalfmError(f"{path} is there already; name another file.")
    content = card.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    content["name"] = card.name.rpartition(":")[2].replace("/", "--")
    write_atomically(path, yaml.safe_dump({"schema": 1} | content, sort_keys=False, allow_unicode=True).encode())


@app.command()
def task(name: Annotated[str, typer.Argument(help="A task's name or path.")], json: Json = False) -> None:
    """Show the card of a task.

    Example:

        evalfm show task ptx-seg
    """
    from evalfm.tasks.task import load_task

    _print(load_task(name).model_dump(mode="json", by_alias=True, exclude_none=True), json)


@app.command()
def data(name: Annotated[str, typer.Argument(help="Folder or registered name.")], json: Json = False) -> None:
    """Show what a data set holds.

    Example:

        evalfm show data build/nih
    """
    from evalfm.data.manifest import read_data

    manifest = read_data(name)
    facts = manifest.info.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"salt", "root"})
    counts: dict[str, Any] = {"images": len(manifest), "columns": [str(column) for column in manifest.table.columns]}
    counts["patients"] = len(set(manifest.patients.tolist())) if manifest.patients_known else "unknown"
    if "split" in manifest.table:
        counts["splits"] = {str(key): int(value) for key, value in manifest.table["split"].value_counts().items()}
    _print({**facts, **counts}, json)


@app.command()
def run(folder: Annotated[Path, typer.Argument(help="A run's folder.")], json: Json = False) -> None:
    """Show a run: every metric with its interval, what val chose, and how it was made.

    Example:

        evalfm show run runs/pixels/ptx-cls/linear-frozen-1a2b3c4d
    """
    from evalfm.probing.names import check_run

    check_run(folder)

    from evalfm.analysis.figures import describe
    from evalfm.record import printable
    from evalfm.run import Run

    whole = Run.read(folder)
    record = whole.record
    if json:
        emit_json(record.model_dump(mode="json", by_alias=True))
        return
    rows = [
        [name, describe(estimate), f"{estimate.n} {estimate.unit}", estimate.note or ""]
        for name, estimate in whole.metrics.items()
    ]
    print_rows(f"{whole.encoder} × {whole.task} × {whole.head}", ["metric", "estimate", "n", "note"], rows)
    for caution in record.cautions:
        typer.echo(f"  {caution}")
    by_fold = record.chosen.folds
    chosen = {"folds": len(by_fold)} if by_fold else record.chosen.as_written()
    shown = {name: value for name, value in chosen.items() if name not in ("path", "curve")}
    _print({"data": record.data.as_written(), "chosen": shown}, False)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    typer.echo(f"files: {', '.join(map(printable, files))}")


@app.command()
def image(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Of images, as the run's tables and pages show them.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The data set that was tested: its own ids and files are shown too.")
    ] = None,
    worst: Annotated[
        int | None, typer.Option(min=1, help="The so many most wrong of each question; 10 where no id is named.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Of this label, class or mask only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV to this file.")] = None,
    json: Json = False,
) -> None:
    """Find images of a run again: what was true, what was answered, how wrong it was, and where the file lies.

    A run holds hashed ids. Whoever has the data set sees whose they are: name it with --data.

    Examples:

        evalfm show image runs/pixels/ptx-cls/linear-frozen-1a2b3c4d --worst 5

        evalfm show image runs/pixels/ptx-cls/linear-frozen-1a2b3c4d 23d9adca3084cb35 --data build/ours
    """
    from evalfm.cli.console import refuse_folder
    from evalfm.probing.names import check_names, check_run

    check_run(folder)
    check_names([], data=[data] if data is not None else [])
    refuse_folder(out)
    if ids and worst is not None:
        raise EvalfmError("Name images or ask for the --worst, not both.")

    from evalfm.analysis.images import COLUMNS, image_errors, located
    from evalfm.data.atomic import csv_text, write_atomically
    from evalfm.probing.cohort import load_manifest
    from evalfm.progress import SILENT
    from evalfm.run import Run

    whole = Run.read(folder)
    found = image_errors(whole, label)
    if ids:
        absent = next((name for name in ids if name not in set(found["id"])), None)
        if absent is not None:
            raise EvalfmError(f"{folder} has no test image with the id {absent}; --worst lists some that it has.")
        found = found[found["id"].isin(ids)]
    else:
        found = found.groupby("asked", sort=False).head(worst or 10)
    if data is not None:
        own = located(load_manifest(data, whole.task, SILENT), list(dict.fromkeys(found["id"])))
        found = found.merge(own, on="id", how="left", validate="many_to_one")
    header = [*COLUMNS, *(["local_id", "image"] if data is not None else [])]
    rows = [list(row) for row in found[header].itertuples(index=False)]
    if out is not None:
        write_atomically(out, csv_text(header, rows).encode())
        typer.echo(f"Wrote {out} ({len(rows)} rows)")
    elif json:
        emit_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        print_rows("Most wrong first", header, [[_cell(value) for value in row] for row in rows])


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print(content: Mapping[str, Any], json: bool) -> None:
    """Print plain values: JSON, or YAML, which a person reads more easily."""

    if json:
        emit_json(dict(content))
        return
    import yaml

    typer.echo(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=100).rstrip())
