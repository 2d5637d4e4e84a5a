"""A cohort with the features of its images: what a head's examples are taken from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evalfm.data.columns import SPACING_COLUMNS
from evalfm.data.manifest import Manifest
from evalfm.data.mask_facts import mask_facts
from evalfm.data.privacy import public_table
from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Examples
from evalfm.probing.splits import Split
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.truth import measured_on, parts_of


@dataclass(frozen=True)
class LabelledFeatures:
    """A cohort and where the features of its manifest come from."""

    cohort: Cohort
    source: FeatureSource

    def examples(self, positions: NDArray[np.intp]) -> Examples:
        """What a head sees of the cohort's rows at ``positions``."""
        cohort = self.cohort
        rows = cohort.rows[positions]
        on_masks = not cohort.kind.pixelwise and bool(measured_findings(cohort))
        measured = partial(read_measured, cohort) if on_masks else None
        return Examples(
            source=self.source,
            rows=rows,
            target=cohort.target[positions],
            patients=cohort.manifest.patients[rows],
            masks=cohort.masks if cohort.kind.pixelwise else measured,
            masked=self._masked(rows) if on_masks else None,
        )

    def _masked(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which rows have every mask that the task's measure needs."""
        columns = [f"{finding}_mask" for finding in measured_findings(self.cohort)]
        known = self.cohort.manifest.table[columns].notna().all(axis=1)
        return np.asarray(known.to_numpy(dtype=bool)[rows])


def measured_findings(cohort: Cohort) -> tuple[str, ...]:
    """The masks on which the task's target can be measured, as far as the manifest has them; else none."""
    columns = set(map(str, cohort.manifest.table.columns))
    first, others = measured_on(cohort.task)[:1], measured_on(cohort.task)[1:]
    wanted = (*first, *(part for finding in others for part in parts_of(finding, columns)))
    return wanted if all(f"{finding}_mask" in columns for finding in wanted) else ()


def read_measured(cohort: Cohort, row: int) -> NDArray[np.bool_]:
    """The masks of ``row`` that the task's target is measured on, bool [K, H, W].

    Raises:
        EvalfmError: one of them is unknown.
    """
    read = [cohort.manifest.mask(row, finding) for finding in measured_findings(cohort)]
    masks = [mask for mask in read if mask is not None]
    if len(masks) < len(read):
        raise EvalfmError(f"Row {row + 1} lacks a mask that {cohort.task.name} is measured on.")
    return np.stack(masks)


@dataclass(frozen=True)
class SplitAssignment:
    """A cohort split for one seed.

    Attributes:
        cohort: the rows and their targets.
        test: the cohort of separate test data, tested whole, or None.
        splits: one, or one per fold.
        key: hash of what each row is, what its truth is and where it went.
        facts: hash of what else of the data a run says or reckons with, see ``facts_key``.
    """

    cohort: Cohort
    test: Cohort | None
    splits: tuple[Split, ...]
    key: str
    facts: str = ""

    @property
    def used(self) -> NDArray[np.intp]:
        """Positions into the cohort's rows that any split reads, ascending, each once."""
        return np.unique(np.concatenate([split.used for split in self.splits]))

    @classmethod
    def of(cls, cohort: Cohort, test: Cohort | None, splits: Sequence[Split]) -> SplitAssignment:
        """Hash the splits of ``cohort``, and the separate test rows, if any."""
        key = data_key(cohort, [named for split in splits for named in split.named])
        # Episodes have no predictions, which attributes would stand beside.
        facts = facts_key(cohort, attributes=all(split.episodes is None for split in splits))
        if test is not None:
            key += data_key(test, [("test", np.arange(len(test)))])
            facts += facts_key(test)
        return cls(cohort, test, tuple(splits), key, facts)


def data_key(cohort: Cohort, assigned: list[tuple[str, NDArray[np.intp]]]) -> str:
    """Hash of a cohort and of its split: ids, image bytes, truth and split of every row, in hex."""
    digest = hashlib.sha256()
    images = cohort.manifest.digests(cohort.rows.tolist())
    ids = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows]
    for position, truth in enumerate(cohort.truths()):
        digest.update(json.dumps([str(ids[position]), str(images[position]), truth]).encode())
    for name, positions in assigned:
        digest.update(json.dumps([name, positions.tolist()]).encode())
    return digest.hexdigest()


def facts_key(cohort: Cohort, *, attributes: bool = True) -> str:
    """Hash of what a result depends on beside the ids, image bytes, truth and splits of ``data_key``, in hex.

    That is who is whose patient and by which name a row leaves the data, its declared ``attributes`` and pixel
    spacing, the names of the classes, and what the data set says of itself that a result repeats.
    """
    manifest, info = cohort.manifest, cohort.manifest.info
    whole = {
        "name": info.name,
        "licence": info.licence,
        "citation": info.citation,
        "synthetic": bool(info.synthetic),
        "derived_from": list(info.derived_from),
        "pictures": bool(info.redistributable_images),
        "class_names": list(cohort.class_names),
        "label_source": cohort.label_source,
        "patients_known": bool(manifest.patients_known),
        "exclusions": [[each.reason, each.images] for each in cohort.exclusions],
        "notes": list(map(str, cohort.cautions)),
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    # Where a row went is in the splits.
    table = public_table(manifest, cohort.rows).drop(columns="split")
    columns = {str(name): table[name] for name in table if attributes or name in ("id", "patient")}
    columns |= {name: manifest.table[name].iloc[cohort.rows] for name in SPACING_COLUMNS if name in manifest.table}
    for name, column in columns.items():
        digest.update(json.dumps([name, column.tolist()], default=str).encode())
    return digest.hexdigest()


def measured_key(cohort: Cohort) -> str:
    """Hash of the masks that the task's target is measured on, for heads that learn on them, in hex."""
    rows = cohort.rows.tolist()
    each = []
    for finding in measured_findings(cohort):
        facts = mask_facts(cohort.manifest, [finding], rows)
        unreadable = next(iter(facts.failed.values()), None)
        if unreadable is not None:
            raise EvalfmError(unreadable)
        each.append([facts.by_row[row].digest if row in facts.by_row else None for row in rows])
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def images_digest(cohort: Cohort, positions: NDArray[np.intp]) -> str:
    """Hash of which images stand at ``positions``, by id and bytes, in hex; their order does not matter."""
    return rows_digest(cohort.manifest, cohort.rows[positions])


def rows_digest(manifest: Manifest, rows: NDArray[np.intp]) -> str:
    """The same of rows of a manifest."""
    ids = manifest.table["id"].to_numpy(dtype=object)[rows]
    images = manifest.digests(rows.tolist())
    each = sorted(f"{name}\x1f{image}" for name, image in zip(ids, images, strict=True))
    return hashlib.sha256("\x1e".join(each).encode()).hexdigest()
