"""Base-to-novel: train and val of the first half of the classes alone, test of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import SplitOptions
from evalfm.statistics.classification import base_classes


def applies(options: SplitOptions) -> bool:
    """With ``base_to_novel``."""
    return options.base_to_novel


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """Train and val reduced to images of the first half of the classes; test stays whole."""
    learned = given.cohort.target < base_classes(len(given.cohort.class_names))
    return [replace(each, train=each.train[learned[each.train]], val=each.val[learned[each.val]]) for each in splits]
