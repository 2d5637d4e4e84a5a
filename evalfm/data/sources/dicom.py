"""A hospital's folder of DICOM images, with a table of labels that lies beside it or elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom.config import disable_value_validation

from evalfm.data.columns import MASK_SUFFIX, as_numbers, as_text, read_table, without_words
from evalfm.data.config import ImportOptions, TableMapping
from evalfm.data.dataset_info import DatasetInfo, LabelKind
from evalfm.data.dicom import FILM_MODALITIES, DicomAttributes, dicom_attributes
from evalfm.data.dicom_frames import read_dicom
from evalfm.data.digests import WORKERS
from evalfm.data.locators import files_below
from evalfm.data.privacy import SPLIT_KEY, mask_split_keys, public_names, split_keys
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import binary_labels, column, snake, two_words, what_is_in
from evalfm.data.stored import kind_of
from evalfm.errors import EvalfmError, UnknownNameError

OPTIONS = frozenset({"label_table", "join_on", "burned_in_checked", "blank", "uncertain", "mapping"})
KEYS = ("SOPInstanceUID", "AccessionNumber", "StudyInstanceUID", "PatientID")
FRONTAL = ("PA", "AP")
VIEW = "view"
_TAGS = [*KEYS, "Modality", "PresentationIntentType", "BurnedInAnnotation", "Rows", "NumberOfFrames"]
ONLY_TABLE = ("class_folders", "skip_missing", "mask_values", "mask_unknown")
"""What a mapping may say to the source ``table`` alone."""


@dataclass(frozen=True)
class _File:
    """What is read of one file; the keys stay here and leave as salted hashes."""

    locator: str
    keys: dict[str, str | None]
    modality: str
    intent: str
    burned_in: str
    frames: int
    facts: DicomAttributes


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read every DICOM file below ``root``, whatever its name, and the ``labels`` that meet it ``on`` a tag.

    Frontal images for presentation (CR, DX; view PA or AP) enter; what is left out is counted by reason. A column
    ``view`` of the labels speaks where a header says no view. ``on`` is one of SOPInstanceUID, AccessionNumber,
    StudyInstanceUID and PatientID, or ``TAG=COLUMN``; every image of an accession gets its labels. Labels are the
    columns of 0, 1, −1 and blanks, or those that the mapping names; nothing else of the table enters. Ids and
    patients are salted hashes in the manifest already; sex, age, view and manufacturer come from the headers.

    Raises:
        EvalfmError: no image is found, pixels may hold names and nobody looked, labels do not meet the images or
            contradict one another.
    """
    counts: Counter[str] = Counter()
    files = [file for file in _files(root, options, counts) if file is not None]
    if not files:
        raise EvalfmError(f"There is no *.dcm with pixels in {root}, which {what_is_in(root)}; give the DICOM folder.")
    mapping = options.mapping or TableMapping()
    unused_fields = [field for field in ONLY_TABLE if getattr(mapping, field)]
    if unused_fields:
        raise EvalfmError(f"The source 'dicom' knows no {', '.join(unused_fields)} in its mapping; leave it out.")
    labels, note = _labels(files, options, mapping)
    kept, views = _frontal(files, labels, counts)
    if not kept:
        raise EvalfmError(f"{root} holds no frontal image for presentation ({_in_words(counts)}); check the export.")
    notes = [note] if note else []
    if counts:
        notes.append(f"Left out: {_in_words(counts)}.")
    _look_for_names([files[position] for position in kept], options, notes)
    info = DatasetInfo(
        name=mapping.name or "dicom",
        title=mapping.title,
        licence=mapping.licence,
        citation=mapping.citation,
        derived_from=mapping.derived_from,
        salt=options.salt or None,
        attributes=["sex", "age", VIEW, "manufacturer"],
        blank=options.blank or "unknown",
        uncertain=options.uncertain or "unknown",
        notes=notes,
    )
    table = _table([files[position] for position in kept], views, info)
    if labels is None:
        return Imported(table, info)
    rows = labels.iloc[kept].reset_index(drop=True)
    return _with_labels(table, rows, info, mapping, options)


