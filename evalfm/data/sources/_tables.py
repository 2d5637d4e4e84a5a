"""What sources share: files and columns that must be there, labels, DICOM headers, and masks of several rows."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.config import disable_value_validation

from evalfm.data.columns import as_numbers, as_text, first_word, numbers_or_cells
from evalfm.data.dataset_info import BlankRule, UncertainRule
from evalfm.data.dicom import LONGEST_LIFE, dicom_attributes
from evalfm.data.digests import WORKERS
from evalfm.data.locators import OUTSIDE, files_below, locator_faults
from evalfm.data.rle import EMPTY, decode_union, encode
from evalfm.errors import EvalfmError, suggestion
from evalfm.progress import Progress

SHOWN = 5
PATIENT = ("patient_id", "subject_id", "patient")
OLDEST = 100.0
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


class Notes(list[str]):
    """Sentences for dataset.yaml: what an import left out or changed."""

    def tally(self, which: int | pd.Series | NDArray[np.bool_], rest: str) -> None:
        """Add a sentence that begins with a number, or with how many of ``which`` [N] are true, unless that is 0.

        >>> notes = Notes()
        >>> notes.tally(2, "ages were made unknown.")
        >>> notes.tally(pd.Series([False]), "rows name no patient.")
        >>> notes
        ['2 ages were made unknown.']
        """
        number = int(np.sum(which))
        if number:
            self.append(f"{number} {rest}")


def expect_file(root: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a file under ``root``.

    Raises:
        EvalfmError: none is; names the first one expected and what there is instead.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise EvalfmError(f"There is no {names[0]} in {root}, which {what_is_in(root)}; give the folder that holds it.")


def choose_subset(root: Path, candidates: Sequence[Path], subset: str | None, expected: str) -> Path:
    """The one of ``candidates`` under ``root``, or that which ``subset`` names, with its suffix or without.

    Raises:
        EvalfmError: there is none, ``subset`` is none of them, or there are several and none is named.
    """
    if not candidates:
        raise EvalfmError(f"There is no {expected} in {root}, which {what_is_in(root)}; give the folder that holds it.")
    names = [path.name for path in candidates]
    if subset is not None:
        named = [path for path in candidates if subset in (path.name, path.stem)]
        if len(named) != 1:
            raise EvalfmError(f"There is no {subset} in {root}. {suggestion(subset, names)}")
        return named[0]
    if len(candidates) > 1:
        raise EvalfmError(
            f"{root} holds {len(candidates)} sets ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}); "
            f"choose one with --subset {names[0]}."
        )
    return candidates[0]


def what_is_in(folder: Path) -> str:
    """The first entries of a folder, as ``holds a, b, c``."""
    if not folder.is_dir():
        return "is no folder"
    names = sorted(os.listdir(folder))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"holds {', '.join(names[:SHOWN])}{more}" if names else "is empty"


def column(table: pd.DataFrame, names: str | Sequence[str], file: Path) -> pd.Series:
    """The column of ``table`` under the first of ``names`` that it has.

    Raises:
        EvalfmError: it has none of them; names the first one and the nearest there are.
    """
    candidates = [names] if isinstance(names, str) else list(names)
    for name in candidates:
        if name in table:
            return table[name]
    near = suggestion(candidates[0], [str(other) for other in table.columns])
    raise EvalfmError(f"{file} has no column {candidates[0]!r}. {near}")


def first_column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The first of ``names`` that ``table`` has; None where it has none."""
    return next((name for name in names if name in table), None)


def numbers(table: pd.DataFrame, names: str | Sequence[str], file: Path, remedy: str) -> NDArray[np.float64]:
    """The column of ``table`` under the first of ``names`` that it has, as numbers [N], NaN where empty.

    Raises:
        EvalfmError: there is none, or a cell is no number; ``remedy`` says what to do.
    """
    cells = column(table, names, file)
    found = as_numbers(cells)
    if found is None:
        name = names if isinstance(names, str) else names[0]
        raise EvalfmError(f"{file} holds words in the column {name!r} ({first_word(cells)}); {remedy}.")
    return found.to_numpy(dtype=np.float64)


