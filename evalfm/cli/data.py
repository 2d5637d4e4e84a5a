"""`evalfm data`: from a data set on disk to a checked manifest."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from evalfm.cards import validate
from evalfm.cli.console import Bars, emit_json, print_rows, refuse_folder, split_sizes, summarise
from evalfm.cli.options import Verbs, configured
from evalfm.data.config import ImportConfig, JoinConfig, TableMapping
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.import_config import ImportPredictionsConfig

app = Verbs(help="Import, check, split, compare, make and register data sets.", no_args_is_help=True)


@app.command("import")
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
    from evalfm.data.importing import import_data

    summarise(import_data(source, **options, progress=Bars()))
    typer.echo(f"Wrote {options['out']}. Next: evalfm data check {options['out']}")


@app.command()
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


@app.command()
def check(
    folder: Annotated[str, typer.Argument(help="Folder or registered name.")],
    html: Annotated[Path | None, typer.Option(help="Also write the set on one page here.")] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Show images on the page though the set does not say they may be.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at every row, file, mask and pixel; name all faults at once; exit 2 if there are any.

    The page holds Table 1, what was left out, which attributes go with which labels, sizes, and images where they
    may be shown.

    Example:

        evalfm data check build/nih --html nih.html
    """
    from evalfm.data.checks import fault_lines
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder
    from evalfm.data.report import check as look
    from evalfm.data.table_one import associations

    if with_images and html is None:
        raise EvalfmError("--with-images is about the page; say where it goes with --html.")
    refuse_folder(html)
    manifest = Table.read(find_folder(folder), validate=False)
    report = look(manifest, Bars())
    if html is not None:
        from evalfm.analysis.data_page import data_page
        from evalfm.data.atomic import write_atomically

        write_atomically(html, data_page(manifest, report, with_images=with_images).encode())
    if json:
        sizes = [[*size, count] for size, count in report.sizes.items()]
        pairs = [asdict(pair) for pair in associations(manifest)]
        emit_json({**asdict(replace(report, sizes={})), "sizes": sizes, "associations": pairs})
    else:
        summarise(manifest)
        for label, counts in report.labels.items():
            said = f"{counts.positive} positive, {counts.negative} negative"
            if manifest.info.label_kind(label) != "binary":
                said = f"{counts.positive + counts.negative} known"
            typer.echo(f"  {label}: {said}, {counts.unknown} unknown")
        for remark in report.remarks:
            typer.echo(f"  {remark}")
        for line in fault_lines(report.faults):
            typer.echo(f"  FAULT {line}")
        typer.echo("No fault found." if report.passed else f"{len(report.faults)} faults: fix them and check again.")
        if html is not None:
            typer.echo(f"Wrote {html}")
    if not report.passed:
        raise typer.Exit(2)


@app.command()
def split(
    folder: Annotated[str, typer.Argument(help="Folder or registered name.")],
    seed: Annotated[int, typer.Option(help="Of the hash that assigns patients.")] = 0,
    stratify: Annotated[str | None, typer.Option(help="Label whose share is kept equal in all splits.")] = None,
    official: Annotated[list[Path] | None, typer.Option(help="Lists of ids: train….txt, val….txt, test….txt.")] = None,
    test_where: Annotated[str | None, typer.Option(help="Patients of matching images are test.")] = None,
    val_from_train: Annotated[
        bool, typer.Option("--val-from-train", help="Draw val by patient from train; train and test are else kept.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the split that is there.")] = False,
    export: Annotated[Path | None, typer.Option(help="Also write train.txt, val.txt, test.txt here.")] = None,
) -> None:
    """Assign the patients of a data set to train, val and test; images of the same bytes stay together.

    Examples:

        evalfm data split build/nih --stratify pneumothorax --seed 1 --force

        evalfm data split build/mine --val-from-train
    """
    from evalfm.data.assign_splits import assign_splits, with_val_from_train
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder
    from evalfm.data.splits import export_ids

    if export is not None:
        from evalfm.publishing import check_writable

        check_writable(export, "--export")
    # A faulty split is what this verb fixes, so it is not refused here.
    manifest = Table.read(find_folder(folder), validate=False)
    if val_from_train:
        if stratify or official or test_where:
            raise EvalfmError("--val-from-train keeps the split that is there; leave the other rules out.")
        assigned = with_val_from_train(manifest, seed=seed, progress=Bars())
    else:
        if not force and "split" in manifest.table and manifest.table["split"].notna().any():
            raise EvalfmError(
                f"{manifest.info.name} has a split already ({split_sizes(manifest)}); add --force to replace it, or "
                "--val-from-train to draw val from its train."
            )
        assigned = assign_splits(
            manifest, seed=seed, stratify=stratify, official=official or (), where=test_where, progress=Bars()
        )
    assigned.validate()
    assigned.write(manifest.folder)
    summarise(assigned)
    if export is not None:
        for path in export_ids(assigned.table["id"].to_numpy(dtype=object), assigned.splits, export):
            typer.echo(f"Wrote {path}")


