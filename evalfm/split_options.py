"""Options that decide which rows are learned from, chosen on and tested; part of every ``ProbeConfig``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from evalfm.cards import CardModel, Option
from evalfm.errors import EvalfmError

STRONGEST_ASSOCIATION = 0.95
QUERIES = 10
"""Images of each class that an episode scores."""
SPLIT, FEW = "Cohort and split", "Few labels"
NOT_IN_KEY = Option(in_key=False)
_ASSOCIATION = re.compile(r"^\s*(?P<attribute>[^=\s]+)\s*=\s*(?P<strength>\d*\.?\d+)\s*$")


def _plain(value: object) -> object:
    return fspath(value) if isinstance(value, PathLike) else value


Text = Annotated[str, BeforeValidator(_plain)]
"""A name or a path, which Python may give as a ``Path``."""


@dataclass(frozen=True)
class Association:
    """How strongly an attribute goes with the label: phi, with both at one half."""

    attribute: str
    strength: float

    @classmethod
    def parse(cls, text: str) -> Association:
        """Read ``chest_tube=0.5``.

        Raises:
            EvalfmError: it is not of this form, or the strength is not from 0 to .95.

        >>> Association.parse("chest_tube=0.5")
        Association(attribute='chest_tube', strength=0.5)
        """
        match = _ASSOCIATION.match(text)
        strength = float(match["strength"]) if match else -1.0
        if match is None or not 0 <= strength <= STRONGEST_ASSOCIATION:
            raise EvalfmError(
                f"{text!r} is no association; write column=strength with a strength from 0 to "
                f"{STRONGEST_ASSOCIATION:g}, such as chest_tube=0.5."
            )
        return cls(match["attribute"], strength)


class CohortOptions(CardModel):
    """Which images are tested, whoever predicts on them."""

    data: Annotated[
        Text | None,
        Field(description="Folder or registered name of a data set; without it the task's own, else the phantom."),
        NOT_IN_KEY,
    ] = None
    test_data: Annotated[
        Text | None, Field(description="Another data set, all of it tested."), Option(SPLIT, in_key=False)
    ] = None
    where: Annotated[
        str | None, Field(description="Rows of the cohort, e.g. \"view == 'PA'\"; others are left out."), Option(SPLIT)
    ] = None
    test_where: Annotated[
        str | None, Field(description="Rows whose patients make up the test set, e.g. \"site == 'B'\"."), Option(SPLIT)
    ] = None
    folds: Annotated[int | None, Field(ge=2, description="Folds by patient: each image is tested once.")] = None
    limit: Annotated[
        int | None,
        Field(ge=1, description="At most so many images, in proportion from each split and class."),
        Option(SPLIT),
    ] = None

    @model_validator(mode="after")
    def _one_test_set(self) -> CohortOptions:
        if self.folds and (self.test_where or self.test_data):
            raise ValueError("folds test every image once, so they do not go with test_where or test_data")
        return self


class DataOptions(CohortOptions):
    """Which images are measured, and how they are split."""

    val_shots: Annotated[
        int | None,
        Field(ge=1, description="With --shots, at most so many val images per class, never more than shots."),
        Option(FEW),
    ] = None
    queries: Annotated[
        int | None,
        Field(ge=1, description=f"With --episodes, images of each class to score; {QUERIES} by default."),
        Option(FEW, in_key=False),
    ] = None


class SubsetOptions(CardModel):
    """What of the training images is learned from; all of them where nothing is given."""

    shots: Annotated[
        int | None,
        Field(ge=1, description="Training images per class, from nested subsets; several such as 1,5,20 likewise."),
        Option(several=True),
    ] = None
    episodes: Annotated[
        int | None,
        Field(ge=1, description="Draw shots and queries so many times; macro AUROC over these episodes."),
        Option(FEW, in_key=False),
    ] = None
    label_fraction: Annotated[
        float | None,
        Field(gt=0, le=1, description="Fraction of the training patients, from nested subsets."),
        Option(FEW),
    ] = None
    associate: Annotated[
        str | None,
        Field(description="Tie a column to the label in train, e.g. chest_tube=0.5; in test they are independent."),
        Option(SPLIT),
    ] = None
    base_to_novel: Annotated[
        bool,
        Field(description="Text heads learn on the first half of the classes and are tested on both halves."),
        Option(FEW),
    ] = False

    @property
    def label(self) -> str:
        """The subset in words.

        >>> SubsetOptions(shots=4).label
        '4 shots'
        """
        shots = None if self.shots is None else f"{self.shots} shot{'s' if self.shots > 1 else ''}"
        if self.episodes is not None:
            return f"{self.episodes} episode{'s' if self.episodes > 1 else ''}" + (f" of {shots}" if shots else "")
        if shots is not None:
            return f"{shots} of base classes" if self.base_to_novel else shots
        if self.associate is not None:
            return f"images with {self.associate}"
        return "all of train" if self.label_fraction is None else f"{self.label_fraction:g} of the patients"


SMALLER = ("shots", "val_shots", "label_fraction")
"""Options by which train or val has fewer images."""


class SplitOptions(SubsetOptions, DataOptions):
    """What decides which rows are trained on, chosen on and tested."""

    @property
    def subset(self) -> SubsetOptions:
        """What of the training images is learned from."""
        return SubsetOptions(**{name: getattr(self, name) for name in SubsetOptions.model_fields})

    @property
    def draws_subsets(self) -> bool:
        """Whether a seed draws the training images, so that the split and even a deterministic head differ with it."""
        return any(each is not None for each in (self.shots, self.label_fraction, self.associate, self.episodes))

    @model_validator(mode="after")
    def _one_way_to_split(self) -> SplitOptions:
        if self.shots and self.label_fraction:
            raise ValueError("shots and label_fraction both choose the training images; give one")
        if self.base_to_novel and (self.folds or self.test_data or self.associate):
            raise ValueError("base_to_novel goes with one split, without folds, test_data and associate")
        if self.val_shots and not self.shots:
            raise ValueError("val_shots goes with shots; without them val stays whole")
        others = ("folds", "test_data", "label_fraction", "associate", "base_to_novel", "val_shots")
        if self.episodes and any(getattr(self, name) for name in others):
            raise ValueError(f"episodes draw from train and test of one split, without {', '.join(others)}")
        if self.queries and not self.episodes:
            raise ValueError("queries are the images that an episode scores; add episodes, or leave queries out")
        if self.associate is not None:
            if self.shots or self.label_fraction:
                raise ValueError("associate chooses the training images, as shots and label_fraction do; give one")
            if self.test_data:
                raise ValueError("associate tests on images of the same data; leave test_data out")
            Association.parse(self.associate)
        return self
