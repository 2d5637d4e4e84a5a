"""Which row of a table of predictions is of which image of a split, and what it says that the model has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.joining import IMAGE_KEYS, keys_of
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError, shown
from evalfm.probing.imported_table import ImportedPredictions, Positions
from evalfm.probing.splits import Split
from evalfm.tasks.cohort import Cohort

Role = Literal["val", "test"]


@dataclass(frozen=True)
class Placed:
    """One split with the row of the table for each of its val and test images.

    Attributes:
        split: whose val is empty where the table says nothing of it.
        val, test: rows of the table, in the order of the split's positions (of separate test data, of its cohort's).
    """

    split: Split
    val: Positions
    test: Positions


@dataclass(frozen=True)
class Placement:
    """Every split with its rows, and how many rows of the table are used by none: ``seen`` are of train by its word."""

    placed: tuple[Placed, ...]
    seen: int
    unused: int


class Matching:
    """Rows of a table brought to the images of a cohort, and of separate test data if there are some.

    Raises:
        EvalfmError: a row names an image that there is not, or one that is in both data sets.
    """

    def __init__(self, table: ImportedPredictions, cohort: Cohort, test: Cohort | None, join_on: str | None) -> None:
        self.table, self.cohort, self.test = table, cohort, test
        mine = (join_on or "id").partition("=")[0]
        manifests = [each.manifest for each in (cohort, test) if each is not None]
        found = [_rows_of(table.key, each, mine) for each in manifests]
        known = [row >= 0 for row in found]
        unknown = ~np.logical_or.reduce(known)
        if unknown.any():
            sets = " or ".join(each.info.name for each in manifests)
            raise EvalfmError(
                f"{int(unknown.sum())} of {len(unknown)} rows of {table.source} are of no image of {sets}, such as "
                f"{shown(str(table.key[unknown][0]))}; leave them out, or say what names the images with --join-on."
            )
        if test is not None and (known[0] & known[1]).any():
            raise EvalfmError(
                f"{int((known[0] & known[1]).sum())} names in {table.source} are of images of both data sets, such as "
                f"{shown(str(table.key[known[0] & known[1]][0]))}; give the sets different ids."
            )
        self._of = {id(each): _by_row(rows) for each, rows in zip((cohort, test), found, strict=False)}

    def rows(
        self, cohort: Cohort, positions: Positions, role: Role, fold: str | None = None, *, folds: bool = False
    ) -> Positions:
        """The table's row for each of ``positions`` of ``cohort`` in ``role``; −1 where there is none.

        Args:
            fold: label of the fold whose rows are meant; None takes those of any.
            folds: whether there are several, in which an image is on val of one and on test of another.

        Raises:
            EvalfmError: there are several rows.
        """
        words = self.table.split
        allowed = {role} if folds or role == "test" else {"val", "test"}
        by_row, found = self._of[id(cohort)], np.full(len(positions), -1, dtype=np.intp)
        for place, row in enumerate(cohort.rows[positions].tolist()):
            mine = [
                each
                for each in by_row.get(row, ())
                if (words is None or words[each] in allowed)
                and (fold is None or self.table.fold is None or self.table.fold[each] == fold)
            ]
            if len(mine) > 1:
                raise EvalfmError(
                    f"{self.table.source} has {len(mine)} rows for the image {shown(str(self.table.key[mine[0]]))}; "
                    "leave one for each image."
                )
            found[place] = mine[0] if mine else -1
        return found

    def tested(self, cohort: Cohort, positions: Positions, *, folds: bool = False) -> Positions:
        """The table's row for each image that is tested.

        Raises:
            EvalfmError: one has none, or by the table's word the model has seen it.
        """
        rows = self.rows(cohort, positions, "test", folds=folds)
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return rows
        table, by_row = self.table, self._of[id(cohort)]
        names = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows[positions[missing]]]
        seen = [row in by_row for row in cohort.rows[positions[missing]].tolist()]
        if any(seen):
            raise EvalfmError(
                f"{sum(seen)} of {len(positions)} test images are of train or val by the column split of "
                f"{table.source}, such as {shown(str(names[int(np.argmax(seen))]))}: the model has seen them; test it "
                "on others with --where, --test-where or --test-data."
            )
        raise EvalfmError(
            f"{table.source} has no row for {len(missing)} of {len(positions)} test images, such as "
            f"{shown(str(names[0]))}; predict on them too, or leave them out with --where."
        )

    def of_val(self, split: Split, label: str | None, *, folds: bool = False) -> Positions:
        """The table's row for each val image of ``split``; none where the table has none of them.

        Raises:
            EvalfmError: it has some of them.
        """
        rows = self.rows(self.cohort, split.val, "val", label, folds=folds)
        missing = int((rows < 0).sum())
        if missing == len(rows):
            return rows[:0]
        if missing:
            raise EvalfmError(
                f"{self.table.source} has no row for {missing} of {len(rows)} val images{split.where}; give all of "
                "them, or none, and then no threshold is chosen on val."
            )
        return rows


def place(
    table: ImportedPredictions, cohort: Cohort, test: Cohort | None, splits: Sequence[Split], join_on: str | None
) -> Placement:
    """The rows of ``table`` for every split; where it has folds and ``splits`` are none, its own are the splits.

    Raises:
        EvalfmError: rows are missing, double, of unknown images, or of images that the model has seen; folds disagree.
    """
    matching = Matching(table, cohort, test, join_on)
    if splits[0].fold is not None:
        placed = _in_folds(matching, cohort, splits)
    else:
        tested, positions = (cohort, splits[0].test) if test is None else (test, np.arange(len(test)))
        val = matching.of_val(splits[0], None)
        placed = [_placed(splits[0], val, matching.tested(tested, positions))]
    used = np.unique(np.concatenate([each for one in placed for each in (one.val, one.test)]))
    seen = np.zeros(len(table.key), dtype=bool) if table.split is None else table.split == "train"
    rest = np.setdiff1d(np.flatnonzero(~seen), used)
    return Placement(tuple(placed), int(seen.sum()), len(rest))


def own_folds(table: ImportedPredictions, cohort: Cohort, join_on: str | None) -> list[Split] | None:
    """The folds of the table as splits of ``cohort``; None where it has no column of them, or one fold.

    Val of a fold are the images that the table says so of, train all others.

    Raises:
        EvalfmError: an image has no fold or no row, or a patient stands in two.
    """
    if table.fold is None or len({*table.fold.tolist()}) < 2:
        return None
    matching, every = Matching(table, cohort, None, join_on), np.arange(len(cohort))
    label = table.fold[matching.tested(cohort, every, folds=True)]
    names = sorted({*label.tolist()}, key=lambda name: (len(name), name))
    if "" in names:
        raise EvalfmError(f"The column fold of {table.source} is empty for {int((label == '').sum())} images.")
    patients = pd.Series(label).groupby(cohort.manifest.patients[cohort.rows]).nunique()
    if (patients > 1).any():
        raise EvalfmError(
            f"{int((patients > 1).sum())} patients stand in several folds of {table.source}, so that a model was "
            "tested on patients it has seen; give folds by patient, or test on others with --test-where or --test-data."
        )
    splits = []
    for number, name in enumerate(names):
        test = np.flatnonzero(label == name)
        others = np.setdiff1d(every, test)
        on_val = matching.rows(cohort, others, "val", name, folds=True) >= 0
        on_val &= table.split is not None
        splits.append(Split(others[~on_val], others[on_val], test, number))
    return splits


def _placed(split: Split, val: Positions, test: Positions) -> Placed:
    return Placed(split if len(val) else replace(split, val=split.val[:0]), val, test)


def _in_folds(matching: Matching, cohort: Cohort, splits: Sequence[Split]) -> list[Placed]:
    table, labels = matching.table, []
    tested = [matching.tested(cohort, split.test, folds=True) for split in splits]
    for split, rows in zip(splits, tested, strict=True):
        label = None if table.fold is None else sorted({*table.fold[rows].tolist()})
        if label is not None and (len(label) > 1 or label[0] in labels):
            raise EvalfmError(
                f"The folds of {table.source} are others than those of --folds {len(splits)} (test images of fold "
                f"{(split.fold or 0) + 1} are of its {', '.join(label)}); leave --folds out, and the table's are taken."
            )
        labels.append("" if label is None else label[0])
    has_val = table.split is not None and table.fold is not None
    val = [
        matching.of_val(split, label, folds=True) if has_val else np.empty(0, dtype=np.intp)
        for split, label in zip(splits, labels, strict=True)
    ]
    if any(map(len, val)) and not all(map(len, val)):
        raise EvalfmError(f"{table.source} has val rows of some folds only; give those of every fold, or of none.")
    return [_placed(*each) for each in zip(splits, val, tested, strict=True)]


def _rows_of(keys: NDArray[np.object_], manifest: Manifest, mine: str) -> Positions:
    """The manifest's row that each of ``keys`` names, −1 where there is none; ids as they leave the data set too."""
    own = keys_of(manifest, mine)
    if not own.dropna().is_unique:
        unique = "image_stem" if mine not in IMAGE_KEYS else "id"
        raise EvalfmError(f"Several images of {manifest.info.name} have one {mine}; join on another, such as {unique}.")
    found = _places(keys, own)
    if mine == "id" and (found < 0).all() and (manifest.info.names_are_public or manifest.info.salt):
        found = _places(keys, pd.Series(public_names(manifest.table["id"], manifest.info), dtype=object))
    return found


def _places(keys: NDArray[np.object_], own: pd.Series) -> Positions:
    places = {name: row for row, name in enumerate(own.tolist())}
    return np.array([places.get(key, -1) for key in keys], dtype=np.intp)


def _by_row(rows: Positions) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for line, row in enumerate(rows.tolist()):
        if row >= 0:
            found.setdefault(row, []).append(line)
    return found
