"""A fraction of the training patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalfm.data import splits as by_patient
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import SplitOptions


def applies(options: SplitOptions) -> bool:
    """With ``label_fraction``."""
    return options.label_fraction is not None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """A fraction of the training patients, nested, drawn by the subset seed; val and test stay whole."""
    fraction = given.options.label_fraction
    assert fraction is not None
    return [
        replace(each, train=each.train[by_patient.label_fraction(given.units[each.train], fraction, given.subset_seed)])
        for each in splits
    ]