def written_list(text: str) -> list[Any] | None:
    """The list that ``text`` writes as Python does; None where it writes none."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError):
        return None
    return values if isinstance(values, list) else None


def only_words(cells: pd.Series, translate: Callable[[str], str | None], known: str, file: Path) -> pd.Series:
    """Each cell in the set's own word for it, None where empty.

    Raises:
        EvalfmError: ``translate`` knows no word for a cell; names the cell and what is ``known``.
    """
    codes, words = pd.factorize(as_text(cells))
    translated = [translate(str(word)) for word in words]
    if None in translated:
        word = words[translated.index(None)]
        raise EvalfmError(f"{file} holds {word!r} in the column {cells.name!r}, where {known} is known; correct it.")
    return pd.Series([None if code < 0 else translated[code] for code in codes], index=cells.index, dtype=object)


def binary_labels(cells: pd.Series, *, blank: BlankRule, uncertain: UncertainRule) -> pd.Series:
    """0, 1 or NaN from cells of 0, 1, −1 (uncertain) and empty (blank); words stay for the checks to name."""
    numbers = numbers_or_cells(cells)
    doubtful = numbers == -1
    if blank == "negative":
        numbers = numbers.where(numbers.notna(), 0.0)
    return numbers.mask(doubtful, {"unknown": float("nan"), "zero": 0.0, "one": 1.0}[uncertain])


def two_words(cells: pd.Series, levels: Sequence[str] | None) -> pd.Series:
    """Cells with 0 and 1 in place of the two ``levels`` of a binary label; as they are where it has none."""
    return cells if levels is None else as_text(cells).replace({levels[0]: "0", levels[1]: "1"})


def ages(cells: pd.Series, notes: Notes) -> pd.Series:
    """Years as float64; words and ages above 100, errors in every public set, become unknown and are counted."""
    text = as_text(cells)
    years = pd.to_numeric(text, errors="coerce").astype(np.float64)
    wrong = (years > OLDEST) | (years < 0) | (years.isna() & text.notna())
    notes.tally(wrong, f"ages are no years from 0 to {OLDEST:.0f} and were made unknown.")
    return years.mask(wrong)


def sexes(cells: pd.Series, notes: Notes) -> pd.Series:
    """``F`` and ``M`` from their usual words; any other word becomes unknown and is counted in ``notes``."""
    text = as_text(cells)
    words = [SEXES.get(word.lower()) if word else None for word in text]
    strange = int(text.notna().sum()) - sum(word is not None for word in words)
    notes.tally(strange, "sexes are neither female nor male in the set's words and were made unknown.")
    return pd.Series(words, index=cells.index, dtype=object)


def described(
    native: pd.DataFrame, columns: dict[str, Any], names: Mapping[str, Sequence[str]], notes: Notes
) -> list[str]:
    """Put sex, age and view into ``columns`` where ``native`` has one of the ``names`` of each; which there are."""
    forms = {"sex": sexes, "age": ages}
    taken = []
    for attribute, candidates in names.items():
        source = first_column(native, candidates)
        if source is not None and attribute not in columns:
            cells = native[source]
            columns[attribute] = forms[attribute](cells, notes) if attribute in forms else as_text(cells)
            taken.append(attribute)
    return taken


def snake(words: str) -> str:
    """A name for a column: lower case, ``_`` between words."""
    return re.sub(r"\W+", "_", words.strip().lower()).strip("_")


def with_places(
    rows: pd.DataFrame, root: Path, notes: Notes, first: str, of: str = "rows have no image file"
) -> pd.DataFrame:
    """The rows whose ``image`` was found under ``root``; the others are counted in ``notes``, called ``of``.

    Raises:
        EvalfmError: none was; ``first`` is where one was sought.
    """
    there = rows["image"].notna()
    if not there.any():
        raise EvalfmError(f"There is no {first} in {root}, which {what_is_in(root)}; unpack the images there.")
    notes.tally(~there, f"of {len(rows)} {of} and were left out.")
    return rows[there].reset_index(drop=True)


def with_files(rows: pd.DataFrame, root: Path, notes: Notes, expected: str) -> pd.DataFrame:
    """The rows whose ``image`` is a file under ``root``; the others are counted in ``notes``.

    Raises:
        EvalfmError: none is; names the first one, ``expected`` says what to do.
    """
    rows = rows.assign(image=rows["image"].fillna(""))
    faults = locator_faults(rows["image"], root)
    outside = [locator for locator, reason in faults.items() if reason == OUTSIDE]
    if outside:
        raise EvalfmError(
            f"{len(outside)} images are behind links that lead out of {root}, such as {outside[0]}; add --follow-links "
            "if you trust where they lead."
        )
    if len(faults) and len(faults) == rows["image"].nunique():
        raise EvalfmError(f"There is no {rows['image'].iloc[0]} in {root}, which {what_is_in(root)}; {expected}.")
    there = ~rows["image"].isin(list(faults))
    if not there.all():
        # A split that is gone altogether is more than some missing files.
        missing = sorted(set(rows["split"].dropna()) - set(rows["split"][there])) if "split" in rows else []
        gone = f", all of {' and '.join(missing)} among them" if missing else ""
        notes.tally(~there, f"of {len(rows)} rows have no image file and were left out{gone}.")
    return rows[there].reset_index(drop=True)


ATTRIBUTES = ("sex", "age", "view")


def header_columns(locators: pd.Series, root: Path, progress: Progress, notes: Notes) -> dict[str, Any]:
    """Columns ``sex``, ``age`` and ``view`` of images [N], unknown where a file is no sound DICOM."""

    def read(locator: str) -> dict[str, Any]:
        try:
            return dict(dicom_attributes(root / locator))
        except EvalfmError:
            return {}

    # SIIM-ACR writes ages that the standard forbids; each would be a warning.
    with disable_value_validation(), ThreadPoolExecutor(WORKERS) as pool:
        headers = list(progress.track(pool.map(read, locators), "DICOM headers", len(locators)))
    damaged = sum(not facts for facts in headers)
    notes.tally(damaged, f"of {len(headers)} headers cannot be read; sex, age and view are unknown there.")
    columns: dict[str, Any] = {name: [facts.get(name) for facts in headers] for name in ATTRIBUTES}
    columns["age"] = pd.Series(columns["age"], dtype="float64")
    ageless = int(columns["age"].isna().sum()) - damaged
    beyond = f"or one beyond {LONGEST_LIFE:.0f} years"
    notes.tally(ageless, f"of {len(headers)} images have no age in their header, {beyond}.")
    return {name: pd.Series(values, dtype=object) if name != "age" else values for name, values in columns.items()}


def files_by_stem(root: Path, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix → locator, of every file with one of ``suffixes`` below ``folders`` of ``root``."""
    places: dict[str, str] = {}
    for folder in folders:
        for locator in files_below(root, folder):
            path = PurePosixPath(locator)
            if path.suffix.lower() in suffixes:
                places.setdefault(path.stem, locator)
    return places


