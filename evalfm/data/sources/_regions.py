"""Regions of one film in several rows, made one mask."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evalfm.data.columns import as_text
from evalfm.data.rle import EMPTY, decode_union, encode
from evalfm.errors import EvalfmError


def united(names: pd.Series, cells: pd.Series, size: tuple[int, int], file: Path, notes: list[str]) -> pd.Series:
    """Run lengths (``relative``) by name, in the order of first appearance; several rows of a name become their union.

    Rows whose cell is blank say nothing and are left out. ``-1`` is a film without a region.

    Raises:
        EvalfmError: a film is empty in one row and marked in another, or runs do not fit ``size``.
    """
    text = as_text(cells)
    known = text.notna() & names.notna()
    if not known.all():
        notes.append(f"{int((~known).sum())} rows of {file.name} have no name or no runs and say nothing.")
    rows = pd.DataFrame({"name": names[known], "text": text[known]}).drop_duplicates()
    counts = rows.groupby("name", sort=False)["text"].transform("size")
    found = dict(zip(rows["name"], rows["text"], strict=True))
    several = rows[counts > 1].groupby("name", sort=False)["text"]
    for name, texts in several:
        if EMPTY in set(texts):
            raise EvalfmError(f"{file} says of {name} that it is empty and that it is marked; correct it.")
        try:
            found[name] = encode("relative", decode_union("relative", texts, size))
        except EvalfmError as error:
            raise EvalfmError(f"{file}, {name}: {error}") from None
    if len(several):
        notes.append(f"{len(several)} films have several regions, which were united.")
    return pd.Series(found, dtype=object)
