"""Table 1 of a data set, and which attributes go with which labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import SPLITS
from evalfm.data.manifest import Manifest
from evalfm.statistics.association import odds_ratio
from evalfm.statistics.comparison import holm
from evalfm.statistics.estimate import Estimate

MOST_LEVELS = 8
LEAST = 5
"""Rows that a level and its opposite must have to be compared."""


@dataclass(frozen=True)
class Row:
    """A line of Table 1: what is counted, and a cell per column."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class LabelAssociation:
    """A label and a level of an attribute, how often they meet, and their odds ratio.

    Attributes:
        label, attribute, level: ``level`` against all others that are known; ``> 61`` for a number, at its median.
        share_with, share_without: of the label at the level, and elsewhere.
        odds: the ratio with its interval.
        p: of the ratio being 1, corrected (Holm) for all pairs of the table; None where there is no ratio.
    """

    label: str
    attribute: str
    level: str
    share_with: float
    share_without: float
    odds: Estimate
    p: float | None = None


def table_one(manifest: Manifest) -> tuple[tuple[str, ...], list[Row]]:
    """Columns (splits that there are, and all) and rows: images, patients, labels, masks, attributes.

    >>> from evalfm.data.phantom import make_phantom
    >>> groups, rows = table_one(make_phantom("table", n=10, size=64))
    >>> groups[-1], rows[0].name, rows[0].cells[-1]
    ('all', 'images', '10')
    """
    table = manifest.table
    groups: dict[str, NDArray[np.bool_]] = {}
    if "split" in table:
        groups = {name: (table["split"] == name).to_numpy() for name in SPLITS if (table["split"] == name).any()}
    groups["all"] = np.ones(len(table), dtype=bool)
    patients = pd.Series(manifest.patients)
    rows = [Row("images", tuple(str(int(keep.sum())) for keep in groups.values()))]
    what = "patients" if manifest.patients_known else f"patients unknown; by {manifest.patient_column}"
    rows.append(Row(what, tuple(str(patients[keep].nunique()) for keep in groups.values())))
    for name in manifest.labels:
        rows += _described(name, table[name], groups, manifest.info.label_kind(name) == "binary")
    for finding in manifest.findings:
        present = table[f"{finding}_mask"].notna()
        rows.append(Row(f"{finding} mask", tuple(_count(present[keep]) for keep in groups.values())))
    for name in manifest.info.attributes:
        if name in table and name not in manifest.labels:
            rows += _described(name, table[name], groups, binary=False)
    return tuple(groups), rows


def associations(manifest: Manifest) -> list[LabelAssociation]:
    """Every binary label with every level of every attribute, the strongest first."""
    table, patients = manifest.table, manifest.patients
    associations_found = []
    for label in manifest.labels:
        if manifest.info.label_kind(label) != "binary":
            continue
        positive = manifest.label(label)
        for attribute in manifest.info.attributes:
            if attribute in table and attribute != label:
                for level, present in _levels(table[attribute]):
                    both = np.isfinite(present) & np.isfinite(positive)
                    inside, outside = both & (present == 1), both & (present == 0)
                    if min(inside.sum(), outside.sum()) < LEAST:
                        continue
                    ratio = odds_ratio(positive, present, patients)
                    shares = (float(positive[inside].mean()), float(positive[outside].mean()))
                    associations_found.append(LabelAssociation(label, attribute, level, *shares, ratio))
    return sorted(_corrected(associations_found), key=lambda each: (each.p is None, each.p))


def _corrected(associations_found: list[LabelAssociation]) -> list[LabelAssociation]:
    from dataclasses import replace

    from scipy.stats import norm

    raw = []
    for each in associations_found:
        if each.odds.value is not None and each.odds.low is not None and each.odds.high is not None:
            error = (np.log(each.odds.high) - np.log(each.odds.low)) / (2 * norm.ppf(0.975))
            raw.append(float(2 * norm.sf(abs(np.log(each.odds.value)) / error)))
    corrected = iter(holm(raw).tolist() if raw else [])
    return [each if each.odds.value is None else replace(each, p=next(corrected)) for each in associations_found]


def _levels(column: pd.Series) -> list[tuple[str, NDArray[np.float64]]]:
    """Levels of an attribute, each 1, 0 or NaN per row: a number at its median, words one against the others."""
    unknown = column.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype) and column.nunique() > 2:
        median = float(column.median())
        return [(f"> {median:g}", np.where(unknown, np.nan, (column > median).to_numpy(dtype=np.float64)))]
    levels = sorted(column.dropna().unique().tolist(), key=str)
    if len(levels) < 2 or len(levels) > MOST_LEVELS:
        return []
    # Of two levels one says all: the 1 of 0 and 1, else the rarer one.
    if len(levels) == 2:
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        levels = levels[1:] if numeric else [min(levels, key=lambda level: int((column == level).sum()))]
    wanted = levels
    return [(_word(level), np.where(unknown, np.nan, (column == level).to_numpy(dtype=np.float64))) for level in wanted]


def _described(name: str, column: pd.Series, groups: dict[str, NDArray[np.bool_]], binary: bool) -> list[Row]:
    rows = []
    if binary and pd.api.types.is_numeric_dtype(column.dtype):
        rows.append(Row(name, tuple(_share(column[keep] == 1, column[keep].notna()) for keep in groups.values())))
    elif pd.api.types.is_numeric_dtype(column.dtype) and column.nunique() > 2:
        rows.append(Row(f"{name}, median (quartiles)", tuple(_quartiles(column[keep]) for keep in groups.values())))
    else:
        levels = sorted(column.dropna().unique().tolist(), key=str)
        if len(levels) > MOST_LEVELS:
            rows.append(
                Row(f"{name}, different values", tuple(str(column[keep].nunique()) for keep in groups.values()))
            )
        for level in levels if len(levels) <= MOST_LEVELS else ():
            shares = (_share(column[keep] == level, column[keep].notna()) for keep in groups.values())
            rows.append(Row(f"{name} = {_word(level)}", tuple(shares)))
    unknown = column.isna()
    if unknown.any():
        rows.append(Row(f"{name} unknown", tuple(_count(unknown[keep]) for keep in groups.values())))
    return rows


def _word(level: object) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _count(marks: pd.Series) -> str:
    return str(int(marks.sum()))


def _share(marks: pd.Series, known: pd.Series) -> str:
    total = int(known.sum())
    return f"{int(marks.sum())} ({100 * marks.sum() / total:.1f} %)" if total else "–"


def _quartiles(values: pd.Series) -> str:
    if values.notna().sum() == 0:
        return "–"
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:.4g} ({low:.4g}–{high:.4g})"
