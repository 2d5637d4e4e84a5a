"""`evalfm data join`: labels, masks and attributes of a second table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dialect(StrEnum):
    """How masks are written."""

    file = "file"
    relative = "relative"
    absolute = "absolute"
    coco = "coco"


def join(
    folder: Annotated[str, typer.Argument(help="Folder or registered name of the data set that becomes wider.")],
    other: Annotated[Path, typer.Option("--with", help="CSV, TSV, Parquet, or a pickle of ids and plain values.")],
    known: Annotated[str | None, typer.Option("--as", help="A known table: tubes, drains or chexmask.")] = None,
    on: Annotated[
        str | None, typer.Option(help="COLUMN, or MINE=THEIRS; MINE may be image_name or image_stem too.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label column, or NAME=COLUMN; repeat for several.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Attribute column, or NAME=COLUMN.")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="FINDING=COLUMN of masks.")] = None,
    dialect: Annotated[Dialect, typer.Option(help="How the masks are written.")] = Dialect.file,
    source: Annotated[str, typer.Option(help="Where the labels come from, for label_source.")] = "unstated",
    least_rca: Annotated[float, typer.Option(help="Of CheXmask: least mean estimated Dice.")] = 0.7,
    replace: Annotated[bool, typer.Option("--replace", help="Let known values be changed.")] = False,
) -> None:
    """Join a second table to a data set; what would change known labels is refused.

    Examples:

        evalfm data join build/siim --with tube_labels.pkl --as tubes

        evalfm data join build/mine --with extra.csv --on id=film --label edema --source radiologist
    """
    from evalfm.data.joining import Joining, read_other
    from evalfm.data.joining import join as widen
    from evalfm.data.known_joins import known_join
    from evalfm.data.manifest import Manifest, find_folder
    from evalfm.errors import EvalfmError

    labels, attributes, masks = _names(label), _names(attribute), _names(mask)
    if known is None and on is None:
        raise EvalfmError("Say by which columns the tables meet, --on MINE=THEIRS, or which known table it is, --as.")
    if known is not None and (on is not None or labels or attributes or masks):
        raise EvalfmError(f"--as {known} decides what is joined and by what; leave --on, --label and the like out.")
    manifest = Manifest.read(find_folder(folder), validate=False)
    table = read_other(other)
    mine, _, theirs = (on or "id").partition("=")
    joining = Joining(
        (mine, theirs or mine), labels, attributes, masks, source=source, dialect=dialect.value, replace=replace
    )
    if known is not None:
        table, joining = known_join(known, manifest, table, joining, least_rca)
    done = widen(manifest, table, joining, other.name)
    done.manifest.validate()
    done.manifest.write(manifest.folder)
    typer.echo(f"{done.matched} of {len(manifest)} images met a row of {other.name}; {done.unmatched} met none.")
    if done.unused:
        typer.echo(f"{done.unused} rows of {other.name} met no image, such as {done.example!r}.")
    for column, count in done.filled.items():
        changed = f", {done.changed[column]} changed" if done.changed[column] else ""
        typer.echo(f"  {column}: {count} filled{changed}")
    if joining.note:
        typer.echo(f"  {joining.note}")
    typer.echo(f"Wrote {manifest.folder}. Next: evalfm data check {folder}")


def _names(items: list[str] | None) -> dict[str, str]:
    """NAME=COLUMN items by name; a bare column keeps its own."""
    return {name: column or name for name, _, column in (item.partition("=") for item in items or [])}
