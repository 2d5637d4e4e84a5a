"""Which tasks a data set can answer: what it holds, with enough cases on both sides to learn, choose and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.cards import checked
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.splits import limited, make_splits
from evalfm.split_options import SplitOptions
from evalfm.study.grid import LeftOut
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from evalfm.tasks.truth import masks_of

FEWEST = {"train": 10, "val": 3, "test": 10}
"""Patients of either class (with a mask, with a value) that a task needs; of folds in every train and val, and in all
tests together."""


@dataclass(frozen=True)
class AllowedTask:
    """A task that a data set can answer.

    Attributes:
        name: a card's, or a label column.
        kind: of the task.
        targets: its columns or findings.
        images, patients: of its cohort.
        head: the first of its card, which is the plain one.
        scarcest: images of its scarcest class in the smallest train; None for kinds whose images are of no one class.
    """

    name: str
    kind: str
    targets: tuple[str, ...]
    images: int
    patients: int
    head: str
    scarcest: int | None


def allowed_tasks(
    cards: Sequence[str],
    manifest: Manifest,
    folds: int | None = None,
    *,
    limit: int | None = None,
    columns: bool = True,
) -> tuple[list[AllowedTask], list[LeftOut]]:
    """Those of ``cards`` that ``manifest`` can answer, then its other label columns; and why the rest cannot be.

    Args:
        cards: names of tasks, in their order.
        manifest: the data set.
        folds: over how many it is measured; None takes its own split.
        limit: at most so many images a task.
        columns: whether label columns that no allowed card has as its target are asked too, but for attributes.

    >>> from evalfm.data.phantom import make_phantom
    >>> tasks, left_out = allowed_tasks(["tb-cls", "cardiomegaly-cls"], make_phantom("some", n=200, size=64), 5)
    >>> [task.name for task in tasks][:2], left_out[0].reason
    (['cardiomegaly-cls', 'pneumothorax'], 'phantom holds no tuberculosis')
    """
    found: list[AllowedTask] = []
    left_out: list[LeftOut] = []

    def look(names: Sequence[str]) -> None:
        for name in names:
            try:
                found.append(_allowed(name, manifest, folds, limit))
            except _TooFew as error:
                left_out.append(LeftOut(f"{name} on {manifest.info.name}", str(error)))
            except EvalfmError as error:
                left_out.append(LeftOut(f"{name} on {manifest.info.name}", str(error).rstrip(".")))

    look(cards)
    if columns:
        asked = {target for task in found for target in task.targets} | set(manifest.info.attributes)
        look([name for name in manifest.labels if name not in asked])
    return found, left_out


class _TooFew(Exception):
    """Why a task is left out, in a few words."""


def _allowed(name: str, manifest: Manifest, folds: int | None, limit: int | None) -> AllowedTask:
    card = resolve_task(name, manifest)
    try:
        manifest.validate(deep=True, findings=masks_of(card, manifest))
        cohort = limited(select_cohort(card, manifest), limit)
    except UnknownNameError as error:
        raise _TooFew(f"{manifest.info.name} holds no {error.name}") from None
    splits = make_splits(cohort, checked(SplitOptions, {"folds": folds}), subset_seed=0)
    whose = manifest.patients[cohort.rows]

    def patients(rows: NDArray[np.intp], among: NDArray[np.bool_]) -> int:
        return len(set(whose[rows[among[rows]]].tolist()))

    for what, among in _sides(cohort):
        counts = {
            "train": min(patients(split.train, among) for split in splits),
            "val": min(patients(split.val, among) for split in splits),
            "test": patients(np.concatenate([split.test for split in splits]), among),
        }
        for where, count in counts.items():
            if count < FEWEST[where]:
                who = "patient" if count == 1 else "patients"
                raise _TooFew(f"{count} {who} {what} in {where}, fewer than {FEWEST[where]}")
    scarcest = None
    if cohort.kind.one_class:
        scarcest = min(int(among[split.train].sum()) for split in splits for _, among in _sides(cohort))
    return AllowedTask(name, card.kind, card.target, len(cohort), len(set(whose.tolist())), card.heads[0], scarcest)


def _sides(cohort: Cohort) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What there must be enough of, in words, and which rows [N] have it."""
    kind, target = cohort.kind, cohort.target
    if kind.pixelwise:
        yield "with a mask that shows anything", cohort.positive
    elif kind.measured:
        yield "with a value", np.ones(len(cohort), dtype=bool)
    elif kind.one_label:
        yield "with the finding", target == 1
        yield "without the finding", target == 0
    elif kind.several_labels:
        for name, column in zip(cohort.class_names, target.T, strict=True):
            yield f"with {name}", column == 1
            yield f"without {name}", column == 0
    else:
        for number, name in enumerate(cohort.class_names):
            yield f"of {name}", target == number