def united(names: pd.Series, cells: pd.Series, size: tuple[int, int], file: Path, notes: Notes) -> pd.Series:
    """Run lengths (``relative``) by name, in the order of first appearance; several rows of a name become their union.

    Rows whose cell is blank say nothing and are left out. ``-1`` is an image without a region.

    Raises:
        EvalfmError: an image is empty in one row and marked in another, or runs do not fit ``size``.
    """
    text = as_text(cells)
    known = text.notna() & names.notna()
    notes.tally(~known, f"rows of {file.name} have no name or no runs and say nothing.")
    rows = pd.DataFrame({"name": names[known], "text": text[known]}).drop_duplicates()
    counts = rows.groupby("name", sort=False)["text"].transform("size")
    runs = dict(zip(rows["name"], rows["text"], strict=True))
    several = rows[counts > 1].groupby("name", sort=False)["text"]
    for name, texts in several:
        if EMPTY in set(texts):
            raise EvalfmError(f"{file} says of {name} that it is empty and that it is marked; correct it.")
        try:
            runs[name] = encode("relative", decode_union("relative", texts, size))
        except EvalfmError as error:
            raise EvalfmError(f"{file}, {name}: {error}") from None
    notes.tally(len(several), "images have several regions, which were united.")
    return pd.Series(runs, dtype=object)
