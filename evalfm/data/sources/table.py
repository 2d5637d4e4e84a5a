"""Any folder of images with a table: a mapping of columns, or the image-folder convention of Hugging Face."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import MASK_SUFFIX, TEXT_COLUMNS, as_text, read_table, with_numbers
from evalfm.data.dataset_info import DatasetInfo, SplitRule
from evalfm.data.sources._contract import Imported, ImportOptions, TableMapping
from evalfm.data.sources._tables import binary_labels, column, expect_file
from evalfm.errors import EvalfmError

OPTIONS = frozenset({"blank", "uncertain", "mapping"})
METADATA = "metadata.csv"
SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_FOLDER = "\0split"
ROLES = ("patient", "study", "group", "slice")


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read a table by ``options.mapping``; without one ``metadata.csv`` with its ``file_name`` is expected.

    ``metadata.csv`` may lie in ``root``, or one in each of ``train/``, ``validation/`` and ``test/``, which
    then give the split. Only mapped columns enter the manifest.

    Raises:
        EvalfmError: a file or column is missing, or two columns are mapped to one name.
    """
    mapping = options.mapping or TableMapping()
    native, file = read_mapped(root, mapping)
    blank, uncertain = options.blank or "unknown", options.uncertain or "unknown"
    columns: dict[str, pd.Series] = {"image": _relative(column(native, mapping.image, file), root)}

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
        cells = column(native, source, file)
        binary = mapping.label_kinds.get(label, "binary") == "binary"
        take(label, binary_labels(cells, blank=blank, uncertain=uncertain) if binary else with_numbers(cells))
    for finding, source in mapping.masks.items():
        take(finding + MASK_SUFFIX, as_text(column(native, source, file)))
    for attribute, source in mapping.attributes.items():
        if attribute not in mapping.labels:
            take(attribute, with_numbers(column(native, source, file)))
    for name in mapping.keep:
        take(name, with_numbers(column(native, name, file)))
    info = _info(mapping, root, "split" in columns).model_copy(update={"blank": blank, "uncertain": uncertain})
    return Imported(pd.DataFrame(columns), info)


def read_mapped(root: Path, mapping: TableMapping) -> tuple[pd.DataFrame, Path]:
    """The table that ``mapping`` is of, and its file.

    Raises:
        EvalfmError: there is none.
    """
    if mapping.csv is not None:
        return read_table(mapping.csv), mapping.csv
    parts = []
    if not (root / METADATA).is_file():
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            if folder.name in SPLIT_WORDS and (folder / METADATA).is_file():
                part = read_table(folder / METADATA)
                names = as_text(column(part, mapping.image, folder / METADATA))
                part[mapping.image] = pd.Series([name and f"{folder.name}/{name}" for name in names], dtype=object)
                part[_SPLIT_FOLDER] = folder.name
                parts.append(part)
    if parts:
        others = [
            entry.parent.name for entry in sorted(root.glob(f"*/{METADATA}")) if entry.parent.name not in SPLIT_WORDS
        ]
        if others:
            raise EvalfmError(
                f"{root} holds {METADATA} in {', '.join(others[:3])} too, which names no split; call the folder train, "
                "validation or test, or move it away."
            )
        return pd.concat(parts, ignore_index=True), root / METADATA
    file = expect_file(root, [METADATA])
    return read_table(file), file


def _relative(cells: pd.Series, root: Path) -> pd.Series:
    """Locators under ``root``: absolute paths in it become relative, others stay for the checks to refuse."""
    text = as_text(cells)
    prefixes = {f"{folder.as_posix().rstrip('/')}/" for folder in (root.absolute(), root.resolve())}
    for prefix in prefixes:
        text = text.map(lambda name, prefix=prefix: name.removeprefix(prefix) if name else name)
    return pd.Series([name.removeprefix("./") if name else None for name in text], index=text.index, dtype=object)


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
        label_source={name: named.get(name, "unstated") for name in [*mapping.labels, *mapping.masks]},
        label_kinds={name: kind for name, kind in mapping.label_kinds.items() if name in mapping.labels},
        derived_from=mapping.derived_from,
        attributes=list(mapping.attributes),
        redistributable_images=mapping.redistributable_images,
        public_ids=mapping.public_ids,
        bits=mapping.bits,
        unit=mapping.unit,
        split=SplitRule(rule="source") if has_split else None,
    )
