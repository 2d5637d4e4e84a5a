"""Test predictions as what each kind of task asks: a yes-or-no question, several, classes, values, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalfm.errors import EvalfmError
from evalfm.statistics.classification import FEWEST_TO_HALVE, base_classes, class_indices
from evalfm.statistics.intervals import RESAMPLES
from evalfm.statistics.resampling import Mask, Patients, Positions, Values, identify

if TYPE_CHECKING:
    import pandas as pd


FEWEST_PATIENTS = 10
"""Below so many patients of either class an AUROC is not reported."""


@dataclass(frozen=True)
class Scored:
    """Test predictions of one run, from which all its metrics are computed.

    Attributes:
        table: the test rows of predictions.parquet; a column is read where a metric needs it.
        class_names: as in the run.
        patients_known: False makes every image its own unit, and the metrics say so.
        seed: of the resamples.
        resamples: how many.
        fewest_patients: AUROC needs so many with a positive and with a negative image.
        lesions: of masks a row for each lesion and candidate (``predictions.LESION_COLUMNS``); None where unknown.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    patients_known: bool
    seed: int = 0
    resamples: int = RESAMPLES
    fewest_patients: int = FEWEST_PATIENTS
    lesions: pd.DataFrame | None = None

    @property
    def unit(self) -> str:
        """What is resampled."""
        return "patients" if self.patients_known else "images"

    @property
    def patient(self) -> NDArray[np.object_]:
        """Patient id of each row, [N]."""
        return self.table["patient"].to_numpy(dtype=object)

    @property
    def folds(self) -> NDArray[np.intp] | None:
        """Fold of each row, [N]: what ranks is computed per fold and averaged. Or None."""
        return self.table["fold"].to_numpy(np.intp) if "fold" in self.table else None

    @cached_property
    def patients(self) -> Patients:
        """Patients and folds, coded.

        Raises:
            EvalfmError: no rows, or a patient in two folds.
        """
        try:
            return identify(self.patient, self.folds)
        except ValueError as error:
            raise EvalfmError(f"Metrics cannot be computed: {error}.") from None

    def has(self, what: str) -> bool:
        """Whether there is the column ``what``, or that of every class."""
        return what in self.table or {self._of(what, name) for name in self.class_names} <= set(self.table)

    def among(self, rows: Mask) -> Scored:
        """These rows alone."""
        return replace(self, table=self.table[rows])

    def columns(self, *names: str) -> list[Values]:
        """Columns as finite numbers, [N] each; every fault is named at once.

        Raises:
            EvalfmError: a column is missing, or holds a missing or infinite value.
        """
        missing = [name for name in names if name not in self.table]
        if missing:
            raise EvalfmError(f"The predictions lack {', '.join(missing)}; score the images against their truth.")
        found = [self.table[name].to_numpy(np.float64) for name in names]
        faults = [
            f"{name} holds {int((~np.isfinite(values)).sum())} missing or infinite values"
            for name, values in zip(names, found, strict=True)
            if not np.isfinite(values).all()
        ]
        if faults:
            raise EvalfmError(f"Metrics cannot be computed: {'; '.join(faults)}; leave those rows out or fix them.")
        return found

    def of_classes(self, what: str) -> Values:
        """[N, K] columns ``<what>_<class>``, checked alike."""
        return np.stack(self.columns(*(f"{what}_{name}" for name in self.class_names)), axis=1)

    def of_class(self, what: str, name: str) -> Values:
        """[N] the column of a class, or the one that there is for all."""
        return self.table[self._of(what, name)].to_numpy(np.float64)

    def _of(self, what: str, name: str) -> str:
        return f"{what}_{name}" if f"{what}_{name}" in self.table else what


@dataclass(frozen=True)
class Rows:
    """What metrics read: the rows of a run, or of one of its classes."""

    scored: Scored

    @property
    def has_metrics(self) -> bool:
        """Whether there are metrics of these rows as a whole."""
        return True

    @property
    def of_class(self) -> Mapping[str, Rows]:
        """The rows of each class, by what the names of its metrics end in."""
        return {}

    @property
    def patients(self) -> Patients:
        """Who stands behind each row."""
        return self.scored.patients

    @property
    def unit(self) -> str:
        """What is resampled."""
        return self.scored.unit


