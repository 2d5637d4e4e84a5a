"""The cohort of every task of a study before anything runs: how many images it has, and every fault at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evalfm.cards import checked
from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.probing.cohort import load_manifest, matching_test
from evalfm.probing.splits import limited, make_splits
from evalfm.probing.splits.episodes import classes_of
from evalfm.progress import SILENT, Progress
from evalfm.split_options import QUERIES, DataOptions, SplitOptions, SubsetOptions
from evalfm.statistics.classification import FEWEST_TO_HALVE
from evalfm.study.config import AbsentDataError, Study, TaskEntry
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.task import TaskCard, load_task
from evalfm.tasks.truth import masks_of

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
class TaskCohort:
    """A task of the study with its images.

    Attributes:
        card: the task. data: the data set's name as the study has it.
        sizes: per subset one entry for each fold, or one alone.
        manifest, rows: whose rows are used, of all subsets; None where the number of images is assumed.
        classes: scores or mask channels of a prediction.
    """

    card: TaskCard
    data: str
    sizes: dict[SubsetOptions, tuple[Sizes, ...]]
    manifest: Manifest | None = None
    rows: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    classes: int = 1

    def sizes_of(self, cell: ProbeConfig) -> tuple[Sizes, ...]:
        """The splits of ``cell``; fewer episodes than the study's are as large as they."""
        of_cell = cell.subset.model_dump(exclude={"episodes"})
        return next(sizes for subset, sizes in self.sizes.items() if subset.model_dump(exclude={"episodes"}) == of_cell)


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
                manifest = load_manifest(name, "", self._progress)
            except UnknownNameError:
                raise AbsentDataError(name) from None
            if not len(manifest):
                raise EvalfmError(f"Data set {name} has no rows; import it again or check the file.")
            # Masks are read by the tasks that need them.
            manifest.validate(deep=True, findings=(), progress=self._progress)
            self._read[name] = manifest
        return self._read[name]


TaskCohorts = dict[tuple[str, str], TaskCohort]
"""By the name of the task and of its data."""


def select_cohorts(study: Study, manifests: Manifests) -> tuple[TaskCohorts, list[str]]:
    """Every task of ``study`` with its images; beside them one sentence a fault."""
    cohorts: TaskCohorts = {}
    faults: list[str] = []
    for entry in study.tasks:
        try:
            cohorts[entry.name, study.data_of(entry)[0]] = _select(study, entry, manifests)
        except _SubsetFaults as error:
            faults += error.sentences
        except EvalfmError as error:
            # What is not there is one fault, however many tasks use it.
            alone = isinstance(error, AbsentDataError | UnknownNameError)
            faults.append(str(error) if alone else f"{entry.name}: {error}")
    return cohorts, list(dict.fromkeys(faults))


def assume_all(study: Study, images: int) -> tuple[TaskCohorts, list[str]]:
    """Every task of ``study`` as if it had ``images`` images, split as by default; beside them the faults."""
    cohorts: TaskCohorts = {}
    faults: list[str] = []
    for entry in study.tasks:
        try:
            card = load_task(entry.name)
        except EvalfmError as error:
            faults.append(str(error))
            continue
        sizes = {
            subset: _assumed(images, subset, study, entry)
            for subset in study.subsets_of(entry)
            if not unserved(subset, card)
        }
        data = study.data_of(entry)[0]
        # How many classes one column holds only the data tell; there are two at least.
        classes = MIN_CLASSES if kind_of(card.kind).exclusive else len(card.target)
        cohorts[entry.name, data] = TaskCohort(card, data, sizes, classes=classes)
    return cohorts, list(dict.fromkeys(faults))


def _assumed(images: int, subset: SubsetOptions, study: Study, entry: TaskEntry) -> tuple[Sizes, ...]:
    folds, shots, fraction = study.images_of(entry)["folds"], subset.shots, subset.label_fraction
    if subset.episodes and shots:
        return (_episode(shots, study.queries, MIN_CLASSES),)
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


def _episode(shots: int, queries: int | None, classes: int) -> Sizes:
    """Of one episode, whose support is its val too."""
    return Sizes(shots * classes, shots * classes, (queries or QUERIES) * classes)


def unserved(subset: SubsetOptions, card: TaskCard) -> str | None:
    """Why a task cannot be learnt from ``subset``, or None."""
    kind = kind_of(card.kind)
    if subset.base_to_novel and not kind.exclusive:
        return f"{kind} has no classes to halve"
    if subset.episodes and not kind.one_class:
        return f"an image of a {kind} task is of no one class"
    if subset.shots is not None and not kind.has_shots:
        return f"shots count images per class, which {kind} has not; label_fractions serve it"
    return None


class _SubsetFaults(Exception):
    """What hinders a task on some of its subsets, one sentence each."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences


def _select(study: Study, entry: TaskEntry, manifests: Manifests) -> TaskCohort:
    chosen = study.images_of(entry)
    data, limit = chosen["data"], chosen["limit"]
    manifest = manifests.get(data)
    card = resolve_task(entry.name, manifest)
    manifest.validate(deep=True, findings=masks_of(card, manifest))
    cohort = limited(select_cohort(card, manifest, study.where), limit)
    test = None
    if study.test_data is not None:
        outside = manifests.get(study.test_data)
        outside.validate(deep=True, findings=masks_of(card, outside))
        test = matching_test(cohort, limited(select_cohort(card, outside, study.where), limit))
    sizes: dict[SubsetOptions, tuple[Sizes, ...]] = {}
    used: list[NDArray[np.intp]] = []
    faults: list[str] = []
    for subset in study.subsets_of(entry):
        if unserved(subset, card) or (subset.base_to_novel and len(cohort.class_names) < FEWEST_TO_HALVE):
            continue
        try:
            sizes[subset] = _sizes(study, entry, cohort, test, subset, used)
        except EvalfmError as error:
            where = "" if subset == SubsetOptions() else f" ({subset.label})"
            faults.append(f"{entry.name}{where}: {error}")
    if faults:
        raise _SubsetFaults(faults)
    rows = cohort.rows[np.unique(np.concatenate(used))] if used else np.empty(0, dtype=np.intp)
    return TaskCohort(card, data, sizes, manifest, rows, len(cohort.class_names))


def idle_without_shots(study: Study, subset: SubsetOptions) -> dict[str, int | None]:
    """The options of ``study`` that go with shots or with episodes, None where the subset has none."""
    return {
        "val_shots": study.val_shots if subset.shots is not None else None,
        "queries": study.queries if subset.episodes is not None else None,
    }


def _sizes(
    study: Study,
    entry: TaskEntry,
    cohort: Cohort,
    test: Cohort | None,
    subset: SubsetOptions,
    used: list[NDArray[np.intp]],
) -> tuple[Sizes, ...]:
    """The sizes of the first seed's splits, once every seed has its own; their positions are added to ``used``."""
    content = {name: getattr(study, name) for name in DataOptions.model_fields} | subset.model_dump()
    content |= study.images_of(entry) | idle_without_shots(study, subset)
    options = checked(SplitOptions, content)
    by_seed = [make_splits(cohort, options, subset_seed=seed) for seed in range(study.seeds)]
    for split in (split for splits in by_seed for split in splits):
        used.append(split.used)
    if subset.episodes and subset.shots:
        return (_episode(subset.shots, study.queries, len(classes_of(cohort))),)
    return tuple(
        Sizes(len(split.train), len(split.val), len(split.test) if test is None else len(test)) for split in by_seed[0]
    )
