"""The tasks of a study posed to their data before anything runs: how many images each has, and every fault at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.labelled import as_learnt, refuse_shared_images
from evalfm.probing.loading import load_manifest
from evalfm.probing.settings import Settings
from evalfm.probing.splits import limited, make_splits
from evalfm.progress import SILENT, Progress
from evalfm.statistics.classification import FEWEST_TO_HALVE
from evalfm.study.cell import subset_label
from evalfm.study.config import Study, Subset, TaskEntry, absent_data
from evalfm.tasks.card import TaskCard, load_task
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from evalfm.tasks.prompts import EXCLUSIVE
from evalfm.tasks.truth import masks_of

WITHOUT_SHOTS = ("multilabel", "regression")
MIN_CLASSES = 2
SHARES = (0.7, 0.1, 0.2)
"""Train, val and test of a data set that is not at hand: evalfm's default split."""


@dataclass(frozen=True)
class Sizes:
    """Images of one training and its val and test."""

    train: int
    val: int
    test: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.train + self.val + self.test


@dataclass(frozen=True)
class Asked:
    """A task of the study, posed.

    Attributes:
        card: the task. data: the data set's name as asked for.
        sizes: per subset one entry for each fold, or one alone.
        manifest, rows: whose rows are used, of all subsets; None where the number of images is assumed.
        classes: scores or mask channels of an answer.
    """

    card: TaskCard
    data: str
    sizes: dict[Subset, tuple[Sizes, ...]]
    manifest: Manifest | None = None
    rows: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    classes: int = 1


class Manifests:
    """Data sets by name, each read once and checked whole."""

    def __init__(self, progress: Progress = SILENT) -> None:
        self._progress = progress
        self._read: dict[str, Manifest] = {}

    @property
    def known(self) -> tuple[Manifest, ...]:
        """Those that were read so far."""
        return tuple(self._read.values())

    def get(self, name: str) -> Manifest:
        """The data set called ``name``.

        Raises:
            EvalfmError: it is not there, with the ways to name another, or it has faults.
        """
        if name not in self._read:
            try:
                found = load_manifest(name, "", self._progress)
            except UnknownNameError:
                raise absent_data(name) from None
            if not len(found):
                raise EvalfmError(f"Data set {name} has no rows; import it again or check the file.")
            # Masks are read by the tasks that ask for them.
            found.validate(deep=True, findings=(), progress=self._progress)
            self._read[name] = found
        return self._read[name]


Posed = dict[tuple[str, str], Asked]
"""By the name of the task and of its data."""


def select_cohorts(study: Study, manifests: Manifests) -> tuple[Posed, list[str]]:
    """Every task of ``study`` with its images; beside them one sentence a fault."""
    asked: Posed = {}
    faults: list[str] = []
    for entry in study.tasks:
        try:
            asked[entry.name, study.data_of(entry)[0]] = _select(study, entry, manifests)
        except _SubsetFaults as found:
            faults += found.sentences
        except EvalfmError as error:
            # A data set that is not there is one fault, however many tasks are asked of it.
            sentence = str(error)
            faults.append(sentence if sentence.startswith("There is no") else f"{entry.name}: {sentence}")
    return asked, list(dict.fromkeys(faults))


def assume_all(study: Study, images: int) -> tuple[Posed, list[str]]:
    """Every task of ``study`` as if it had ``images`` images, dealt as by default; beside them the faults."""
    asked: Posed = {}
    faults: list[str] = []
    for entry in study.tasks:
        try:
            card = load_task(entry.name)
        except EvalfmError as error:
            faults.append(str(error))
            continue
        sizes = {
            subset: _assumed(images, subset, study.folds) for subset in study.subsets_of(entry) if _serves(subset, card)
        }
        data = study.data_of(entry)[0]
        # How many classes one column holds only the data tell; there are two at least.
        classes = MIN_CLASSES if card.kind in EXCLUSIVE else len(card.target)
        asked[entry.name, data] = Asked(card, data, sizes, classes=classes)
    return asked, list(dict.fromkeys(faults))


def _assumed(images: int, subset: Subset, folds: int | None) -> tuple[Sizes, ...]:
    shots, fraction = subset.shots, subset.label_fraction
    val, test = round(SHARES[1] * images), round(SHARES[2] * images)
    if folds:
        # A fold is test, an eighth of the rest val, as with the default split.
        test = images // folds
        val = (images - test) // 8
    train = images - val - test
    if shots is not None:
        # Of two classes; a task of more has more, and needs its data to be counted.
        train = min(train, 2 * shots)
    elif fraction is not None:
        train = round(train * fraction)
    return (Sizes(train, val, test),) * (folds or 1)


def _serves(subset: Subset, card: TaskCard) -> bool:
    if subset.base_to_novel:
        return card.kind in EXCLUSIVE
    return subset.shots is None or card.kind not in WITHOUT_SHOTS


class _SubsetFaults(Exception):
    """What hinders a task on some of its subsets, one sentence each."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences


def _select(study: Study, entry: TaskEntry, manifests: Manifests) -> Asked:
    data, test_where = study.data_of(entry)
    manifest = manifests.get(data)
    card = resolve_task(entry.name, manifest)
    manifest.validate(deep=True, findings=masks_of(card, manifest))
    cohort = limited(select_cohort(card, manifest, study.where), study.limit)
    test = None
    if study.test_data is not None:
        outside = manifests.get(study.test_data)
        outside.validate(deep=True, findings=masks_of(card, outside))
        test = limited(select_cohort(card, outside, study.where), study.limit)
        refuse_shared_images(cohort, test)
        test = as_learnt(cohort, test)
    sizes: dict[Subset, tuple[Sizes, ...]] = {}
    used: list[NDArray[np.intp]] = []
    faults: list[str] = []
    for subset in study.subsets_of(entry):
        if not _serves(subset, card) or (subset.base_to_novel and len(cohort.class_names) < FEWEST_TO_HALVE):
            continue
        try:
            sizes[subset] = _deal(study, test_where, cohort, test, subset, used)
        except EvalfmError as error:
            where = "" if subset == Subset() else f" ({subset_label(subset)})"
            faults.append(f"{entry.name}{where}: {error}")
    if faults:
        raise _SubsetFaults(faults)
    rows = cohort.rows[np.unique(np.concatenate(used))] if used else np.empty(0, dtype=np.intp)
    return Asked(card, data, sizes, manifest, rows, len(cohort.class_names))


def _deal(
    study: Study,
    test_where: str | None,
    cohort: Cohort,
    test: Cohort | None,
    subset: Subset,
    used: list[NDArray[np.intp]],
) -> tuple[Sizes, ...]:
    """The sizes of the first seed's parts, once every seed has been dealt; their positions are added to ``used``."""
    settings = Settings.checked(
        task=cohort.task.name,
        **subset._asdict(),
        val_shots=study.val_shots if subset.shots is not None else None,
        folds=study.folds,
        seeds=study.seeds,
        where=study.where,
        test_where=test_where,
        limit=study.limit,
        test_data=study.test_data,
    )
    dealt = [make_splits(cohort, settings, subset_seed=seed) for seed in range(study.seeds)]
    for part in (part for seed in dealt for part in seed):
        used.append(np.concatenate([part.train, part.val, part.test]))
    return tuple(
        Sizes(len(part.train), len(part.val), len(part.test) if test is None else len(test)) for part in dealt[0]
    )
