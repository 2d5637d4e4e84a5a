"""Training images in which label and attribute go together as strongly as is asked: points of a shortcut curve."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.truth import binary_label

if TYPE_CHECKING:
    from evalfm.probing.splits import Split

STRONGEST = 0.95
CURVE = (0.0, 0.25, 0.5, 0.75, STRONGEST)
"""Strengths of a whole curve; the number of images is one that every one of them allows."""
KINDS = ("binary", "segmentation")
_ASKED = re.compile(r"^\s*(?P<attribute>[^=\s]+)\s*=\s*(?P<strength>\d*\.?\d+)\s*$")


@dataclass(frozen=True)
class Association:
    """How strongly an attribute goes with the label: phi, with both at one half."""

    attribute: str
    strength: float

    @classmethod
    def parse(cls, text: str) -> Association:
        """``chest_tube=0.5``.

        Raises:
            EvalfmError: it is not of this form, or the strength is not from 0 to .95.
        """
        found = _ASKED.match(text)
        strength = float(found["strength"]) if found else -1.0
        if found is None or not 0 <= strength <= STRONGEST:
            raise EvalfmError(
                f"{text!r} is no association; write column=strength with a strength from 0 to {STRONGEST:g}, "
                "such as chest_tube=0.5."
            )
        return cls(found["attribute"], strength)


def associated(split: Split, cohort: Cohort, association: Association, seed: int) -> Split:
    """``split`` with train and val cut down to the strength asked for, and test to as many images in every cell.

    A cell is one value of label and attribute (0 or 1). Train and val hold the most images that every strength of
    ``CURVE`` allows, the same number at each; the images of a cell are drawn in a fixed order, so that those of one
    strength are nested in those of the next. Test is the same for every strength and seed.

    Raises:
        EvalfmError: the task has no label of yes and no, the attribute is no such column, or a cell is empty.
    """
    if cohort.task.kind not in KINDS:
        raise EvalfmError(f"--associate needs a yes-or-no label; {cohort.task.name} is {cohort.task.kind}.")
    attribute, _ = binary_label(cohort.manifest, association.attribute, cohort.rows)
    label = cohort.positive.astype(np.float64)
    where = "" if split.fold is None else f" of fold {split.fold + 1}"

    def cells(positions: NDArray[np.intp], name: str, seed: int) -> dict[tuple[int, int], NDArray[np.intp]]:
        order = _order(cohort, positions, seed)
        found = {(y, a): order[(label[order] == y) & (attribute[order] == a)] for y in (0, 1) for a in (0, 1)}
        for (y, a), inside in found.items():
            if not len(inside):
                raise EvalfmError(
                    f"In {name}{where} no image has label {y} and {association.attribute} {a}, so the two cannot be "
                    "made independent; take more data or another attribute."
                )
        return found

    cautions = []
    chosen = {}
    for name in ("train", "val"):
        chosen[name], told = _tied(cells(getattr(split, name), name, seed), association.strength)
        cautions.append(f"{name} {told}")
    every = cells(split.test, "test", 0)
    most = min(map(len, every.values()))
    words = f"Association of label and {association.attribute}: {'; '.join(cautions)}; test 4 × {most} images, phi 0."
    note = Caution("association", words)
    test = np.sort(np.concatenate([inside[:most] for inside in every.values()]))
    return replace(split, train=chosen["train"], val=chosen["val"], test=test, cautions=(*split.cautions, note))


def _tied(cells: dict[tuple[int, int], NDArray[np.intp]], strength: float) -> tuple[NDArray[np.intp], str]:
    """The images of four cells at one strength, with their number and the phi that came of rounding, in words."""
    aligned = min(len(cells[0, 0]), len(cells[1, 1]))
    conflicting = min(len(cells[0, 1]), len(cells[1, 0]))
    # Of each label, so that every strength from 0 to the strongest fits; even, so that 0 is met exactly.
    half = 2 * (min(2 * conflicting, int(2 * aligned / (1 + STRONGEST))) // 2)
    if not half:
        raise EvalfmError("There is too little data to tie label and attribute at every strength; take more.")
    same = round(half * (1 + strength) / 2)
    taken = {(y, a): inside[: same if y == a else half - same] for (y, a), inside in cells.items()}
    phi = (2 * same - half) / half
    return np.sort(np.concatenate(list(taken.values()))), f"{2 * half} images, phi {phi:.2f}"


def _order(cohort: Cohort, positions: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """``positions`` in an order that a seed and the images' ids decide."""
    ids = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows[positions]]
    drawn = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in ids]
    return positions[np.argsort(drawn, kind="stable")]
