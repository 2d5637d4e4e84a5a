"""An attribute tied to the label in train and val, and independent of it in test: a point of a shortcut curve."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import STRONGEST_ASSOCIATION, Association, SplitOptions
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.truth import binary_label

CURVE = (0.0, 0.25, 0.5, 0.75, STRONGEST_ASSOCIATION)
"""Strengths of a whole shortcut curve; the number of images is one that every one of them allows."""


def applies(options: SplitOptions) -> bool:
    """With ``associate``."""
    return options.associate is not None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """Each split at the strength of the association; the subset seed draws the images.

    Raises:
        EvalfmError: the task has no label of yes and no, the attribute is no such column, or a group is empty.
    """
    assert given.options.associate is not None
    tie = Association.parse(given.options.associate)
    return [_associated(each, given.cohort, tie, given.subset_seed) for each in splits]


def _associated(split: Split, cohort: Cohort, association: Association, seed: int) -> Split:
    """``split`` with train and val reduced to the strength of ``association``, and test to groups of one size.

    A group is one value of label and attribute (0 or 1). Train and val hold the most images that every strength of
    ``CURVE`` allows, the same number at each; the images of a group are drawn in a fixed order, so that those of one
    strength are nested in those of the next. Test is the same for every strength and seed.

    Raises:
        EvalfmError: the task has no label of yes and no, the attribute is no such column, or a group is empty.
    """
    if not cohort.kind.has_finding:
        raise EvalfmError(f"--associate needs a yes-or-no label; {cohort.task.name} is {cohort.task.kind}.")
    attribute, _ = binary_label(cohort.manifest, association.attribute, cohort.rows)
    label = cohort.positive.astype(np.float64)

    def groups_of(positions: NDArray[np.intp], name: str, seed: int) -> dict[tuple[int, int], NDArray[np.intp]]:
        order = _order(cohort, positions, seed)
        groups = {(y, a): order[(label[order] == y) & (attribute[order] == a)] for y in (0, 1) for a in (0, 1)}
        for (y, a), inside in groups.items():
            if not len(inside):
                raise EvalfmError(
                    f"In {name}{split.where} no image has label {y} and {association.attribute} {a}, so the two "
                    "cannot be made independent; take more data or another attribute."
                )
        return groups

    by_split = []
    chosen = {}
    for name in ("train", "val"):
        chosen[name], sentence = _tied(groups_of(getattr(split, name), name, seed), association.strength)
        by_split.append(f"{name} {sentence}")
    every = groups_of(split.test, "test", 0)
    most = min(map(len, every.values()))
    words = f"Association of label and {association.attribute}: {'; '.join(by_split)}; test 4 × {most} images, phi 0."
    cautions = (*split.cautions, Caution("association", words))
    test = np.sort(np.concatenate([inside[:most] for inside in every.values()]))
    return replace(split, train=chosen["train"], val=chosen["val"], test=test, cautions=cautions)


def _tied(groups: dict[tuple[int, int], NDArray[np.intp]], strength: float) -> tuple[NDArray[np.intp], str]:
    """The images of the four groups at one strength, with their number and the phi that came of rounding, in words."""
    aligned = min(len(groups[0, 0]), len(groups[1, 1]))
    conflicting = min(len(groups[0, 1]), len(groups[1, 0]))
    # Of each label, so that every strength from 0 to the strongest fits; even, so that 0 is met exactly.
    half = 2 * (min(2 * conflicting, int(2 * aligned / (1 + STRONGEST_ASSOCIATION))) // 2)
    if not half:
        raise EvalfmError("There is too little data to tie label and attribute at every strength; take more.")
    same = round(half * (1 + strength) / 2)
    taken = {(y, a): inside[: same if y == a else half - same] for (y, a), inside in groups.items()}
    phi = (2 * same - half) / half
    return np.sort(np.concatenate(list(taken.values()))), f"{2 * half} images, phi {phi:.2f}"


def _order(cohort: Cohort, positions: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """``positions`` in an order that a seed and the images' ids decide."""
    ids = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows[positions]]
    drawn = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in ids]
    return positions[np.argsort(drawn, kind="stable")]
