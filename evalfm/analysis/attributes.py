"""Attributes as subgroups: levels of words, numbers divided at thresholds, intersections of several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics.mask_scores import MaskScores
from evalfm.metrics.metric import CALIBRATED, THRESHOLD

MOST_LEVELS = 12
OWN = {"id", "patient", "split", "fold", "target", "threshold", "prediction", "height", "width"}
"""Columns of predictions that are no attributes."""
OF_CLASSES = (
    *("score_", "target_", f"{THRESHOLD}_", f"{CALIBRATED}_"),
    *(f"{field.name}_" for field in fields(MaskScores)),
    *("prediction_rle_", "visible_lesion_fraction_", "oracle_dice_"),
)
"""How columns begin that a class or a mask has of its own; they end in its name."""
_ATTRIBUTE = re.compile(r"^(?P<name>[^:]+?)(?::(?P<thresholds>[-+0-9.eE]+(?:/[-+0-9.eE]+)*))?$")


@dataclass(frozen=True)
class Attribute:
    """One way to divide the rows into strata.

    Attributes:
        name: as it was given, such as ``chest_tube`` or ``age:65``.
        levels: words for the levels, in order.
        codes: [N] level of each row, −1 where unknown.
    """

    name: str
    levels: tuple[str, ...]
    codes: NDArray[np.intp]

    @property
    def contrasted(self) -> Sequence[int]:
        """Levels to set against all others; of two levels one contrast says all."""
        return range(len(self.levels))[-1:] if len(self.levels) == 2 else range(len(self.levels))

    @property
    def columns(self) -> set[str]:
        """What it is made of, without thresholds."""
        return {part.split(":")[0].strip() for part in self.name.split("*")}

    def covariates(self, table: pd.DataFrame, adjust: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """Columns ``adjust`` as numbers, without those that make this attribute."""
        return covariates(table, [name for name in adjust if name not in self.columns])


def attributes(table: pd.DataFrame, by: Iterable[str]) -> list[Attribute]:
    """Each of ``by``: a column, ``column:threshold`` or ``column:low/high`` of a number, or ``one*other`` for both.

    Raises:
        EvalfmError: a column is not there, is a number without thresholds, has one level only or too many.
    """
    return [_attribute(table, each.strip()) for each in by]


def usable(table: pd.DataFrame, by: Iterable[str]) -> tuple[list[Attribute], list[str]]:
    """Those of ``by`` that divide the rows, and a sentence for each that does not, such as one of a single level.

    Raises:
        UnknownNameError: a column is not there.
    """
    found, reasons = [], []
    for each in by:
        try:
            found.append(_attribute(table, each.strip()))
        except UnknownNameError:
            raise
        except EvalfmError as error:
            reasons.append(f"By {each.strip()}: {error}")
    return found, reasons


def declared(table: pd.DataFrame, classes: Iterable[str]) -> list[str]:
    """The attributes among the columns of predictions, whose other columns are the run's own or of its ``classes``."""
    ends = tuple(f"_{name}" for name in classes)
    return [
        str(name)
        for name in table.columns
        if name not in OWN and not (str(name).startswith(OF_CLASSES) and str(name).endswith(ends))
    ]


def covariates(table: pd.DataFrame, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Columns as numbers for an adjustment: words as 0 and 1 per level but the first, NaN where unknown.

    Raises:
        EvalfmError: a column is not there or has too many levels.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for name in names:
        column = _column(table, name)
        if pd.api.types.is_numeric_dtype(column.dtype):
            found[name] = column.to_numpy(dtype=np.float64)
            continue
        levels = sorted({str(value) for value in column.dropna()})
        if len(levels) > MOST_LEVELS:
            raise EvalfmError(f"{name!r} has {len(levels)} levels, too many to adjust for; leave it out of --adjust.")
        unknown = column.isna().to_numpy()
        for level in levels[1:]:
            found[f"{name}={level}"] = np.where(
                unknown, np.nan, (column.astype(str) == level).to_numpy(dtype=np.float64)
            )
    return found


def lesion_areas(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """The column of lesion areas, [N], NaN where unknown.

    Raises:
        EvalfmError: there is no such column, or it holds words.
    """
    column = _column(table, name)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        raise EvalfmError(f"{name!r} holds words and is no area; name a column of numbers with --lesion-area.")
    return column.to_numpy(dtype=np.float64)


def _attribute(table: pd.DataFrame, given: str) -> Attribute:
    parts = [_single(table, part.strip()) for part in given.split("*")]
    if len(parts) == 1:
        return parts[0]
    codes = parts[0].codes.copy()
    levels = list(parts[0].levels)
    for part in parts[1:]:
        unknown = (codes < 0) | (part.codes < 0)
        codes = np.where(unknown, -1, codes * len(part.levels) + part.codes)
        levels = [f"{one}, {other}" for one in levels for other in part.levels]
    return Attribute(given, *_present(levels, codes))


def _single(table: pd.DataFrame, given: str) -> Attribute:
    found = _ATTRIBUTE.match(given)
    if found is None:
        raise EvalfmError(f"{given!r} is no attribute; write a column, or one with a threshold, such as age:65.")
    name = found["name"]
    column = _column(table, name)
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    if found["thresholds"]:
        if not numeric:
            raise EvalfmError(f"{name!r} holds words and takes no threshold; write --by {name}.")
        thresholds = sorted(float(each) for each in found["thresholds"].split("/"))
        values = column.to_numpy(dtype=np.float64)
        codes = np.where(np.isfinite(values), np.digitize(values, thresholds), -1)
        middle = [f"{low:g}–<{high:g}" for low, high in pairwise(thresholds)]
        return Attribute(given, *_present([f"<{thresholds[0]:g}", *middle, f"≥{thresholds[-1]:g}"], codes))
    words = [None if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value) for value in column]
    levels = sorted({word for word in words if word is not None})
    if numeric and len(levels) > 2:
        raise EvalfmError(f"{name!r} is a number; give a threshold, such as --by {name}:{_middle(column):g}.")
    if len(levels) > MOST_LEVELS:
        raise EvalfmError(f"{name!r} has {len(levels)} levels; an attribute has at most {MOST_LEVELS}.")
    if len(levels) < 2:
        what = f"only the level {levels[0]!r}" if levels else "no known value"
        raise EvalfmError(f"{name!r} has {what} among the test images, so there is nothing to compare.")
    place = {level: number for number, level in enumerate(levels)}
    return Attribute(given, tuple(levels), np.array([-1 if word is None else place[word] for word in words]))


def _present(levels: list[str], codes: NDArray[np.intp]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Levels that occur, and codes among these."""
    there = [number for number in range(len(levels)) if (codes == number).any()]
    if len(there) < 2:
        raise EvalfmError("Every known test image lies in one level; choose other thresholds.")
    place = np.full(len(levels) + 1, -1)
    place[there] = np.arange(len(there))
    return tuple(levels[number] for number in there), place[codes]


def _middle(column: pd.Series) -> float:
    return float(column.median())


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        known = [str(each) for each in table.columns if each not in OWN and not str(each).startswith(OF_CLASSES)]
        raise UnknownNameError("attribute in the predictions", name, known)
    return table[name]