def _files(root: Path, options: ImportOptions, counts: Counter[str]) -> Iterator[_File | None]:
    """Every DICOM file with pixels, each instance once, in the order of their paths."""
    locators = files_below(root)
    with disable_value_validation(), ThreadPoolExecutor(WORKERS) as pool:
        read = pool.map(lambda locator: _read(root, locator), locators)
        seen: set[str] = set()
        for file in options.progress.track(read, "DICOM headers", len(locators)):
            if isinstance(file, str):
                counts[file] += 1
                continue
            name = file.keys["SOPInstanceUID"]
            if name is None:
                counts["no SOPInstanceUID"] += 1
            elif name in seen:
                counts["copies of an image"] += 1
            else:
                seen.add(name)
                yield file


def _read(root: Path, locator: str) -> _File | str:
    """The image, or why the file is none."""
    path = root / locator
    try:
        # A pipe among the files would be waited for.
        if not path.is_file() or kind_of(path) != "dicom":
            return "not DICOM"
        header = read_dicom(path, _TAGS)
        if "Rows" not in header:
            return "no pixels"
        words = {tag: str(header.get(tag) or "").strip() for tag in _TAGS}
        return _File(
            locator,
            {tag: words[tag] or None for tag in KEYS},
            words["Modality"],
            words["PresentationIntentType"].upper(),
            words["BurnedInAnnotation"].upper(),
            int(words["NumberOfFrames"] or 1),
            dicom_attributes(path),
        )
    except Exception:  # damaged headers fail in many ways
        return "damaged"


def _frontal(files: list[_File], labels: pd.DataFrame | None, counts: Counter[str]) -> tuple[list[int], list[str]]:
    """Positions of the images that enter, and their views."""
    table_views = None if labels is None or VIEW not in labels else as_text(labels[VIEW])
    kept, views = [], []
    for position, file in enumerate(files):
        view = (file.facts["view"] or (table_views.iloc[position] if table_views is not None else None) or "").upper()
        if file.modality not in FILM_MODALITIES:
            counts[f"modality {file.modality or 'unknown'}"] += 1
        elif file.intent not in ("", "FOR PRESENTATION"):
            counts["not for presentation"] += 1
        elif file.frames > 1:
            counts["several frames"] += 1
        elif not view:
            counts["view unknown (a column `view` of the labels may name it)"] += 1
        elif view not in FRONTAL:
            counts["not frontal"] += 1
        else:
            kept.append(position)
            views.append(view)
    return kept, views


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "nothing left out"


def _look_for_names(files: list[_File], options: ImportOptions, notes: list[str]) -> None:
    doubtful = sum(file.burned_in != "NO" for file in files)
    if not doubtful:
        return
    what = f"{doubtful} of {len(files)} images do not rule out names in their pixels (BurnedInAnnotation is not NO)"
    if not options.burned_in_checked:
        raise EvalfmError(f"{what}; look at them, then add --burned-in-checked.")
    notes.append(f"{what}; they were said to have been looked at.")


def _table(files: list[_File], views: list[str], info: DatasetInfo) -> pd.DataFrame:
    patients = [file.keys["PatientID"] for file in files]
    owners = [str(file.keys["SOPInstanceUID"]) for file in files]
    hidden = public_names(owners, info)
    columns: dict[str, Any] = {
        "id": hidden,
        "image": [file.locator for file in files],
    }
    if all(patients):
        columns["patient"] = public_names([str(name) for name in patients], info)
        owners, hidden = [str(name) for name in patients], columns["patient"]
    elif any(patients):
        raise EvalfmError(
            f"{sum(name is None for name in patients)} of {len(files)} images have no PatientID, so their patients "
            "could stand in two splits; fill it in or take these images out."
        )
    if info.salt:
        columns[SPLIT_KEY] = mask_split_keys(split_keys(owners), hidden, info.salt)
    columns |= {
        "sex": [file.facts["sex"] for file in files],
        "age": pd.Series([file.facts["age"] for file in files], dtype="float64"),
        VIEW: views,
        "manufacturer": [file.facts["manufacturer"] for file in files],
    }
    return pd.DataFrame(columns)


