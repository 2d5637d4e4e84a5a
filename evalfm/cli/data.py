"""`evalfm data`: from a data set on disk to a checked manifest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalfm.cli.data_join import join
from evalfm.cli.data_overlap import overlap
from evalfm.cli.options import Verbs

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest
    from evalfm.data.sources import TableMapping

app = Verbs(help="Import, check, split, compare, make and register data sets.", no_args_is_help=True)
app.command()(join)
app.command()(overlap)


class Blank(StrEnum):
    """What an empty label cell means."""

    negative = "negative"
    unknown = "unknown"


class Uncertain(StrEnum):
    """What a label of -1 means."""

    unknown = "unknown"
    zero = "zero"
    one = "one"


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Name of a source; `evalfm ls data` lists them.")],
    root: Annotated[str, typer.Option(help="Folder of the data set as published.")],
    out: Annotated[Path, typer.Option(help="New folder for the manifest.")],
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images in place of referring to them.")] = False,
    blank: Annotated[Blank | None, typer.Option(help="What an empty label cell means.")] = None,
    uncertain: Annotated[Uncertain | None, typer.Option(help="What a label of -1 means.")] = None,
    official: Annotated[list[Path] | None, typer.Option(help="Lists of ids: train….txt, val….txt, test….txt.")] = None,
    stratify: Annotated[str | None, typer.Option(help="Label whose share is kept equal in all splits.")] = None,
    val_from_train: Annotated[
        bool, typer.Option("--val-from-train", help="Draw val by patient from train, where the set has no val.")
    ] = False,
    part: Annotated[str | None, typer.Option(help="Which of several sets in the root: its file or folder.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels, for sources whose images bring none.")] = None,
    on: Annotated[
        str | None, typer.Option(help="SOPInstanceUID or AccessionNumber, or one of them=COLUMN of --labels.")
    ] = None,
    burned_in_checked: Annotated[
        bool, typer.Option("--burned-in-checked", help="Films that may hold names in their pixels were looked at.")
    ] = False,
    mapping: Annotated[
        Path | None, typer.Option(help="YAML that maps columns, for `table`, `density`, `dicom`.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="The table, for `table` and `density`.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set in runs, where a table is mapped.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of the image path.")] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="Column of a unique id.")] = None,
    patient: Annotated[str | None, typer.Option(help="Column of the patient.")] = None,
    study: Annotated[str | None, typer.Option(help="Column of the exam.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of the split.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label column, or NAME=COLUMN; repeat for several.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Attribute column, or NAME=COLUMN.")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="FINDING=COLUMN of mask files.")] = None,
    label_kind: Annotated[list[str] | None, typer.Option(help="LABEL=binary, class or number; repeat.")] = None,
    levels: Annotated[
        list[str] | None, typer.Option(help="LABEL=LOW,…,HIGH: its words in their order; of a binary label both.")
    ] = None,
    mask_values: Annotated[
        list[str] | None, typer.Option(help="FINDING=1,2: values that are it, where files are maps of labels.")
    ] = None,
    mask_unknown: Annotated[
        list[str] | None, typer.Option(help="FINDING=255: values that nobody judged; such masks are unknown.")
    ] = None,
    unknown: Annotated[list[str] | None, typer.Option(help="Word that means an empty cell, such as NA.")] = None,
    class_folders: Annotated[
        str | None, typer.Option(help="Name of the label that the folders are; there is no table then.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out and count rows whose image is not there.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Trust links under the root, wherever they lead.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier import.")] = False,
) -> None:
    """Read a data set in its published layout and write a checked manifest.

    Examples:

        evalfm data import nih-cxr14 --root nih/ --out build/nih

        evalfm data import table --root films/ --csv films/labels.csv --image file --patient patient_id
        --label pneumothorax --attribute sex --attribute age --out build/mine

        evalfm data import table --root chest_xray/ --class-folders pneumonia --label-kind pneumonia=binary
        --levels pneumonia=NORMAL,PNEUMONIA --out build/kermany

        evalfm data import dicom --root export/ --labels labels.csv --on AccessionNumber --out build/ours
    """
    from evalfm.cli.console import Bars
    from evalfm.data.importing import import_data

    given: dict[str, object] = {
        "csv": csv,
        "name": name,
        "image": image,
        "id": id_column,
        "patient": patient,
        "study": study,
    }
    given |= {"split": split, "unknown_words": unknown, "class_folders": class_folders}
    given |= {"skip_missing": skip_missing or None, "levels": _lists("--levels", levels, "LABEL=LOW,…,HIGH")}
    given |= {"label_kinds": _named("--label-kind", label_kind, "LABEL=class")}
    given |= {"mask_values": _lists("--mask-values", mask_values, "FINDING=1")}
    given |= {"mask_unknown": _lists("--mask-unknown", mask_unknown, "FINDING=255")}
    mapped = _mapping(mapping, given, label, attribute, mask)
    manifest = import_data(
        source,
        # As it was given, which dataset.yaml keeps.
        Path(root),
        out,
        seed=seed,
        copy=copy,
        blank=None if blank is None else blank.value,
        uncertain=None if uncertain is None else uncertain.value,
        official=official or (),
        stratify=stratify,
        val_from_train=val_from_train,
        mapping=mapped,
        part=part,
        labels=labels,
        on=on,
        burned_in_checked=burned_in_checked,
        follow_links=follow_links,
        force=force,
        progress=Bars(),
    )
    _summarise(manifest)
    typer.echo(f"Wrote {out}. Next: evalfm data check {out}")


@app.command()
def check(
    folder: Annotated[str, typer.Argument(help="Folder or registered name.")],
    html: Annotated[Path | None, typer.Option(help="Also write the set on one page here.")] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Show films on the page though the set does not say they may be.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at every row, file, mask and pixel; name all faults at once; exit 2 if there are any.

    The page holds Table 1, what was left out, which attributes go with which labels, sizes, and films where they
    may be shown.

    Example:

        evalfm data check build/nih --html nih.html
    """
    from dataclasses import asdict, replace

    from evalfm.cli.console import Bars, emit_json, refuse_folder
    from evalfm.data.checks import told_together
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder
    from evalfm.data.report import check as look
    from evalfm.data.table_one import associations
    from evalfm.errors import EvalfmError

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
        _summarise(manifest)
        for label, counts in report.labels.items():
            said = f"{counts.positive} positive, {counts.negative} negative"
            if manifest.info.label_kind(label) != "binary":
                said = f"{counts.positive + counts.negative} known"
            typer.echo(f"  {label}: {said}, {counts.unknown} unknown")
        for remark in report.remarks:
            typer.echo(f"  {remark}")
        for line in told_together(report.faults):
            typer.echo(f"  FAULT {line}")
        typer.echo("No fault found." if report.passed else f"{len(report.faults)} faults: mend them and check again.")
        if html is not None:
            typer.echo(f"Wrote {html}")
    if not report.passed:
        raise typer.Exit(2)


