"""Any folder of images: a mapping of columns, the image-folder convention of Hugging Face, or a folder a class."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pandas as pd

from evalfm.data.columns import EMPTY_MASK, MASK_SUFFIX, TEXT_COLUMNS, as_text, read_table, with_numbers, without_words
from evalfm.data.config import ImportOptions, TableMapping
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.locators import file_of, files_below, locator_faults
from evalfm.data.masks import mask_file_values
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, binary_labels, column, two_words, what_is_in
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.progress import Progress

OPTIONS = frozenset({"blank", "uncertain", "mapping"})
METADATA = "metadata.csv"
SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_FOLDER = "\0split"
ROLES = ("patient", "study", "group", "slice")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".dcm", ".dicom")
PATH, CLASS, SPLIT = "path", "class", "split"


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read a table by ``options.mapping``; without one ``metadata.csv`` with its ``file_name`` is expected.

    ``metadata.csv`` may lie in ``root``, or one in each of ``train/``, ``validation/`` and ``test/``, which
    then give the split. Only mapped columns enter the manifest. With ``class_folders`` there is no table: each folder
    of images is a class, in ``root`` or in folders of splits.

    Raises:
        EvalfmError: a file or column is missing, or two columns are mapped to one name.
    """
    mapping = options.mapping or TableMapping()
    notes = Notes()
    if mapping.class_folders is None:
        native, file = read_mapped(root, mapping)
    else:
        native, file = read_class_folders(root, notes), root
        split = SPLIT if SPLIT in native else None
        words = {"image": PATH, "labels": {mapping.class_folders: CLASS}, "split": split}
        mapping = mapping.model_copy(update=words)
    if mapping.unknown_words:
        notes.append(f"Cells that say {', '.join(mapping.unknown_words)} were taken for empty ones.")
    blank, uncertain = options.blank or "unknown", options.uncertain or "unknown"
    images = _relative(column(native, mapping.image, file), root)
    if mapping.skip_missing:
        there = ~images.isin(_missing(images.dropna(), root)).to_numpy()
        if len(there) and not there.any():
            raise EvalfmError(
                f"There is no {images.iloc[0]} in {root}, which {what_is_in(root)}, nor any other image of {file}; "
                "give the folder that its paths start in."
            )
        notes.tally(~there, f"of {len(there)} rows have no image file and were left out.")
        native, images = native[there].reset_index(drop=True), images[there].reset_index(drop=True)
    columns: dict[str, pd.Series] = {"image": images}

    def take(name: str, cells: pd.Series) -> None:
        if name in columns:
            raise EvalfmError(f"Two columns are mapped to {name!r}; give one of them another name.")
        columns[name] = cells

    take("id", as_text(column(native, mapping.id, file)) if mapping.id else columns["image"])
    for role in ROLES:
        if source := getattr(mapping, role):
            take(role, column(native, source, file))
    if mapping.split or _SPLIT_FOLDER in native:
        take("split", _split(column(native, mapping.split or _SPLIT_FOLDER, file)))
    for label, source in mapping.labels.items():
        _free(label)
        cells, levels = column(native, source, file), mapping.levels.get(label)
        if mapping.label_kind(label) == "binary":
            take(label, binary_labels(two_words(cells, levels), blank=blank, uncertain=uncertain))
        else:
            take(label, with_numbers(cells))
    _check_names(mapping)
    for finding, source in mapping.masks.items():
        cells = as_text(column(native, source, file))
        if mapping.skip_missing and mapping.mask_dialects.get(finding, "file") == "file":
            absent = cells.isin(_missing(cells[cells.notna() & (cells != EMPTY_MASK)], root))
            notes.tally(absent, f"{finding} masks are not there and are unknown.")
            cells = cells.mask(absent, None)
        take(finding + MASK_SUFFIX, cells)
    without_unjudged(columns, mapping, root, notes, options.progress)
    for attribute, source in mapping.attributes.items():
        if attribute not in mapping.labels:
            take(attribute, with_numbers(column(native, source, file)))
    for name in mapping.keep:
        take(name, with_numbers(column(native, name, file)))
    update = {"blank": blank, "uncertain": uncertain, "notes": notes}
    return Imported(pd.DataFrame(columns), _info(mapping, root, "split" in columns).model_copy(update=update))


