"""So many training images of each class, and as many of val at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evalfm.cautions import Caution
from evalfm.data import splits as by_patient
from evalfm.errors import EvalfmError
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import SplitOptions


def applies(options: SplitOptions) -> bool:
    """With ``shots`` and without ``episodes``."""
    return options.shots is not None and options.episodes is None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """``shots`` training images of each class, nested, drawn by the subset seed; val stays whole or has ``val_shots``.

    Raises:
        EvalfmError: the task has no classes, or there are fewer images.
    """
    return [_few(each, given) for each in splits]


def _few(split: Split, given: SplitInput) -> Split:
    cohort, options = given.cohort, given.options
    assert options.shots is not None
    if not cohort.kind.has_shots:
        raise EvalfmError(f"--shots counts images per class, which {cohort.kind} has not; take --label-fraction.")
    labels, units = cohort.strata[split.train], given.units[split.train]
    kept = by_patient.nested_shots(labels, units, options.shots, given.subset_seed)
    few = replace(split, train=split.train[kept], pool=int(np.unique(labels, return_counts=True)[1].min()))
    return few if options.val_shots is None else _few_val(few, given)


def _few_val(split: Split, given: SplitInput) -> Split:
    """Keep as many val images of each class as there are shots, at most ``val_shots``, or all where there are fewer.

    So do the papers' own programs (Dassl): a class with three images gives these three.
    """
    cohort, options = given.cohort, given.options
    assert options.shots is not None
    assert options.val_shots is not None
    labels = cohort.strata[split.val]
    number = min(options.shots, options.val_shots)
    kept = by_patient.nested_shots(labels, given.units[split.val], number, given.subset_seed, fewer=True)
    scarce = [
        f"{count} of {cohort.class_names[label] if cohort.kind.exclusive else f'{cohort.class_names[0]} = {label}'}"
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
        if count < number
    ]
    words = f"Val has fewer than {number} images of a class, and all of these were taken: {', '.join(scarce)}."
    return replace(
        split, val=split.val[kept], cautions=(*split.cautions, *([Caution("scarce-val", words)] if scarce else []))
    )
