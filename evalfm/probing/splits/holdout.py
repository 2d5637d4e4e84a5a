"""One split: that of the data set, or patients named by an expression put into test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evalfm.data import splits as by_patient
from evalfm.errors import EvalfmError
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort


def applies(options: SplitOptions) -> bool:
    """Without ``folds``."""
    return options.folds is None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """The data set's split, or that of ``test_where``; for episodes alone it may be missing.

    Raises:
        EvalfmError: the data set has no split, or ``test_where`` names no patient or all of them.
    """
    cohort, options = given.cohort, given.options
    if options.test_where:
        moved = cohort.manifest.where(options.test_where)[cohort.rows]
        names = by_patient.test_where(given.units, moved, seed=0)
    elif options.episodes and "split" not in cohort.manifest.table.columns:
        every = np.arange(len(cohort))
        return [Split(every, every[:0], every)]
    else:
        names = split_names(cohort)
    train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
    return [Split(train, val, test)]


def split_names(cohort: Cohort) -> NDArray[np.object_]:
    """The split of each row as the data set has it, [N].

    Raises:
        EvalfmError: it has none.
    """
    if "split" not in cohort.manifest.table.columns:
        raise EvalfmError(
            f"Data set {cohort.manifest.info.name} has no split; run `evalfm data split` on it, or take --folds 5."
        )
    return cohort.manifest.table["split"].to_numpy(dtype=object)[cohort.rows]