def _check_names(mapping: TableMapping) -> None:
    """Refuse kinds and levels of labels that are not mapped."""
    for flag, names in (("--label-kind", mapping.label_kinds), ("--levels", mapping.levels)):
        for name in names:
            if name not in mapping.labels:
                raise UnknownNameError(f"label of {flag}", name, mapping.labels)


def _missing(locators: pd.Series, root: Path) -> set[str]:
    """Those whose file is not there; what leaves the root or is a link stays for the checks to refuse."""
    return {
        locator
        for locator in locator_faults(locators, root)
        if not os.path.lexists(root / file_of(locator))
        and not locator.startswith("/")
        and ".." not in PurePosixPath(locator.replace("\\", "/")).parts
    }


def read_mapped(root: Path, mapping: TableMapping) -> tuple[pd.DataFrame, Path]:
    """The table that ``mapping`` is of, its words for unknown made empty, and its file.

    Raises:
        EvalfmError: there is none.
    """
    table, file = _read_table(root, mapping)
    return without_words(table, mapping.unknown_words), file


def _read_table(root: Path, mapping: TableMapping) -> tuple[pd.DataFrame, Path]:
    if mapping.csv is not None:
        return read_table(mapping.csv), mapping.csv
    tables = []
    if not (root / METADATA).is_file():
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            if folder.name in SPLIT_WORDS and (folder / METADATA).is_file():
                table = read_table(folder / METADATA)
                names = as_text(column(table, mapping.image, folder / METADATA))
                table[mapping.image] = pd.Series([name and f"{folder.name}/{name}" for name in names], dtype=object)
                table[_SPLIT_FOLDER] = folder.name
                tables.append(table)
    if tables:
        others = [
            entry.parent.name for entry in sorted(root.glob(f"*/{METADATA}")) if entry.parent.name not in SPLIT_WORDS
        ]
        if others:
            raise EvalfmError(
                f"{root} holds {METADATA} in {', '.join(others[:3])} too, which names no split; call the folder train, "
                "validation or test, or move it away."
            )
        return pd.concat(tables, ignore_index=True), root / METADATA
    if not (root / METADATA).is_file():
        raise EvalfmError(
            f"There is no {METADATA} in {root}, which {what_is_in(root)}; give the table with --csv, or, where each "
            "folder is a class, a name for the label with --class-folders NAME."
        )
    return read_table(root / METADATA), root / METADATA


def _relative(cells: pd.Series, root: Path) -> pd.Series:
    """Locators under ``root``: absolute paths in it become relative, others stay for the checks to refuse."""
    prefixes = {f"{folder.as_posix().rstrip('/')}/" for folder in (root.absolute(), root.resolve())}
    names = []
    for name in as_text(cells):
        for prefix in prefixes if name else ():
            name = name.removeprefix(prefix)
        names.append(name.removeprefix("./") if name else None)
    return pd.Series(names, index=cells.index, dtype=object)


def _split(cells: pd.Series) -> pd.Series:
    words = [SPLIT_WORDS.get(word.lower(), word) if word else None for word in as_text(cells)]
    return pd.Series(words, index=cells.index, dtype=object)


def _free(label: str) -> None:
    if label in TEXT_COLUMNS or label.endswith(MASK_SUFFIX):
        raise EvalfmError(f"A label cannot be named {label!r}; give it another name: `NEW={label}`.")