@dataclass(frozen=True)
class Question(Rows):
    """One yes-or-no question, on the images where it is known.

    Attributes:
        name: of the label or class.
        every_label: [N] 0, 1, or NaN where it is unknown or the image has no score.
        every_score: [N], 0 where there is none.
        absent: why the question has no metric at all, or None.
    """

    name: str
    every_label: Values
    every_score: Values
    absent: str | None = None

    @cached_property
    def known(self) -> Mask:
        """Bool [N]."""
        return ~np.isnan(self.every_label)

    @cached_property
    def label(self) -> Values:
        """0 or 1 of each known image, [n]; likewise below."""
        return self.every_label[self.known]

    @cached_property
    def score(self) -> Values:
        """Of each known image, [n]."""
        return self.every_score[self.known]

    @cached_property
    def patients(self) -> Patients:
        """Who stands behind each known image."""
        return self.scored.patients.among(self.known)

    @property
    def probable(self) -> bool:
        """Whether the scores are probabilities."""
        return probable(self.score)

    @property
    def has_threshold(self) -> bool:
        """Whether there is an operating threshold of any image; imported scores may have none."""
        return not np.isnan(self.scored.of_class("threshold", self.name)[self.known]).all()

    def beside(self, what: str) -> Values:
        """The column ``what`` of the question, [n].

        Raises:
            EvalfmError: it is missing or infinite where the score is not.
        """
        values = self.scored.of_class(what, self.name)[self.known]
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).sum())
            raise EvalfmError(f"Metrics cannot be computed: {what} holds {wrong} missing or infinite values; fix them.")
        return values


@dataclass(frozen=True)
class Questions(Rows):
    """Several yes-or-no questions, called ``plural``: the labels of an image, or each class against the rest."""

    questions: Mapping[str, Question]
    plural: str

    @property
    def of_class(self) -> Mapping[str, Question]:
        """Each question, as in ``auroc[edema]``."""
        return {f"[{name}]": question for name, question in self.questions.items()}


@dataclass(frozen=True)
class Classes(Questions):
    """Exclusive classes: class number ``label`` [N] and ``scores`` [N, K]."""

    label: Positions
    scores: Values

    @property
    def called(self) -> Positions:
        """The class of the largest score, of equal ones the first, [N]."""
        return np.asarray(self.scores.argmax(axis=1), dtype=np.intp)


@dataclass(frozen=True)
class TrueAndPredicted(Rows):
    """A measured quantity: ``target`` and ``prediction`` [N] in its unit."""

    target: Values
    prediction: Values


@dataclass(frozen=True)
class Masks(Rows):
    """The masks of one class: what each image's came to against the truth."""

    name: str

    def column(self, what: str) -> Values:
        """``dice``, ``area_true`` and the like of each image, [N]."""
        return self.scored.columns(f"{what}_{self.name}")[0]

    def distance(self, what: str) -> Values:
        """``hd95`` or ``nsd`` of each image, [N]; it must be finite where not both masks are empty."""
        self.scored.among(self.lesion | self.predicted).columns(f"{what}_{self.name}")
        return self.scored.of_class(what, self.name)

    @property
    def distance_unit(self) -> NDArray[np.str_]:
        """``mm`` or ``pixels`` of each image, [N]."""
        return self.scored.table[f"distance_unit_{self.name}"].to_numpy(str)

    @property
    def lesion(self) -> Mask:
        """Images whose true mask is not empty, bool [N]."""
        return self.column("area_true") > 0

    @property
    def predicted(self) -> Mask:
        """Images whose predicted mask is not empty, bool [N]."""
        return self.column("area_predicted") > 0

    @cached_property
    def regions(self) -> pd.DataFrame | None:
        """The lesions and candidates of these images; ``row`` is the image of each. None where nobody knows them."""
        every = self.scored.lesions
        if every is None:
            return None
        mine = every[every["finding"] == self.name]
        place = {name: row for row, name in enumerate(self.scored.table["id"].tolist())}
        row = np.array([place.get(name, -1) for name in mine["id"].tolist()], dtype=np.intp)
        return mine.assign(row=row)[row >= 0]