@app.command()
def split(
    folder: Annotated[str, typer.Argument(help="Folder or registered name.")],
    seed: Annotated[int, typer.Option(help="Of the hash that deals patients.")] = 0,
    stratify: Annotated[str | None, typer.Option(help="Label whose share is kept equal in all splits.")] = None,
    official: Annotated[list[Path] | None, typer.Option(help="Lists of ids: train….txt, val….txt, test….txt.")] = None,
    test_where: Annotated[str | None, typer.Option(help="Deal the patients of matching images to test.")] = None,
    val_from_train: Annotated[
        bool, typer.Option("--val-from-train", help="Draw val by patient from train; train and test are else kept.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the split that is there.")] = False,
    export: Annotated[Path | None, typer.Option(help="Also write train.txt, val.txt, test.txt here.")] = None,
) -> None:
    """Deal the patients of a data set to train, val and test; images of the same bytes stay together.

    Examples:

        evalfm data split build/nih --stratify pneumothorax --seed 1 --force

        evalfm data split build/mine --val-from-train
    """
    from evalfm.cli.console import Bars
    from evalfm.data.dealing import deal, with_val_from_train
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder
    from evalfm.data.splits import export_ids
    from evalfm.errors import EvalfmError

    if export is not None:
        from evalfm.runs import check_writable

        check_writable(export, "--export")
    # A faulty split is what this verb mends, so it is not refused here.
    manifest = Table.read(find_folder(folder), validate=False)
    if val_from_train:
        if stratify or official or test_where:
            raise EvalfmError("--val-from-train keeps the split that is there; leave the other rules out.")
        dealt = with_val_from_train(manifest, seed=seed, progress=Bars())
    else:
        if not force and "split" in manifest.table and manifest.table["split"].notna().any():
            raise EvalfmError(
                f"{manifest.info.name} has a split already ({_parts(manifest)}); add --force to deal it anew, or "
                "--val-from-train to draw val from its train."
            )
        dealt = deal(manifest, seed=seed, stratify=stratify, official=official or (), where=test_where, progress=Bars())
    dealt.validate()
    dealt.write(manifest.folder)
    _summarise(dealt)
    if export is not None:
        for path in export_ids(dealt.table["id"].to_numpy(dtype=object), dealt.splits, export):
            typer.echo(f"Wrote {path}")


