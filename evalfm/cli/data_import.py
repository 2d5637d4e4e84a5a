"""`evalfm data import`: a data set in its published layout, or any table, becomes a checked manifest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evalfm.data.sources import TableMapping


class Blank(StrEnum):
    """What an empty label cell means."""

    negative = "negative"
    unknown = "unknown"


class Uncertain(StrEnum):
    """What a label of -1 means."""

    unknown = "unknown"
    zero = "zero"
    one = "one"


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
    from evalfm.cli.console import Bars, summarise
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
    summarise(manifest)
    typer.echo(f"Wrote {out}. Next: evalfm data check {out}")


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
