"""Masks whose files are maps of labels: what their values are, and which of them nobody judged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import EMPTY_MASK, MASK_SUFFIX
from evalfm.data.config import TableMapping
from evalfm.data.locators import locator_faults
from evalfm.data.masks import mask_file_values
from evalfm.errors import EvalfmError
from evalfm.progress import Progress


def without_unjudged(
    columns: dict[str, pd.Series], mapping: TableMapping, root: Path, notes: list[str], progress: Progress
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
        found = frozenset().union(*there)
        if values and there and not found & set(values):
            wanted, known = (", ".join(map(str, sorted(each))) for each in (values, found))
            raise EvalfmError(f"No {finding} mask holds {wanted}, only {known}; correct mask_values (--mask-values).")
        unjudged = column.map(lambda cell, unknown=unknown: bool(held.get(cell, frozenset()) & unknown)).astype(bool)
        if unjudged.any():
            said = ", ".join(map(str, sorted(unknown)))
            notes.append(
                f"{int(unjudged.sum())} of {len(there)} {finding} masks hold pixels that nobody judged ({said}) and "
                "were made unknown."
            )
            columns[finding + MASK_SUFFIX] = column.mask(unjudged, None)
