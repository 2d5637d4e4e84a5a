"""Few-shot episodes: support of train and queries of test, drawn many times over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evalfm.data.episodes import draw_episodes
from evalfm.errors import EvalfmError
from evalfm.probing.splits.split import Split, SplitInput
from evalfm.split_options import QUERIES, SplitOptions
from evalfm.tasks.cohort import Cohort


def applies(options: SplitOptions) -> bool:
    """With ``episodes``."""
    return options.episodes is not None


def split(splits: Sequence[Split], given: SplitInput) -> list[Split]:
    """Each split with its episodes, which the subset seed draws; without ``shots`` they have queries alone.

    Raises:
        EvalfmError: an image of the task is of no one class, there is one class only, or a class has too few images.
    """
    cohort, options = given.cohort, given.options
    assert options.episodes is not None
    if not cohort.kind.one_class:
        remedy = "take one of its labels, as --task LABEL" if cohort.kind.several_labels else "take a task of classes"
        raise EvalfmError(
            f"Episodes take n images of each class, and an image of the {cohort.task.kind} task {cohort.task.name} is "
            f"of no one class; {remedy}."
        )
    names = classes_of(cohort)
    if len(names) < 2:
        raise EvalfmError(f"{cohort.task.name} has one class only, {names[0]}; take data with two or more.")
    ids = [str(each) for each in cohort.manifest.table["id"].to_numpy()[cohort.rows]]
    made = []
    for each in splits:
        drawn = draw_episodes(
            cohort.strata,
            given.units,
            ids,
            names,
            shots=options.shots or 0,
            queries=options.queries or QUERIES,
            episodes=options.episodes,
            seed=given.subset_seed,
            split=None if has_no_split(each) else _names_of(each, len(cohort)),
        )
        made.append(replace(each, val=each.val[:0], episodes=drawn))
    return made


def classes_of(cohort: Cohort) -> tuple[str, ...]:
    """The names of all classes; a binary task has two."""
    names = cohort.class_names
    return names if cohort.kind.exclusive else (f"no {names[0]}", names[0])


def has_no_split(split: Split) -> bool:
    """Whether support and queries are drawn from the same images, and apart by patient in each episode."""
    return bool(np.isin(split.train, split.test).any())


def _names_of(split: Split, images: int) -> NDArray[np.object_]:
    names = np.full(images, "val", dtype=object)
    names[split.train], names[split.test] = "train", "test"
    return names