@dataclass(frozen=True)
class SeveralMasks(Rows):
    """Several masks of an image, whose mean is not taken."""

    @property
    def has_metrics(self) -> bool:
        """None as a whole."""
        return False

    @property
    def of_class(self) -> Mapping[str, Masks]:
        """Each mask, as in ``dice_all_heart``."""
        return {f"_{name}": Masks(self.scored, name) for name in self.scored.class_names}


def probable(scores: Values) -> bool:
    """Whether ``scores`` can be probabilities."""
    return bool(scores.min() >= 0 and scores.max() <= 1)


def one_question(scored: Scored) -> Question:
    """Of a binary task.

    Raises:
        EvalfmError: rows are missing, or a label is neither 0 nor 1; likewise below.
    """
    (name,) = scored.class_names
    label, score = scored.columns("target", f"score_{name}")
    if not np.isin(label, (0.0, 1.0)).all():
        raise EvalfmError("Metrics of a binary task need labels 0 and 1; recode the target column.")
    return Question(scored, name, label, score)


def labels(scored: Scored) -> Questions:
    """Of a multilabel task; images without a score, because the label could not be learnt, do not count for it."""
    found = {}
    for name in scored.class_names:
        label, score = (scored.of_class(what, name) for what in ("target", "score"))
        if np.isinf(score).any():
            raise EvalfmError(f"Metrics cannot be computed: score_{name} holds infinite values; fix them.")
        if not np.isin(label[~np.isnan(label)], (0.0, 1.0)).all():
            raise EvalfmError("Metrics of a multilabel task need labels 0, 1 or empty; recode the target columns.")
        learnt = ~np.isnan(score)
        every = np.where(learnt, label, np.nan)
        absent = (
            "the label has no score: one class only in train or in val, or not predicted"
            if not learnt.any()
            else "the label is unknown on every image"
            if np.isnan(every).all()
            else None
        )
        found[name] = Question(scored, name, every, np.where(learnt, score, 0.0), absent)
    return Questions(scored, found, "labels")


def classes(scored: Scored) -> Classes:
    """Of a multiclass or ordinal task."""
    if len(scored.class_names) < 2:
        raise EvalfmError("Metrics of a multiclass task need one score column per class, at least two.")
    scores, label = scored.of_classes("score"), _class_numbers(scored)
    questions = {
        name: Question(scored, name, (label == place).astype(np.float64), scores[:, place])
        for place, name in enumerate(scored.class_names)
    }
    return Classes(scored, questions, "classes", label, scores)


def halves(scored: Scored) -> Classes:
    """Of base-to-novel: scores of the classes of the other half are −∞, whatever the predictions hold there."""
    count = len(scored.class_names)
    if count < FEWEST_TO_HALVE:
        raise EvalfmError(
            f"Base-to-novel needs one score column per class, and {FEWEST_TO_HALVE} classes or more: in a half of one "
            "class every answer is right."
        )
    base, label = base_classes(count), _class_numbers(scored)
    given = np.stack([scored.of_class("score", name) for name in scored.class_names], axis=1)
    own = np.where((np.arange(count) < base) == (label < base)[:, None], given, -np.inf)
    if not np.isfinite(own.max(axis=1)).all():
        wrong = int((~np.isfinite(own.max(axis=1))).sum())
        raise EvalfmError(
            f"Metrics cannot be computed: scores holds {wrong} missing or infinite values; leave those rows out or "
            "fix them."
        )
    return Classes(scored, {}, "classes", label, own)


def true_and_predicted(scored: Scored) -> TrueAndPredicted:
    """Of a regression task."""
    return TrueAndPredicted(scored, *scored.columns("target", "prediction"))


def masks(scored: Scored) -> Masks | SeveralMasks:
    """Of a segmentation task."""
    return Masks(scored, *scored.class_names) if len(scored.class_names) == 1 else SeveralMasks(scored)


def _class_numbers(scored: Scored) -> Positions:
    try:
        return class_indices(scored.columns("target")[0], len(scored.class_names))
    except ValueError as error:
        raise EvalfmError(f"Metrics cannot be computed: {error}; recode the target column.") from None


ROWS: dict[str, Callable[[Scored], Rows]] = {
    "binary": one_question,
    "multilabel": labels,
    "multiclass": classes,
    "ordinal": classes,
    "segmentation": masks,
    "regression": true_and_predicted,
    "base-to-novel": halves,
}
"""What each kind of task asks."""