@app.command()
def make(
    what: Annotated[str, typer.Argument(help="phantom")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    images: Annotated[int, typer.Option(help="How many images.")] = 400,
    size: Annotated[int, typer.Option(help="Side in pixels, 64 to 1024.")] = 256,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    dial: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a dial; repeat for several.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Make synthetic radiographs with full truth.

    Example:

        evalfm data make phantom --out build/phantom --images 1000 --dial tube_given_pneumothorax=0.9
    """
    from evalfm.data.phantom import Dials, make_phantom

    if what != "phantom":
        raise UnknownNameError("thing to make", what, ["phantom"])
    manifest = make_phantom(
        out,
        n=images,
        size=size,
        seed=seed,
        dials=Dials(**_dials(dial or [])),
        progress=Bars(),
        workers=workers,
        name=f"phantom-{out.resolve().name}",
    )
    summarise(manifest)
    typer.echo(f"Wrote {out}. Next: evalfm probe --encoder hog --task ptx-cls --data {out}")


@app.command()
def register(
    folder: Annotated[Path, typer.Argument(help="Folder of a data set.")],
    name: Annotated[str, typer.Option(help="Name for --data; a task's name makes it that task's default.")],
) -> None:
    """Give a data set a name for --data.

    Example:

        evalfm data register build/nih --name nih
    """
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.registered import register as remember

    Table.read(folder)
    remember(name, folder)
    typer.echo(f"{name} is {folder}. Next: evalfm probe --encoder hog --task ptx-cls --data {name}")


@app.command()
def relocate(
    folder: Annotated[str, typer.Argument(help="Folder or registered name.")],
    root: Annotated[str, typer.Argument(help="Where the images lie now; may hold ${VARIABLE}.")],
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Trust links under the new root, wherever they lead.")
    ] = False,
) -> None:
    """Say where the images of a data set lie now; nothing changes unless all of them are there.

    Examples:

        evalfm data relocate build/nih /mnt/disk2/nih

        evalfm data relocate build/nih '${DATA}/nih'
    """
    from evalfm.data.importing import relocate as move
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder

    moved = move(Table.read(find_folder(folder), validate=False), root, follow_links=follow_links)
    summarise(moved)
    typer.echo(f"{moved.info.name} finds its images in {moved.root}")


def _dials(items: list[str]) -> dict[str, float]:
    """NAME=VALUE items as numbers by name."""

    from evalfm.data.phantom import Dials

    known = [field.name for field in fields(Dials)]
    values: dict[str, float] = {}
    for item in items:
        name, _, value = item.partition("=")
        if name not in known:
            raise UnknownNameError("dial", name, known)
        try:
            values[name] = float(value)
        except ValueError:
            raise EvalfmError(f"--dial {item} is not NAME=VALUE with a number; write --dial {name}=0.5.") from None
    return values


@app.command()
def overlap(
    one: Annotated[str, typer.Argument(help="Folder or registered name.")],
    other: Annotated[str | None, typer.Argument(help="The second data set; without it, the first with itself.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the pairs to this CSV file.")] = None,
    drop: Annotated[
        bool, typer.Option("--drop-from-train", help="Drop images from the first's train that are in val or test.")
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
    from evalfm.data.atomic import csv_text, write_atomically
    from evalfm.data.manifest import Manifest, find_folder
    from evalfm.data.overlap import drop_from_train, find_overlap, with_patients

    if drop and patients:
        raise EvalfmError("--drop-from-train and --take-patients are two steps; run one after the other.")
    refuse_folder(out)
    first = Manifest.read(find_folder(one), validate=False)
    second = None if other is None else Manifest.read(find_folder(other), validate=False)
    pairs = find_overlap(first, second, Bars())
    table = pairs.table()
    # Whatever is refused is refused before anything is written.
    changed, count = drop_from_train(pairs) if drop else with_patients(pairs) if patients else (None, 0)
    if changed is not None:
        changed.validate()
    if out is not None:
        write_atomically(out, csv_text(list(table.columns), table.itertuples(index=False, name=None)).encode())
    if changed is not None:
        changed.write(changed.folder)
    if json:
        emit_json({"pairs": table.to_dict("records"), "unreadable": pairs.failed})
        return
    name = first.info.name
    of = "itself" if second is None else second.info.name
    exact = int((table["kind"] == "exact").sum())
    typer.echo(
        f"{name} and {of}: {exact} exact and {len(table) - exact} near copies; {pairs.failed} unreadable images."
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
        typer.echo("Next: --out pairs.csv writes them; --drop-from-train keeps test images out of train.")


@app.command("import-predictions")
@configured(ImportPredictionsConfig)
def import_predictions(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with a row per image; of masks also a folder of PNG or NPY files.")
    ],
    options: dict[str, Any],
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Make a run of any model's predictions: compare, choose, bias and report read it like evalfm's own.

    Rows name images by id. Test images are those of a probe with the same options; each needs a row. A column split
    says what the model saw (rows of train are dropped), val rows choose thresholds, and fold is which model predicted.
    Masks are run lengths, or files named by the image's id, in a folder for each class where there are several.

    Examples:

        evalfm data import-predictions scores.csv --task ptx-cls --data build/nih --name "our CNN"

        evalfm data import-predictions scores.csv --task density --data build/vindr --name ours --score A=p_a
        --score B=p_b --score C=p_c --score D=p_d

        evalfm data import-predictions masks/ --task ptx-seg --data build/siim --name nnU-Net

        evalfm data import-predictions oof.parquet --task edema --data build/nih --folds 5 --name gbm --score prob
    """
    from evalfm.cli.console import print_runs
    from evalfm.probing.import_predictions import import_predictions as make

    config = ImportPredictionsConfig.checked(**options)
    run = make(table, progress=Bars(), **options)
    if json:
        from evalfm.analysis.table import task_tables
        from evalfm.cli.console import table_json

        emit_json([table_json(each) for each in task_tables([run])])
        return
    print_runs([run])
    for caution in run.record.cautions:
        if caution.code in ("imported", "threshold"):
            typer.echo(f"  {caution}")
    typer.echo(str(run.folder))
    typer.echo(f"Next: evalfm compare {config.out}")
