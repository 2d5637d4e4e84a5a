"""Folds by patient: each image is tested once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evalfm.data import splits as by_patient
from evalfm.errors import EvalfmError
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import SplitOptions


def applies(options: SplitOptions) -> bool:
    """With ``folds``."""
    return options.folds is not None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """One split a fold, which the split seed draws; classes in proportion.

    Raises:
        EvalfmError: there are fewer patients than folds.
    """
    patients, folds, seed = given.units, given.options.folds, given.split_seed
    assert folds is not None
    if len(set(patients.tolist())) < folds:
        raise EvalfmError(f"{folds} folds need at least {folds} patients; take fewer folds.")
    labels = given.cohort.strata if given.cohort.positive.any() else None
    assigned = by_patient.folds(patients, folds, seed, labels=labels)
    made = []
    for fold in range(folds):
        names = by_patient.fold_split(assigned, fold, patients, seed, labels=labels)
        train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
        made.append(Split(train, val, test, fold))
    return made