def _info(mapping: TableMapping, root: Path, has_split: bool) -> DatasetInfo:
    named = mapping.label_source
    return DatasetInfo(
        name=mapping.name or root.resolve().name,
        title=mapping.title,
        licence=mapping.licence,
        citation=mapping.citation,
        mask_dialects={finding: mapping.mask_dialects.get(finding, "file") for finding in mapping.masks},
        mask_values=mapping.mask_values,
        label_source={
            name: named.get(name, "name of the folder" if name == mapping.class_folders else "unstated")
            for name in [*mapping.labels, *mapping.masks]
        },
        label_kinds={name: kind for name in mapping.labels if (kind := mapping.label_kind(name)) != "binary"},
        levels={name: levels for name, levels in mapping.levels.items() if mapping.label_kind(name) == "class"},
        derived_from=mapping.derived_from,
        attributes=list(mapping.attributes),
        redistributable_images=mapping.redistributable_images,
        public_ids=mapping.public_ids,
        bits=mapping.bits,
        unit=mapping.unit,
        split=SplitRule(rule="source") if has_split else None,
    )


def without_unjudged(
    columns: dict[str, pd.Series], mapping: TableMapping, root: Path, notes: Notes, progress: Progress
) -> None:
    """Make masks unknown in ``columns`` that hold a value of ``mask_unknown``, and look for those of ``mask_values``.

    Raises:
        EvalfmError: no file holds a value that is said to be a finding, or a file is no map of labels.
    """
    findings = list(dict.fromkeys([*mapping.mask_values, *mapping.mask_unknown]))
    if not findings:
        return
    cells = [cell for finding in findings for cell in columns[finding + MASK_SUFFIX].dropna() if cell != EMPTY_MASK]
    absent = locator_faults(cells, root)
    files = [cell for cell in dict.fromkeys(cells) if cell not in absent]
    held = {cell: frozenset(mask_file_values(cell, root)) for cell in progress.track(files, "label maps", len(files))}
    for finding in findings:
        column = columns[finding + MASK_SUFFIX]
        values, unknown = mapping.mask_values.get(finding, []), set(mapping.mask_unknown.get(finding, []))
        there = [held[cell] for cell in column if cell in held]
        present = frozenset().union(*there)
        if values and there and not present & set(values):
            wanted, known = (", ".join(map(str, sorted(each))) for each in (values, present))
            raise EvalfmError(f"No {finding} mask holds {wanted}, only {known}; correct mask_values (--mask-values).")
        unjudged = column.map(lambda cell, unknown=unknown: bool(held.get(cell, frozenset()) & unknown)).astype(bool)
        said = ", ".join(map(str, sorted(unknown)))
        notes.tally(
            unjudged, f"of {len(there)} {finding} masks hold pixels that nobody judged ({said}) and were made unknown."
        )
        columns[finding + MASK_SUFFIX] = column.mask(unjudged, None)


def read_class_folders(root: Path, notes: Notes) -> pd.DataFrame:
    """Columns ``path``, ``class`` and, where the classes lie in ``train/``, ``test/`` …, ``split`` of every image.

    Files that are no images by their suffix are counted in ``notes``.

    Raises:
        EvalfmError: there are fewer than two classes, or folders of splits and of classes lie side by side.
    """
    tops = _folders(root)
    splits = [name for name in tops if name.lower() in SPLIT_WORDS]
    if splits and len(splits) < len(tops):
        other = next(name for name in tops if name not in splits)
        raise EvalfmError(f"{root} holds {splits[0]}/ and {other}/ side by side; give a root of splits or of classes.")
    rows: list[dict[str, str]] = []
    others = 0
    for split in splits or [""]:
        for name in _folders(root / split):
            for file in files_below(root, f"{split}/{name}" if split else name):
                if PurePosixPath(file).name.startswith("."):
                    continue
                if not file.lower().endswith(SUFFIXES):
                    others += 1
                    continue
                rows.append({PATH: file, CLASS: name} | ({SPLIT: split.lower()} if split else {}))
    table = pd.DataFrame(rows, dtype=object)
    if len(rows) == 0 or table[CLASS].nunique() < 2:
        raise EvalfmError(
            f"{root}, which {what_is_in(root)}, has images in fewer than two folders; give the folder that holds one "
            "folder for each class, or train/ and test/ with them."
        )
    notes.tally(others, "files in the folders are no images and were left out.")
    return table


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder`` but hidden ones and what archives of other systems leave."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith((".", "__"))
    )
