"""A split of a cohort, and what every kind of split is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.data.assign_splits import split_units
from evalfm.data.episodes import Episodes
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort


@dataclass(frozen=True)
class Split:
    """One training with its val and test images, as positions into a cohort's rows.

    Attributes:
        fold: which fold it is, or None where there is one split.
        cautions: what must be said of how it was made.
        episodes: draws of support from train and of queries from test, where there are some; then val is empty.
        pool: images of the rarest class among which those of train were drawn, where so many of each were.
    """

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    fold: int | None = None
    cautions: tuple[Caution, ...] = ()
    episodes: Episodes | None = None
    pool: int | None = None

    @property
    def where(self) -> str:
        """The fold in words, for messages; empty where there is one split."""
        return "" if self.fold is None else f" of fold {self.fold + 1}"

    @property
    def named(self) -> list[tuple[str, NDArray[np.intp]]]:
        """All that decides a result of the split, by name: what the run key covers."""
        names = [(f"{name}/{self.fold}", getattr(self, name)) for name in ("train", "val", "test")]
        if self.episodes is None:
            return names
        return [*names, ("support", self.episodes.support), ("query", self.episodes.query)]

    @property
    def used(self) -> NDArray[np.intp]:
        """Positions of all images whose features are read, ascending, each once."""
        if self.episodes is not None:
            return self.episodes.used
        return np.unique(np.concatenate([self.train, self.val, self.test]))


@dataclass(frozen=True)
class SplitInput:
    """What a kind of split is given.

    Attributes:
        split_seed: decides folds. subset_seed: what is drawn of the training images, and nothing else.
    """

    cohort: Cohort
    options: SplitOptions
    split_seed: int = 0
    subset_seed: int = 0

    @cached_property
    def units(self) -> NDArray[np.object_]:
        """What stays together in each row: the patient, and whoever has the same image, [N]."""
        return split_units(self.cohort.manifest, self.cohort.rows)


class SplitKind(Protocol):
    """One way to split: a module with these functions that stands in ``make.KINDS``.

    What a kind is called stands in ``SubsetOptions.label``, what it excludes in the checks of ``SplitOptions``.
    """

    def applies(self, options: SplitOptions) -> bool:
        """Whether ``options`` ask for it."""
        ...

    def split(self, splits: Sequence[Split], given: SplitInput) -> list[Split]:
        """``splits`` changed, or made where there are none yet.

        Raises:
            EvalfmError: the cohort cannot be split so.
        """
        ...
