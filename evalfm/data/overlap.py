"""The same image in two places: copies by their bytes, and near copies by their looks, across sets and splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.assign_splits import assign_splits
from evalfm.data.dataset_info import SplitRule
from evalfm.data.digests import image_digests
from evalfm.data.fingerprints import Fingerprints, fingerprints
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

LEAST_THUMB = 0.95
"""Spearman's correlation of thumbnails; on 880 radiographs copies reach .995, other pairs at most .973."""
LEAST_DETAIL = 0.78
"""Correlation of details; on 880 radiographs copies reach .83, other pairs at most .70."""
BLOCK = 2048


@dataclass(frozen=True)
class Pair:
    """Two rows that show the same image.

    Attributes:
        one, other: rows of the first and the second manifest.
        kind: ``exact`` (the same stored bytes) or ``near``.
        correlation: Spearman's, of the thumbnails; 1 for the same bytes.
        inverted: whether one is the other's negative.
    """

    one: int
    other: int
    kind: str
    correlation: float
    inverted: bool = False


@dataclass(frozen=True)
class Overlap:
    """Pairs between two manifests, or within one where ``other`` is None; ``failed`` rows could not be decoded."""

    one: Manifest
    other: Manifest | None
    pairs: tuple[Pair, ...]
    failed: int

    @property
    def second(self) -> Manifest:
        """The manifest of ``Pair.other``."""
        return self.other or self.one

    def table(self) -> pd.DataFrame:
        """One row a pair, with ids as they may leave the manifests, and splits."""
        return pd.DataFrame(
            {
                "one": [self.one.public_id(pair.one) for pair in self.pairs],
                "other": [self.second.public_id(pair.other) for pair in self.pairs],
                "kind": [pair.kind for pair in self.pairs],
                "correlation": [round(pair.correlation, 4) for pair in self.pairs],
                "inverted": [pair.inverted for pair in self.pairs],
                "one_split": [_split(self.one, pair.one) for pair in self.pairs],
                "other_split": [_split(self.second, pair.other) for pair in self.pairs],
            }
        )


def find_overlap(one: Manifest, other: Manifest | None = None, progress: Progress = SILENT) -> Overlap:
    """Every image of ``one`` that ``other`` holds too; without ``other``, every image that ``one`` holds twice.

    Near copies are found by the correlation of their thumbnails, all pairs, and verified by that of their details;
    crops are not found.

    >>> from evalfm.data.phantom import make_phantom
    >>> first, second = make_phantom("one", n=2, size=64), make_phantom("two", n=2, size=64)
    >>> [(pair.one, pair.other, pair.kind) for pair in find_overlap(first, second).pairs]
    [(0, 0, 'exact'), (1, 1, 'exact')]
    """
    first = fingerprints(one, progress)
    second = first if other is None else fingerprints(other, progress)
    exact = _exact(one, other, progress)
    held = {(pair.one, pair.other) for pair in exact}
    near = [pair for pair in _near(first, second, within=other is None) if (pair.one, pair.other) not in held]
    failed = len(first.failed) + (0 if other is None else len(second.failed))
    return Overlap(one, other, tuple(sorted([*exact, *near], key=lambda pair: (pair.one, pair.other))), failed)


def drop_from_train(overlap: Overlap) -> tuple[Manifest, int]:
    """The first manifest without the train rows whose image is elsewhere in val or test, and how many those are.

    Raises:
        EvalfmError: a manifest has no split yet.
    """
    one, second = overlap.one, overlap.second
    for manifest in (one, second):
        if "split" not in manifest.table:
            raise EvalfmError(f"{manifest.info.name} has no split yet; make one with `evalfm data split`.")
    doomed: set[int] = set()
    for pair in overlap.pairs:
        for here, there, manifest in _both_ways(overlap, pair):
            if _split(one, here) == "train" and _split(manifest, there) in ("val", "test"):
                doomed.add(here)
    keep = np.array([row not in doomed for row in range(len(one))])
    note = f"{len(doomed)} images of train were dropped: {second.info.name} holds them in val or test."
    return _noted(one.select(keep), note), len(doomed)


