"""From the name of a data set to the cohort of a task: read, checked and selected before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

import evalfm
from evalfm.cards import validate
from evalfm.data.manifest import Manifest, read_data
from evalfm.data.phantom import BUILT_IN, Dials, make_phantom
from evalfm.data.registered import cache_folder, registered
from evalfm.errors import EvalfmError
from evalfm.probing.splits import limited
from evalfm.progress import Progress
from evalfm.run import Run
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from evalfm.tasks.task import SHIPPED, TaskCard
from evalfm.tasks.truth import masks_of

PHANTOM = "phantom"
PHANTOM_SIZE = 256


def built_in_phantom(name: str, progress: Progress) -> Manifest:
    """The phantom ``name`` of ``BUILT_IN``: made once, then read from the cache."""
    images, dials = BUILT_IN[name]
    # Another version may draw or split it otherwise.
    folder = cache_folder() / f"{name}-{images}-{PHANTOM_SIZE}-{evalfm.__version__}"
    if not (folder / "dataset.yaml").is_file():
        try:
            make_phantom(folder, n=images, size=PHANTOM_SIZE, dials=Dials(**dials), name=name, progress=progress)
        except (EvalfmError, OSError):
            # Of several processes the first to finish made it: the same numbers give the same bytes.
            if not (folder / "dataset.yaml").is_file():
                raise
    return Manifest.read(folder)


def load_manifest(data: str | Path | Manifest | None, task: str, progress: Progress) -> Manifest:
    """The manifest of a folder, a registered name, a built-in phantom, or the task's registered set; else the phantom.

    Raises:
        EvalfmError: there is no such data set, or it has faults.
    """
    if isinstance(data, Manifest):
        return data
    name = str(data) if data is not None else (task if task in registered() else PHANTOM)
    if name in BUILT_IN and name not in registered():
        return built_in_phantom(name, progress)
    return read_data(name)


def load_cohort(task: str, options: SplitOptions, data: str | Path | Manifest | None, progress: Progress) -> Cohort:
    """The cohort of ``task`` in ``data``, after every fault of the data has been looked for.

    Raises:
        EvalfmError: the data have faults, or no image is left.
    """
    manifest = load_manifest(data, task, progress)
    if not len(manifest):
        raise EvalfmError(f"Data set {manifest.info.name} has no rows; import it again or check the file.")
    card = resolve_task(task, manifest)
    manifest.validate(deep=True, findings=masks_of(card, manifest), progress=progress)
    return limited(select_cohort(card, manifest, options.where), options.limit)


def matching_test(train: Cohort, test: Cohort) -> Cohort:
    """The cohort of separate test data, once it shares no image and its classes are those of ``train``.

    Raises:
        EvalfmError: the same bytes stand in both, or ``with_classes_of`` refuses.
    """
    seen = _digests(train)
    shared = sum(digest in seen for digest in _digests(test))
    if shared:
        raise EvalfmError(
            f"{shared} image(s) of the test data {test.manifest.info.name} are also in {train.manifest.info.name}; "
            "take them out of one of the two."
        )
    return with_classes_of(train, test)


def with_classes_of(train: Cohort, test: Cohort) -> Cohort:
    """``test`` with its classes numbered as ``train`` numbers them.

    Each data set numbers the levels that it has: where the test data lack a class, the others would stand one lower.

    Raises:
        EvalfmError: the test data have another kind of label, or a class that cannot be learned.
    """
    data = (test.manifest.info.name, train.manifest.info.name)
    if test.task.kind != train.task.kind:
        raise EvalfmError(
            f"{train.task.name} is {test.task.kind} on the test data {data[0]} and {train.task.kind} on {data[1]}; "
            "write a task card that says its kind."
        )
    names = train.class_names
    if test.class_names == names:
        return test
    (target, *_) = train.task.target
    numbered = any(name.removeprefix(f"{target}_").isdecimal() for name in (*test.class_names, *names))
    if train.kind.one_label and target in (*test.class_names, *names) and not numbered:
        # 0 and 1 in one of them, words in the other.
        return replace(test, class_names=names)
    if not test.kind.exclusive or not set(test.class_names) <= set(names):
        raise EvalfmError(
            f"The test data {data[0]} hold {', '.join(test.class_names)} and {data[1]} {', '.join(names)}; give both "
            "the same levels."
        )
    number = np.array([names.index(name) for name in test.class_names], dtype=np.float64)
    return replace(test, target=number[test.target.astype(np.intp)], class_names=names)


def _digests(cohort: Cohort) -> set[str]:
    return set(cohort.manifest.digests(cohort.rows.tolist()).tolist())


def task_of(run: Run) -> TaskCard:
    """The task of a finished run, as its record says.

    Its metrics are not looked up: another package may have brought them, which need not be installed.

    Raises:
        EvalfmError: the record holds no valid card.
    """
    return validate(TaskCard, run.record.task.as_written(), f"The task of {run.folder}", SHIPPED)
