"""From a cohort and options to its splits: kind after kind, then what no head could learn from is refused."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.probing.splits import association, base_to_novel, episodes, folds, holdout, label_fraction, shots
from evalfm.probing.splits.holdout import split_names
from evalfm.probing.splits.split import Split, SplitInput, SplitKind
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort

KINDS: tuple[SplitKind, ...] = (folds, holdout, base_to_novel, association, shots, label_fraction, episodes)
"""In the order in which they are applied: the first two make splits, the others change them."""


def make_splits(cohort: Cohort, options: SplitOptions, split_seed: int = 0, subset_seed: int = 0) -> list[Split]:
    """Split the rows of ``cohort``: one split, or one per fold.

    ``split_seed`` decides folds; ``subset_seed`` only which training images a small subset takes.

    Raises:
        EvalfmError: train, val or test is empty, train or val holds one class only, there are fewer images than
            shots, or an association cannot be made.
    """
    splits = draw_splits(cohort, options, split_seed, subset_seed)
    # Episodes have checked their classes, and have no val.
    return splits if options.episodes else [_learnable(split, cohort) for split in splits]


def draw_splits(cohort: Cohort, options: SplitOptions, split_seed: int = 0, subset_seed: int = 0) -> list[Split]:
    """The same, whether or not a head could learn from train and choose on val: a model from elsewhere has done both.

    Raises:
        EvalfmError: the cohort cannot be split so.
    """
    given = SplitInput(cohort, options, split_seed, subset_seed)
    splits: list[Split] = []
    for kind in KINDS:
        if kind.applies(options):
            splits = kind.split(splits, given)
    return splits


def limited(cohort: Cohort, limit: int | None) -> Cohort:
    """At most ``limit`` images, in each split and class in proportion, always the same ones."""
    if limit is None or limit >= len(cohort):
        return cohort
    ids = cohort.manifest.table["id"].to_numpy()[cohort.rows]
    order = np.argsort([hashlib.sha256(str(name).encode()).hexdigest() for name in ids], kind="stable")
    split = split_names(cohort)
    strata = np.array([f"{name}/{positive}" for name, positive in zip(split, cohort.positive, strict=True)])
    names, counts = np.unique(strata, return_counts=True)
    share = counts * limit / len(cohort)
    take = np.floor(share).astype(int)
    for index in np.argsort(take - share, kind="stable")[: limit - int(take.sum())]:
        take[index] += 1
    chosen = np.zeros(len(cohort), dtype=bool)
    for name, number in zip(names, take, strict=True):
        chosen[order[strata[order] == name][:number]] = True
    return cohort.keep(chosen, f"beyond --limit {limit}")


def _learnable(split: Split, cohort: Cohort) -> Split:
    """Refuse before any computing what no head could learn from, or choose on."""
    where = split.where
    if not len(split.val) and len(split.train) and split.fold is None and _has_no_val(cohort):
        raise EvalfmError(
            f"{cohort.manifest.info.name} has no val split, on which heads choose; draw it by patient from train: "
            f"`evalfm data split {cohort.manifest.folder} --val-from-train`."
        )
    for name in ("train", "val", "test"):
        if not len(getattr(split, name)):
            raise EvalfmError(f"No image is left in {name}{where}; take more data, another split or fewer conditions.")
    remedy = "take another split (`evalfm data split --stratify`), more data or fewer folds"
    kind, targets = cohort.kind, cohort.task.target
    if kind.several_labels and len(unlearnable(cohort, split)) == len(targets):
        raise EvalfmError(f"No label has both classes in train and in val{where}; {remedy}.")
    for name in ("train", "val"):
        inside = getattr(split, name)
        if kind.one_class and not _has_two_classes(cohort.target[inside]):
            raise EvalfmError(f"In {name}{where} {targets[0]!r} has one class only; {remedy}.")
        if kind.pixelwise and not cohort.positive[inside].any():
            findings = ", ".join(targets)
            raise EvalfmError(f"In {name}{where} no image has a mask of {findings} that holds anything; {remedy}.")
    return split


def _has_no_val(cohort: Cohort) -> bool:
    table = cohort.manifest.table
    return "split" in table and "train" in set(table["split"]) and "val" not in set(table["split"])


def unlearnable(cohort: Cohort, split: Split) -> tuple[str, ...]:
    """Labels of a multilabel task that show one class only in train or in val of ``split``; none for other kinds."""
    if not cohort.kind.several_labels:
        return ()
    return tuple(
        label
        for label, values in zip(cohort.task.target, cohort.target.T, strict=True)
        if not all(_has_two_classes(values[getattr(split, name)]) for name in ("train", "val"))
    )


def _has_two_classes(values: NDArray[np.float64]) -> bool:
    return len(np.unique(values[~np.isnan(values)])) > 1