def with_patients(overlap: Overlap, seed: int = 0) -> tuple[Manifest, int]:
    """The first manifest with the patients (and the split) of the second where their images are the same.

    Images without a copy there stay patients of their own, assigned by hash. How many were matched comes with it.

    Raises:
        EvalfmError: the second knows no patients, or one image has two of them.
    """
    one, second = overlap.one, overlap.second
    if overlap.other is None or not second.patients_known:
        raise EvalfmError("Patients come from a second data set that knows them; name it after the first.")
    patients: dict[int, object] = {}
    splits: dict[int, str] = {}
    for pair in overlap.pairs:
        patient = second.patients[pair.other]
        if patients.setdefault(pair.one, patient) != patient:
            raise EvalfmError(
                f"Row {pair.one + 1} of {one.info.name} looks like images of two patients of {second.info.name}; "
                "look at the pairs and drop the wrong one."
            )
        splits[pair.one] = _split(second, pair.other)
    own = one.patients
    column = [f"{second.info.name}:{patients[row]}" if row in patients else own[row] for row in range(len(one))]
    derived = list(dict.fromkeys([*one.info.derived_from, second.info.name]))
    info = one.info.model_copy(update={"derived_from": derived})
    joined = Manifest(info, one.table.assign(patient=np.array(column, dtype=object)), one.folder)
    assigned = assign_splits(joined, seed=seed)
    if "split" in second.table:
        split = [splits.get(row) or assigned.splits[row] for row in range(len(one))]
        rule = SplitRule(
            rule="other", seed=seed, note=f"of {second.info.name} for the images it holds, by hash for others"
        )
        assigned = assigned.with_split(split, assigned.info.model_copy(update={"split": rule}))
    note = (
        f"Patients of {len(patients)} of {len(one)} images were taken from {second.info.name}, whose images they are."
    )
    return _noted(assigned, note), len(patients)


def _both_ways(overlap: Overlap, pair: Pair) -> Iterator[tuple[int, int, Manifest]]:
    yield pair.one, pair.other, overlap.second
    if overlap.other is None:
        yield pair.other, pair.one, overlap.one


def _split(manifest: Manifest, row: int) -> str:
    return str(manifest.table["split"].iloc[row]) if "split" in manifest.table else ""


def _noted(manifest: Manifest, note: str) -> Manifest:
    info = manifest.info.model_copy(update={"notes": [*manifest.info.notes, note]})
    return Manifest(info, manifest.table, manifest.folder)


def _exact(one: Manifest, other: Manifest | None, progress: Progress) -> list[Pair]:
    mine = _digests(one, progress)
    theirs = mine if other is None else _digests(other, progress)
    places: dict[str, list[int]] = {}
    for row, digest in enumerate(theirs):
        if digest is not None:
            places.setdefault(digest, []).append(row)
    return [
        Pair(row, twin, "exact", 1.0)
        for row, digest in enumerate(mine)
        if digest is not None
        for twin in places.get(digest, ())
        if other is not None or row < twin
    ]


def _digests(manifest: Manifest, progress: Progress) -> list[str | None]:
    locators = [manifest.locator(row) for row in range(len(manifest))]
    digests = image_digests(locators, manifest.root, progress=progress).by_locator
    return [digests.get(locator) for locator in locators]


def _near(first: Fingerprints, second: Fingerprints, *, within: bool) -> Iterator[Pair]:
    for top in range(0, len(first.rows), BLOCK):
        mine = _standardised(first.thumbs[top : top + BLOCK])
        for left in range(0, len(second.rows), BLOCK):
            if within and left < top:
                continue
            alike = mine @ _standardised(second.thumbs[left : left + BLOCK]).T
            for one, other in zip(*np.nonzero(np.abs(alike) >= LEAST_THUMB), strict=True):
                here, there, correlation = top + int(one), left + int(other), float(alike[one, other])
                if within and here >= there:
                    continue
                detail = _correlation(first.details[here], second.details[there])
                # Both must agree on whether the image was inverted.
                if abs(detail) >= LEAST_DETAIL and (detail < 0) == (correlation < 0):
                    yield Pair(
                        int(first.rows[here]), int(second.rows[there]), "near", abs(correlation), correlation < 0
                    )


def _standardised(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbs.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), dtype=np.float32)


def _correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0
