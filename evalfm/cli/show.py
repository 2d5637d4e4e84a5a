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


def _print(content: Mapping[str, Any], json: bool) -> None:
    """Print plain values: JSON, or YAML, which a person reads more easily."""

    if json:
        emit_json(dict(content))
        return
    import yaml

    typer.echo(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=100).rstrip())
