"""From a data set as published to a folder that evalfm reads, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from evalfm.cards import takes, validate
from evalfm.data.assign_splits import assign_splits, with_val_from_train
from evalfm.data.atomic import write_atomically
from evalfm.data.checks import file_faults, raise_faults
from evalfm.data.columns import EMPTY_MASK
from evalfm.data.config import ImportConfig, TableMapping
from evalfm.data.dataset_info import DATASET_FILE, dataset_yaml, read_dataset_info
from evalfm.data.locators import LinkedRoot, expand_root, file_of, root_from
from evalfm.data.manifest import CSV_FILE, PARQUET_FILE, Manifest
from evalfm.data.sources import check_options, load_source
from evalfm.data.work_folders import put, recover, remove_stale, work_name
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

COPIES = "files"


@takes(ImportConfig, TableMapping)
def import_data(
    source: str, root: Path | str, out: Path | str, *, progress: Progress = SILENT, **options: Any
) -> Manifest:
    """Read the data set under ``root`` as ``source`` lays it out, and write its manifest to ``out``.

    Images are referenced where they lie; ``copy_images`` copies those that the table names. ``split`` is that of the
    source, of ``official`` lists, or assigned by hash of the patient. Importing again keeps the salt, so hashed ids
    stay.

    Args:
        source: name of the source, such as ``nih-cxr14`` or ``table``.
        root: folder of the data set.
        out: folder to write; must be new, empty, or (with ``force``) an earlier import.
        progress: where long work is shown.
        options: the other fields of ``ImportConfig``, and those of ``TableMapping`` for any table, as listed below.

    Raises:
        EvalfmError: an option is unknown, or something is missing or wrong; nothing was written.

    >>> from PIL import Image
    >>> Path("images").mkdir()
    >>> for name in "ab":
    ...     Image.new("L", (8, 8)).save(f"images/{name}.png")
    >>> _ = Path("images/labels.csv").write_text("file,edema\\na.png,1\\nb.png,0\\n")
    >>> data = import_data("table", "images", "mine", csv="images/labels.csv", image="file", labels=["edema"])
    >>> data.labels, data.label("edema").tolist()
    (['edema'], [1.0, 0.0])
    """
    given = {**options, "source": source, "root": str(root), "out": out, "progress": progress}
    return _imported(validate(ImportConfig, given, "The import"))


def _imported(config: ImportConfig) -> Manifest:
    """Read, check and publish what ``config`` describes."""
    read_source, progress = load_source(config.source), config.progress
    check_options(config.source, config)
    root, out = expand_root(config.root), config.out.absolute()
    if not root.is_dir():
        raise EvalfmError(f"There is no folder {root}; give the folder of the data set as root.")
    root = LinkedRoot(root.resolve()) if config.follow_links else root.resolve()
    # Links on the way to out are followed, so that what they lead to is replaced and they stay.
    out = Path(os.path.realpath(out))
    recover(out, out.parent)
    remove_stale(out.parent)
    # Hashes that were there before stay as they are.
    earlier = _salt_of_earlier(out, root, config.force)
    config = config.model_copy(update={"salt": config.salt or earlier or secrets.token_hex(16)})

    imported = read_source(root, config)
    info = imported.info.model_copy(update={"root": root_from(config.root, out), "follow_links": config.follow_links})
    if not info.names_are_public and info.salt is None:
        info = info.model_copy(update={"salt": config.salt})
    manifest = Manifest(info, imported.table, out)
    new_split = bool(config.official or config.stratify or "split" not in manifest.table)
    if new_split:
        manifest = assign_splits(
            manifest, seed=config.seed, official=config.official, stratify=config.stratify, progress=progress
        )
    if config.val_from_train or (imported.val_from_train and not new_split):
        manifest = with_val_from_train(manifest, seed=config.seed, progress=progress)
    info = manifest.info
    manifest.validate()
    for note in info.notes:
        progress.say(note)
    if set(manifest.splits) == {"train", "test"}:
        progress.say("The split has no val, on which heads choose; --val-from-train draws it by patient.")

    work = out.parent / work_name()
    try:
        work.mkdir(parents=True)
        if config.copy_images:
            manifest = _with_copies(manifest, work, progress)
        manifest.write(work)
        put(work, out)
    except OSError as error:
        raise EvalfmError(
            f"{out} cannot be written ({error.strerror or error}); free disk or give another out."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Manifest.read(out, validate=False)


def relocate(manifest: Manifest, root: str, *, follow_links: bool = False) -> Manifest:
    """Write another ``root`` into dataset.yaml; a relative one starts here, ``${VARIABLE}`` stays as it is.

    Raises:
        EvalfmError: a file of the table is not there; nothing was written.
    """
    update = {"root": root_from(root, manifest.folder), "follow_links": follow_links or manifest.info.follow_links}
    moved = Manifest(manifest.info.model_copy(update=update), manifest.table, manifest.folder)
    raise_faults(list(file_faults(moved)), moved)
    write_atomically(manifest.folder / DATASET_FILE, dataset_yaml(moved.info).encode())
    return moved


def _salt_of_earlier(out: Path, root: Path, force: bool) -> str | None:
    """Make sure that ``out`` may be written, and return the salt of the import that it holds."""
    if out.exists() and not out.is_dir():
        raise EvalfmError(f"{out} is a file or device; give a new folder as out.")
    entries = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if not entries:
        return None
    stray = sorted(entries - {DATASET_FILE, PARQUET_FILE, CSV_FILE, COPIES})
    if DATASET_FILE not in entries or stray:
        what = f" ({', '.join(stray[:3])})" if stray else ""
        raise EvalfmError(f"{out} holds something other than an import{what}; give a new folder as out.")
    if root.is_relative_to(out.resolve()):
        raise EvalfmError(f"The images lie in {out} itself; give another folder as out.")
    if not force:
        raise EvalfmError(f"{out} holds an import already; add --force to replace it or give another folder.")
    return read_dataset_info(out / DATASET_FILE).salt


def _with_copies(manifest: Manifest, work: Path, progress: Progress) -> Manifest:
    cells = (cell for name in manifest.file_columns for cell in manifest.table[name].dropna() if cell != EMPTY_MASK)
    files = sorted({file_of(cell) for cell in cells})
    for file in progress.track(files, "copies", len(files)):
        target = work / COPIES / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.root / file, target)
    return Manifest(manifest.info.model_copy(update={"root": COPIES, "follow_links": False}), manifest.table, work)