def _labels(files: list[_File], options: ImportOptions, mapping: TableMapping) -> tuple[pd.DataFrame | None, str]:
    """A row of the labels for each image, empty where there is none, and what was found, in a sentence."""
    path = options.label_table or mapping.csv
    if path is None:
        if options.join_on is not None or mapping.labels:
            raise EvalfmError("Labels need their table: --labels CSV.")
        return None, ""
    tag, _, theirs = (options.join_on or "SOPInstanceUID").partition("=")
    if tag not in KEYS:
        raise UnknownNameError("tag to meet on", tag, KEYS)
    table = without_words(read_table(path), mapping.unknown_words)
    key = as_text(column(table, theirs or tag, path))
    table = table[key.notna()].drop(columns=[theirs or tag]).assign(_key=key[key.notna()])
    table = table.drop_duplicates()
    twice = table["_key"].duplicated()
    if twice.any():
        raise EvalfmError(
            f"{path} has several different rows for {int(table['_key'][twice].nunique())} values of {theirs or tag}, "
            f"the first in line {int(table.index[twice][0]) + 2}; keep one row each."
        )
    wanted = [file.keys[tag] for file in files]
    met = sum(name in set(table["_key"]) for name in wanted)
    if met == 0:
        raise EvalfmError(f"No {tag} of {len(files)} images is in {path}; check --join-on ({tag}=COLUMN).")
    unused = len(set(table["_key"]) - set(wanted))
    said = f"{met} of {len(files)} images have a row in {path.name}; {unused} of its {len(table)} rows have no image."
    return table.set_index("_key").reindex(wanted).reset_index(drop=True), said


def _with_labels(
    table: pd.DataFrame, rows: pd.DataFrame, info: DatasetInfo, mapping: TableMapping, options: ImportOptions
) -> Imported:
    """The table with labels, masks and further attributes of ``rows``."""
    blank, uncertain = options.blank or "unknown", options.uncertain or "unknown"
    masks = {f"{finding}{MASK_SUFFIX}": name for finding, name in mapping.masks.items()}
    named = mapping.labels or _binary_columns(rows, {VIEW, *mapping.masks.values(), *mapping.attributes.values()})
    taken = {**named, **mapping.attributes, **masks}
    clash = sorted(set(taken) & set(table) - set(mapping.attributes))
    if clash:
        raise EvalfmError(f"The labels hold a column {clash[0]!r}, which the headers give; name it otherwise.")
    columns = {name: column(rows, source, Path("the labels")) for name, source in taken.items()}
    kinds: dict[str, LabelKind] = {}
    for name in named:
        kind = mapping.label_kind(name)
        if kind == "binary":
            cells = two_words(columns[name], mapping.levels.get(name))
            columns[name] = binary_labels(cells, blank=blank, uncertain=uncertain)
        else:
            kinds[name] = kind
    left = {str(name) for name in rows} - set(taken.values()) - {VIEW}
    notes = [*info.notes, *([f"{len(left)} columns of the labels did not enter."] if left else [])]
    update = {
        "label_source": {name: mapping.label_source.get(name, "unstated") for name in named},
        "label_kinds": kinds,
        "levels": {
            name: mapping.levels[name] for name, kind in kinds.items() if kind == "class" and name in mapping.levels
        },
        "mask_dialects": {finding: mapping.mask_dialects.get(finding, "file") for finding in mapping.masks},
        "attributes": list(dict.fromkeys([*info.attributes, *mapping.attributes])),
        "notes": notes,
    }
    return Imported(table.assign(**columns), info.model_copy(update=update))


def _binary_columns(rows: pd.DataFrame, others: set[str]) -> dict[str, str]:
    """Columns of 0, 1, −1 and blanks alone, by a plain name."""
    columns_by_name = {}
    for name in rows.columns.difference(sorted(others), sort=False):
        numbers = as_numbers(rows[name])
        if numbers is not None and numbers.notna().any() and numbers.dropna().isin([0, 1, -1]).all():
            columns_by_name[snake(str(name))] = str(name)
    if not columns_by_name:
        raise EvalfmError("The labels hold no column of 0 and 1; name the columns with --label.")
    return columns_by_name
