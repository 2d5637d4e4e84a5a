"""`evalfm data overlap`: the same film in two data sets, or twice in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def overlap(
    one: Annotated[str, typer.Argument(help="Folder or registered name.")],
    other: Annotated[str | None, typer.Argument(help="The second data set; without it, the first with itself.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the pairs to this CSV file.")] = None,
    drop: Annotated[
        bool, typer.Option("--drop-from-train", help="Drop films from the first's train that are in val or test.")
    ] = False,
    patients: Annotated[
        bool, typer.Option("--take-patients", help="Give the first the patients and splits of the second.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find exact copies (bytes) and near copies (rescaled, recompressed, inverted) across sets and splits.

    Examples:

        evalfm data overlap build/siim build/nih --out pairs.csv --take-patients

        evalfm data overlap build/mine --drop-from-train
    """
    from evalfm.cli.console import Bars, emit_json, print_rows, refuse_folder
    from evalfm.data.atomic import write_atomically
    from evalfm.data.manifest import Manifest, find_folder
    from evalfm.data.overlap import drop_from_train, find_overlap, with_patients
    from evalfm.data.spreadsheets import csv_text
    from evalfm.errors import EvalfmError

    if drop and patients:
        raise EvalfmError("--drop-from-train and --take-patients are two steps; run one after the other.")
    refuse_folder(out)
    first = Manifest.read(find_folder(one), validate=False)
    second = None if other is None else Manifest.read(find_folder(other), validate=False)
    found = find_overlap(first, second, Bars())
    table = found.table()
    # Whatever is refused is refused before anything is written.
    changed, count = drop_from_train(found) if drop else with_patients(found) if patients else (None, 0)
    if changed is not None:
        changed.validate()
    if out is not None:
        write_atomically(out, csv_text(list(table.columns), table.itertuples(index=False, name=None)).encode())
    if changed is not None:
        changed.write(changed.folder)
    if json:
        emit_json({"pairs": table.to_dict("records"), "unreadable": found.failed})
        return
    name = first.info.name
    of = "itself" if second is None else second.info.name
    exact = int((table["kind"] == "exact").sum())
    typer.echo(
        f"{name} and {of}: {exact} exact and {len(table) - exact} near copies; {found.failed} unreadable images."
    )
    counts = table.groupby(["kind", "one_split", "other_split"]).size().reset_index()
    rows = [[str(cell) or "–" for cell in row] for row in counts.to_numpy().tolist()]
    if rows:
        print_rows("Pairs", ["kind", f"split in {name}", f"split in {of}", "pairs"], rows)
    if out is not None:
        typer.echo(f"Wrote {out}")
    if drop:
        typer.echo(f"Dropped {count} images from train of {first.folder}.")
    elif patients:
        typer.echo(f"{count} of {len(first)} images of {first.folder} have their patients now.")
    elif len(table) and out is None:
        typer.echo("Next: --out pairs.csv writes them; --drop-from-train keeps test films out of train.")
