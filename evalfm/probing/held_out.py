"""Which images of a data set a finished run has neither learned from nor chosen on, strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalfm.data.dataset_info import DATASET_FILE, read_dataset_info
from evalfm.data.manifest import Manifest
from evalfm.data.overlap import find_overlap
from evalfm.data.registered import registered
from evalfm.errors import EvalfmError
from evalfm.probing.cohort import load_manifest, task_of
from evalfm.probing.labelled import data_key
from evalfm.probing.recording import lineage, same_name
from evalfm.probing.splits import Split, limited, make_splits
from evalfm.progress import Progress
from evalfm.run import Run
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort, Exclusion, select_cohort
from evalfm.tasks.task import TaskCard

KEY = 64
"""Hex digits of the key of one data set in ``split_hash``; that of separate test data stands behind."""


@dataclass(frozen=True)
class HeldOutImages:
    """Images that a run has not seen.

    Attributes:
        cohort: of the run's task in the data set.
        groups: positions into ``cohort.rows``, each with the fold whose head has not seen them; None where one head,
            or every head, has not.
        left_out: why the other images are not there.
    """

    cohort: Cohort
    groups: tuple[tuple[int | None, NDArray[np.intp]], ...]
    left_out: tuple[Exclusion, ...]


def held_out_images(
    run: Run, manifest: Manifest, trained_on: str | Path | Manifest | None, progress: Progress
) -> HeldOutImages:
    """The images of ``manifest`` that ``run`` has not seen.

    Of the data that the run was made from those are its test images, fold by fold where it has folds; its separate test
    data are unseen whole. Any other data set leaves out what it shares with the run's train and val: the same bytes,
    and where one set is made of the other, near copies and images of the same patients (these among phantoms too).
    Which data are the run's is decided by the hash of ids, bytes, truth and split that the run holds, not by a name.

    Raises:
        EvalfmError: it is another data set, and the run's own is not at hand to compare with, or nothing is left.
    """
    options = run.record.config
    task = task_of(run)
    cohort = select_cohort(task, manifest, options.where)
    limited_cohort = limited(cohort, options.limit)
    splits = _splits_of(run, limited_cohort, options)
    if splits is not None:
        groups = tuple((split.fold, split.test) for split in splits)
        tested = sum(len(split.test) for split in splits)
        return HeldOutImages(
            limited_cohort,
            groups,
            _counted(limited_cohort, ("in the run's train or val, or unused", len(limited_cohort) - tested)),
        )
    if run.record.provenance.split_hash[KEY:] == data_key(limited_cohort, [("test", np.arange(len(limited_cohort)))]):
        return HeldOutImages(limited_cohort, ((None, np.arange(len(limited_cohort))),), limited_cohort.exclusions)
    seen, rows = _training(run, options, task, manifest, trained_on, progress)
    shared, reasons = _shared(cohort, seen, rows, progress)
    keep = np.flatnonzero(~shared)
    if not len(keep):
        raise EvalfmError(
            f"The run was trained or chosen on every image of {manifest.info.name} that its task selects; "
            "name other data."
        )
    return HeldOutImages(cohort, ((None, keep),), _counted(cohort, *reasons))


def own_data(run: Run, progress: Progress) -> Manifest:
    """The data set that ``run`` names; whether it is the run's own, ``held_out_images`` sees.

    Raises:
        EvalfmError: it is not registered here.
    """
    name = run.record.data.name
    candidates: list[str | Path] = [name, *_registered_as(name)]
    for candidate in candidates:
        try:
            return load_manifest(candidate, run.task, progress)
        except EvalfmError:
            continue
    raise EvalfmError(f"The data of {run.folder}, {name}, are not registered here; name their folder with --data.")


def _splits_of(run: Run, cohort: Cohort, options: SplitOptions) -> list[Split] | None:
    """The splits of ``cohort`` where it is the one that ``run`` learned from; else None."""
    try:
        splits = make_splits(cohort, options, subset_seed=run.record.config.seed)
    except EvalfmError:
        return None
    named = [each for split in splits for each in split.named]
    return splits if data_key(cohort, named) == run.record.provenance.split_hash[:KEY] else None


def _training(
    run: Run,
    options: SplitOptions,
    task: TaskCard,
    manifest: Manifest,
    trained_on: str | Path | Manifest | None,
    progress: Progress,
) -> tuple[Cohort, NDArray[np.intp]]:
    """The cohort that the run learned from, and the manifest's rows of its train and val."""
    name = run.record.data.name
    why = ""
    candidates: list[str | Path | Manifest] = [name, *_registered_as(name)]
    for candidate in candidates if trained_on is None else [trained_on]:
        try:
            own = load_manifest(candidate, task.name, progress)
            cohort = limited(select_cohort(task, own, options.where), options.limit)
        except EvalfmError as error:
            if trained_on is not None:
                raise
            why = why or f" ({error})"
            continue
        splits = _splits_of(run, cohort, options)
        if splits is not None:
            used = np.unique(np.concatenate([np.concatenate([split.train, split.val]) for split in splits]))
            return cohort, cohort.rows[used]
        why = f"; {own.info.name}{'' if trained_on is None else ' of --trained-on'} is not it either"
    raise EvalfmError(
        f"{manifest.info.name} is not what this run was made from (ids, images, truth or split differ). Name the run's "
        f"own data, {name}, with --trained-on DIR, so that no image it has seen is used{why}."
    )


def _registered_as(name: str) -> list[Path]:
    """Folders of registered data sets that call themselves ``name``, whatever they are registered as."""
    folders = []
    for folder in registered().values():
        try:
            if read_dataset_info(folder / DATASET_FILE).name == name:
                folders.append(folder)
        except EvalfmError:
            # A data set that is gone or damaged is not it.
            continue
    return folders


def _shared(
    cohort: Cohort, seen: Cohort, rows: NDArray[np.intp], progress: Progress
) -> tuple[NDArray[np.bool_], list[tuple[str, int]]]:
    """Which images of ``cohort`` the run has seen [N], and how many by each reason."""
    here, there = cohort.manifest, seen.manifest.select(rows)
    bytes_seen = set(there.digests(progress=progress).tolist())
    same = np.isin(here.digests(cohort.rows.tolist(), progress=progress), list(bytes_seen))
    reasons = [("of the run's train or val", int(same.sum()))]
    akin = any(same_name(one, other) for one in lineage(here) for other in lineage(there))
    selected, gone = here.select(cohort.rows), same
    if akin:
        copies = np.zeros(len(cohort), dtype=bool)
        copies[[pair.one for pair in find_overlap(selected, there, progress).pairs]] = True
        reasons.append(("near copies of images of the run's train or val", int((copies & ~gone).sum())))
        gone = gone | copies
    if akin or (here.info.synthetic and there.info.synthetic):
        patients = np.isin(selected.patients.astype(str), there.patients.astype(str))
        reasons.append(("of patients of the run's train or val", int((patients & ~gone).sum())))
        gone = gone | patients
    return gone, reasons


def _counted(cohort: Cohort, *more: tuple[str, int]) -> tuple[Exclusion, ...]:
    return (*cohort.exclusions, *(Exclusion(reason, images) for reason, images in more if images))
