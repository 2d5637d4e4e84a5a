"""What is wrong with a manifest, all of it at once, each fault with its row and remedy."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import EMPTY_MASK, MASK_SUFFIX, MISSING_WORDS, NUMBER_COLUMNS, SPLITS, TEXT_COLUMNS, as_numbers
from evalfm.data.locators import OUTSIDE, file_of, locator_faults
from evalfm.data.mask_facts import mask_facts
from evalfm.data.privacy import attribute_faults
from evalfm.errors import EvalfmError, suggestion
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest

SHOWN = 20
FEW = 4
"""Rows of one kind of fault from which on they are one line, and how many of them it names."""
TRUST = (
    "; if you trust where links lead, import with --follow-links or write `follow_links: true` into dataset.yaml, "
    "else put the files under the root"
)
LONGEST_SHOWN = 60
OLDEST = 120.0
WIDEST_PIXEL_MM = 50.0


@dataclass(frozen=True)
class DataFault:
    """One thing wrong.

    Attributes:
        message: the sentence with its remedy.
        row: counted from 1; None: no one row.
        kind: what faults of other rows share with it; by default the sentence.
    """

    message: str
    row: int | None = None
    kind: str | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.message if self.row is None else f"row {self.row}: {self.message}"


def raise_faults(faults: list[DataFault], manifest: Manifest) -> None:
    """Raise one EvalfmError that lists ``faults``, the first 20 in full and the number of the others."""
    if not faults:
        return
    shown = fault_lines(faults)
    lines = [f"  {line}" for line in shown[:SHOWN]]
    if len(shown) > SHOWN:
        lines.append(f"  … and {len(shown) - SHOWN} more.")
    number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise EvalfmError(f"The data set {manifest.info.name!r} has {number} to fix:\n" + "\n".join(lines))


def fault_lines(faults: Sequence[DataFault]) -> list[str]:
    """A line for each fault, one for those of many rows that are of one kind, with the first of them."""
    kinds: dict[str, list[DataFault]] = {}
    for position, fault in enumerate(faults):
        key = fault.kind or (f"\0{position}" if fault.row is None else fault.message)
        kinds.setdefault(key, []).append(fault)
    lines = []
    for alike in kinds.values():
        if len(alike) < FEW:
            lines += [str(fault) for fault in alike]
            continue
        if alike[0].row is None:
            lines.append(f"{len(alike)} such faults, the first: {alike[0].message}")
            continue
        rows = ", ".join(str(fault.row) for fault in alike[:FEW])
        more = ", …" if len(alike) > FEW else ""
        what = "each of them" if alike[0].kind is None else "the first"
        lines.append(f"{len(alike)} rows ({rows}{more}), {what}: {alike[0].message}")
    return lines


def quick_faults(manifest: Manifest) -> list[DataFault]:
    """Faults that show without opening an image: names, splits, labels, ages, files that are not there."""
    if len(manifest) == 0:
        return [DataFault("the table has no rows; import the data again or check its folder")]
    attributes = dict(_attribute_words(manifest))
    cells = [fault for faults in attributes.values() for fault in faults]
    numbers = list(_numbers(manifest))
    named = set(attributes) | ({"age"} if any(fault.row is not None for fault in numbers) else set())
    return [
        *_declarations(manifest, named),
        *_identities(manifest),
        *_splits(manifest),
        *_labels(manifest),
        *cells,
        *numbers,
        *file_faults(manifest),
    ]


def deep_faults(
    manifest: Manifest,
    *,
    findings: Collection[str] | None = None,
    headers: bool = True,
    progress: Progress = SILENT,
) -> list[DataFault]:
    """Faults that need the files: unreadable images, identical bytes in two splits, masks of another size.

    Only masks of ``findings`` are looked at, all by default; one that was read before and has not changed since is
    not decoded again. Without ``headers`` an image needs no header: the caller decodes it whole.
    """
    selected = [each for each in manifest.findings if findings is None or each in findings]
    return [*_identical_images(manifest, headers, progress), *_mask_sizes(manifest, selected, progress)]


def _rows(manifest: Manifest, wrong: NDArray[np.bool_] | pd.Series, column: str, remedy: str) -> list[DataFault]:
    positions = np.flatnonzero(np.asarray(wrong, dtype=bool))
    values = manifest.table[column].to_numpy()
    return [
        DataFault(
            f"{column} is {_shown(values[position])}; {_remedy(column, values[position], remedy)}", int(position) + 1
        )
        for position in positions
    ]


def _remedy(column: str, value: object, remedy: str) -> str:
    """``remedy``, or how to say that a word such as NA means unknown."""
    if column == "split" or not _means_missing(value):
        return remedy
    said = f"`--unknown {shlex.quote(str(value))}` at the import, or `unknown_words: [{value!r}]` in dataset.yaml"
    return f"leave the cell empty, or say that the word means unknown ({said})"


def _means_missing(value: object) -> bool:
    return isinstance(value, str) and value.lower() in MISSING_WORDS


def _missing_words(column: pd.Series) -> NDArray[np.bool_]:
    """Cells, bool [N], that hold a word such as NA."""
    words = pd.Series(column.unique(), dtype=object)
    return column.isin(words[words.map(_means_missing).astype(bool)]).to_numpy(dtype=bool)


def _shown(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "empty"
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}… ({len(shown)} letters)"


def _declarations(manifest: Manifest, cells_named: set[str]) -> Iterable[DataFault]:
    table, info = manifest.table, manifest.info
    if not info.names_are_public and not info.salt:
        yield DataFault("dataset.yaml needs `salt:` (any long random text), or `public_ids: true` if ids are published")
    for message in attribute_faults(manifest, cells_named):
        yield DataFault(message)
    for name in info.label_source:
        if name not in table and name + MASK_SUFFIX not in table:
            known = [str(column) for column in table.columns]
            near = suggestion(name, known)
            yield DataFault(f"the label {name!r} of dataset.yaml has no column; add it or remove it. {near}")
    for name in info.mask_dialects:
        if name + MASK_SUFFIX not in table:
            yield DataFault(
                f"mask_dialects of dataset.yaml names {name!r}, but there is no column {name + MASK_SUFFIX!r}"
            )
    for column in table.columns:
        finding = str(column).removesuffix(MASK_SUFFIX)
        if finding != column and finding not in info.mask_dialects:
            dialect = f"`mask_dialects: {{{finding}: file}}`"
            yield DataFault(f"the column {column!r} needs its dialect, such as {dialect} in dataset.yaml")


def _identities(manifest: Manifest) -> Iterable[DataFault]:
    table = manifest.table
    yield from _rows(manifest, table["id"].isna(), "id", "give every row an id of its own")
    repeated = table["id"].notna() & table["id"].duplicated()
    if repeated.any():
        names = table["id"].tolist()
        first = dict(zip(reversed(names), range(len(names), 0, -1), strict=True))
        for position in np.flatnonzero(repeated).tolist():
            name = names[position]
            message = f"id {_shown(name)} is that of row {first[name]} too; give every row an id of its own"
            yield DataFault(message, position + 1)
    yield from _rows(manifest, table["image"].isna(), "image", "write the path of the image or remove the row")
    for name in ("patient", "study", "group"):
        if name in table and table[name].isna().any() and table[name].notna().any():
            yield from _rows(manifest, table[name].isna(), name, "fill it in for all rows or remove the column")
    # Rows whose patient is NA would be one patient.
    if "patient" in table:
        unnamed = _missing_words(table["patient"])
        if unnamed.sum() > 1:
            yield from _rows(manifest, unnamed, "patient", "")


def _splits(manifest: Manifest) -> Iterable[DataFault]:
    table = manifest.table
    if "split" not in table:
        return
    remedy = "write train, val or test, or make a split with `evalfm data split`"
    yield from _rows(manifest, ~table["split"].isin(SPLITS), "split", remedy)
    what = manifest.patient_column
    if what != "id":
        for name, splits in _in_two_splits(pd.Series(manifest.patients), table["split"]):
            remedy = f"a {what} belongs to one split, split again by {what}"
            yield DataFault(f"the {what} {_shown(name)} is in {splits}; {remedy}", kind=f"{what} in two splits")
    if table["image"].duplicated().any():
        for name, splits in _in_two_splits(table["image"], table["split"]):
            message = f"the image {_shown(name)} is in {splits}; rows of one image belong to one split"
            yield DataFault(message, kind="image in two splits")


def _in_two_splits(key: pd.Series, split: pd.Series) -> list[tuple[str, str]]:
    pairs = pd.DataFrame({"key": key, "split": split}).dropna().drop_duplicates()
    shared = pairs[pairs["key"].duplicated(keep=False)].sort_values(["key", "split"], kind="stable")
    splits: dict[str, list[str]] = {}
    # Without a table for each, of which there may be as many as there are patients.
    for name, split_name in zip(shared["key"].tolist(), shared["split"].tolist(), strict=True):
        splits.setdefault(str(name), []).append(split_name)
    return [(name, " and ".join(names)) for name, names in splits.items()]


def _labels(manifest: Manifest) -> Iterable[DataFault]:
    for name in manifest.labels:
        column, kind = manifest.table[name], manifest.info.label_kind(name)
        wrong: NDArray[np.bool_] | pd.Series
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        if kind == "binary":
            wrong = ~column.isin([0.0, 1.0])
            remedy = (
                f"write 0, 1 or nothing, or declare `label_kinds: {{{name}: class}}` (or number; at the import "
                f"`--label-kind {name}=class`, `--levels {name}=LOW,HIGH` for words in an order)"
            )
        elif kind == "number":
            wrong, remedy = _not_finite(column), "write a finite number or nothing"
        elif (levels := manifest.info.levels.get(name)) is not None:
            wrong, remedy = ~column.map(_plain).isin(levels), f"write one of the levels {', '.join(levels)}, or nothing"
        elif numeric:
            wrong = (column < 0) | (column != column.round()) | np.isinf(column)
            remedy = "number the classes 0, 1, 2, … or leave the cell empty"
        else:
            wrong, remedy = _missing_words(column), ""
        yield from _rows(manifest, wrong & column.notna(), name, remedy)


def _attribute_words(manifest: Manifest) -> Iterable[tuple[str, list[DataFault]]]:
    """Attributes of numbers with cells such as NA, which make words of all of them and a subgroup of each."""
    for name in manifest.info.attributes:
        column = manifest.table.get(name)
        known_kind = name in manifest.labels or name in TEXT_COLUMNS or name in NUMBER_COLUMNS
        if column is None or known_kind or pd.api.types.is_numeric_dtype(column.dtype):
            continue
        missing = _missing_words(column)
        if missing.any() and not missing.all() and as_numbers(column[~missing]) is not None:
            yield name, _rows(manifest, missing, name, "")


def _not_finite(column: pd.Series) -> NDArray[np.bool_]:
    """Cells that hold something else than a finite number."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return np.asarray(np.isinf(column.to_numpy(np.float64)), dtype=bool)
    return np.array([isinstance(cell, str) or (isinstance(cell, float) and np.isinf(cell)) for cell in column], bool)


