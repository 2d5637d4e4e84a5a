"""`evalfm data import` and `data join`: a data set as published, or any table, and a second table beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evalfm.cli.configured import configured
from evalfm.data.config import ImportConfig, JoinConfig, TableMapping


@configured(ImportConfig, TableMapping)
def import_(
    source: Annotated[str, typer.Argument(help="Name of a source; `evalfm ls data` lists them.")],
    options: dict[str, Any],
) -> None:
    """Read a data set in its published layout and write a checked manifest.

    Examples:

        evalfm data import nih-cxr14 --root nih/ --out build/nih

        evalfm data import table --root images/ --csv images/labels.csv --image file --patient patient_id
        --label pneumothorax --attribute sex --attribute age --out build/mine

        evalfm data import table --root chest_xray/ --class-folders pneumonia --label-kind pneumonia=binary
        --levels pneumonia=NORMAL,PNEUMONIA --out build/kermany

        evalfm data import dicom --root export/ --labels labels.csv --join-on AccessionNumber --out build/ours
    """
    from evalfm.cli.console import Bars, summarise
    from evalfm.data.importing import import_data

    summarise(import_data(source, **options, progress=Bars()))
    typer.echo(f"Wrote {options['out']}. Next: evalfm data check {options['out']}")


@configured(JoinConfig)
def join(
    folder: Annotated[str, typer.Argument(help="Folder or registered name of the data set that becomes wider.")],
    other: Annotated[Path, typer.Option("--with", help="CSV, TSV, Parquet, or a pickle of ids and plain values.")],
    options: dict[str, Any],
) -> None:
    """Join a second table to a data set; what would change known labels is refused.

    Examples:

        evalfm data join build/siim --with tube_labels.pkl --as tubes

        evalfm data join build/mine --with extra.csv --join-on id=image --label edema --source radiologist
    """
    from evalfm.cards import validate
    from evalfm.data.joining import join as widen
    from evalfm.data.joining import read_other
    from evalfm.data.known_joins import known_join
    from evalfm.data.manifest import Manifest, find_folder

    config = validate(JoinConfig, options, "The join")
    manifest = Manifest.read(find_folder(folder), validate=False)
    table = read_other(other)
    if config.known is not None:
        table, config = known_join(manifest, table, config)
    joined = widen(manifest, table, config, other.name)
    joined.manifest.validate()
    joined.manifest.write(manifest.folder)
    typer.echo(f"{joined.matched} of {len(manifest)} images met a row of {other.name}; {joined.unmatched} met none.")
    if joined.unused:
        typer.echo(f"{joined.unused} rows of {other.name} met no image, such as {joined.example!r}.")
    for column, count in joined.filled.items():
        changed = f", {joined.changed[column]} changed" if joined.changed[column] else ""
        typer.echo(f"  {column}: {count} filled{changed}")
    if config.note:
        typer.echo(f"  {config.note}")
    typer.echo(f"Wrote {manifest.folder}. Next: evalfm data check {folder}")