@app.command()
def make(
    what: Annotated[str, typer.Argument(help="phantom")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    images: Annotated[int, typer.Option(help="How many films.")] = 400,
    size: Annotated[int, typer.Option(help="Side in pixels, 64 to 1024.")] = 256,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    dial: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a dial; repeat for several.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Make synthetic radiographs with full truth.

    Example:

        evalfm data make phantom --out build/phantom --images 1000 --dial tube_given_pneumothorax=0.9
    """
    from evalfm.cli.console import Bars
    from evalfm.data.phantom import Dials, make_phantom
    from evalfm.errors import UnknownNameError

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
    _summarise(manifest)
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
    """Tell a data set where its images lie now; nothing changes unless all of them are there.

    Examples:

        evalfm data relocate build/nih /mnt/disk2/nih

        evalfm data relocate build/nih '${DATA}/nih'
    """
    from evalfm.data.importing import relocate as move
    from evalfm.data.manifest import Manifest as Table
    from evalfm.data.manifest import find_folder

    moved = move(Table.read(find_folder(folder), validate=False), root, follow_links=follow_links)
    _summarise(moved)
    typer.echo(f"{moved.info.name} finds its images in {moved.root}")


def _dials(items: list[str]) -> dict[str, float]:
    """NAME=VALUE items as numbers by name."""
    from dataclasses import fields

    from evalfm.data.phantom import Dials
    from evalfm.errors import EvalfmError, UnknownNameError

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


def _mapping(
    mapping: Path | None,
    given: dict[str, object],
    labels: list[str] | None,
    attributes: list[str] | None,
    masks: list[str] | None,
) -> TableMapping | None:
    """The mapping file, with what the options say (``given``: by key) put over it; None where neither is given."""
    from evalfm.cards import read_yaml, validate
    from evalfm.data.sources import TableMapping as Mapping

    content: dict[str, object] = {} if mapping is None else read_yaml(mapping)
    content |= {key: value for key, value in given.items() if value is not None}
    for key, items in (("labels", labels), ("attributes", attributes), ("masks", masks)):
        if items:
            content[key] = {name: column or name for name, _, column in (item.partition("=") for item in items)}
    return validate(Mapping, content, "The mapping of columns") if content else None


def _parts(manifest: Manifest) -> str:
    """How many images each part of the split has."""
    counts = manifest.table["split"].value_counts()
    return ", ".join(f"{name} {int(counts.get(name, 0))}" for name in ("train", "val", "test"))


def _named(flag: str, items: list[str] | None, like: str) -> dict[str, str] | None:
    """NAME=VALUE items by name; None without any."""
    from evalfm.errors import EvalfmError

    values: dict[str, str] = {}
    for item in items or []:
        name, mark, value = item.partition("=")
        if not (name and mark and value) or name in values:
            raise EvalfmError(f"{flag} {item} is not {like}{', once a name' if name in values else ''}; write it so.")
        values[name] = value
    return values or None


def _lists(flag: str, items: list[str] | None, like: str) -> dict[str, list[str]] | None:
    """NAME=VALUE,VALUE items by name; None without any."""
    named = _named(flag, items, like)
    return (
        None if named is None else {name: [each.strip() for each in value.split(",")] for name, value in named.items()}
    )


def _summarise(manifest: Manifest) -> None:
    """Say in a line how many images and patients there are in each part."""
    patients = f"{len(set(manifest.patients.tolist()))} patients" if manifest.patients_known else "patients unknown"
    parts = ""
    if "split" in manifest.table:
        parts = f"; {_parts(manifest)}"
    typer.echo(f"{manifest.info.name}: {len(manifest)} images, {patients}{parts}")