def _plain(level: object) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _numbers(manifest: Manifest) -> Iterable[DataFault]:
    table = manifest.table
    for name in NUMBER_COLUMNS:
        if name not in table:
            continue
        yield from _rows(manifest, _not_finite(table[name]), name, "write a number or nothing")
        column = pd.to_numeric(table[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
        if name == "age":
            yield from _rows(manifest, (column < 0) | (column > OLDEST), name, "write years from 0 to 120 or nothing")
        elif name.startswith("spacing"):
            wrong = (column <= 0) | (column > WIDEST_PIXEL_MM)
            yield from _rows(manifest, wrong, name, "write millimetres per pixel above 0 and up to 50, or nothing")
    if ("spacing_row_mm" in table) != ("spacing_column_mm" in table):
        yield DataFault("spacing needs both columns spacing_row_mm and spacing_column_mm; add the other one")


def file_faults(manifest: Manifest) -> Iterable[DataFault]:
    """Files of images and masks that are not under the root."""
    root = manifest.root
    if not root.is_dir():
        remedy = f"`evalfm data relocate {manifest.folder} NEWROOT`"
        yield DataFault(f"the root {root} is not there; mount the disk, or say where the images lie now: {remedy}")
        return
    for name in manifest.file_columns:
        column = manifest.table[name]
        present = column[column.notna() & (column != EMPTY_MASK)]
        reasons = locator_faults(present, root)
        for position, locator in enumerate(column if reasons else ()):
            if locator in reasons:
                reason = f"{reasons[locator]} (root {root}){TRUST if reasons[locator] == OUTSIDE else ''}"
                yield DataFault(f"{name} {_shown(locator)} {reason}", position + 1, f"{name} {reason}")


def _identical_images(manifest: Manifest, headers: bool, progress: Progress) -> Iterable[DataFault]:
    table = manifest.table
    digests = manifest.stored_digests(headers=headers, progress=progress)
    for position, locator in enumerate(table["image"] if digests.failed else ()):
        if locator in digests.failed:
            reason = digests.failed[locator]
            kind = reason.replace(locator, "…").replace(file_of(locator), "…")
            shown = reason if reason.startswith(file_of(locator)) else f"the image cannot be read: {reason}"
            yield DataFault(shown, position + 1, f"image: {kind}")
    if "split" not in table:
        return
    twins = digests.perhaps_repeated()
    table = table[twins]
    bytes_of = pd.Series(digests.in_hex()[twins], index=table.index, dtype=object)
    shared = dict(_in_two_splits(bytes_of, table["split"]))
    # The same locator in two splits is a quick fault; here are different files of the same bytes.
    for digest, rows in table[bytes_of.isin(list(shared))].groupby(bytes_of, sort=True):
        if rows["image"].nunique() > 1:
            names = ", ".join(repr(name) for name in rows["id"].iloc[:4])
            splits = shared[str(digest)]
            yield DataFault(
                f"the images of {names} have identical bytes and are in {splits}; put them into one split "
                "(`evalfm data split DATA --force` keeps them together)",
                kind="identical bytes",
            )


def _mask_sizes(manifest: Manifest, findings: Iterable[str], progress: Progress) -> Iterable[DataFault]:
    for finding in findings:
        facts = mask_facts(manifest, [finding], range(len(manifest)), progress=progress)
        for row, reason in sorted(facts.failed.items()):
            cell = str(manifest.table[finding + MASK_SUFFIX].iat[row])
            kind = reason.replace(cell, "…").replace(f"row {row + 1} ", "")
            yield DataFault(reason, row + 1, f"{finding}: {kind}")
