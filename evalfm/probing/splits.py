"""Which images of a question are trained on, chosen on and tested."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.data import splits
from evalfm.data.assign_splits import split_units
from evalfm.errors import EvalfmError
from evalfm.probing.associating import Association, associated
from evalfm.probing.settings import Settings
from evalfm.statistics.classification import base_classes
from evalfm.tasks.cohort import Cohort


@dataclass(frozen=True)
class Split:
    """One training with its val and test images, as positions into a question's rows.

    Attributes:
        fold: which fold it is, or None where there is one split.
        cautions: what must be said of how it was dealt.
    """

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    fold: int | None = None
    cautions: tuple[Caution, ...] = ()


def make_splits(cohort: Cohort, settings: Settings, split_seed: int = 0, subset_seed: int = 0) -> list[Split]:
    """Deal the rows of ``cohort``: one part, or one per fold.

    ``split_seed`` decides folds; ``subset_seed`` only which training images a small subset takes.

    Raises:
        EvalfmError: train, val or test is empty, train or val holds one class only, there are fewer images than
            shots, or an association cannot be made.
    """
    patients = _units(cohort, settings)
    if settings.folds:
        dealt = _by_folds(cohort, patients, settings.folds, split_seed)
    else:
        dealt = [_by_split(cohort, patients, settings)]
    if settings.base_to_novel:
        base = base_classes(len(cohort.class_names))
        dealt = [_on_base(split, cohort, base) for split in dealt]
    if settings.associate:
        tie = Association.parse(settings.associate)
        dealt = [associated(split, cohort, tie, subset_seed) for split in dealt]
    return [_learnable(_few(split, cohort, patients, settings, subset_seed), cohort) for split in dealt]


def _units(cohort: Cohort, settings: Settings) -> NDArray[np.object_]:
    """What stays together in each row: the patient, and whoever has the same image where anything is drawn here."""
    if settings.folds or settings.test_where or settings.shots or settings.label_fraction:
        return split_units(cohort.manifest, cohort.rows)
    return cohort.manifest.patients[cohort.rows]


def limited(cohort: Cohort, limit: int | None) -> Cohort:
    """At most ``limit`` images, in each split and class in proportion, always the same ones."""
    if limit is None or limit >= len(cohort):
        return cohort
    order = np.argsort([hashlib.sha256(str(name).encode()).hexdigest() for name in _ids(cohort)], kind="stable")
    split = _split_names(cohort)
    strata = np.array([f"{name}/{positive}" for name, positive in zip(split, cohort.positive, strict=True)])
    names, counts = np.unique(strata, return_counts=True)
    share = counts * limit / len(cohort)
    take = np.floor(share).astype(int)
    for index in np.argsort(take - share, kind="stable")[: limit - int(take.sum())]:
        take[index] += 1
    chosen = np.zeros(len(cohort), dtype=bool)
    for name, number in zip(names, take, strict=True):
        chosen[order[strata[order] == name][:number]] = True
    return cohort.keep(chosen, f"beyond --limit {limit}")


def _by_folds(cohort: Cohort, patients: NDArray[np.object_], folds: int, seed: int) -> list[Split]:
    if len(set(patients.tolist())) < folds:
        raise EvalfmError(f"{folds} folds need at least {folds} patients; ask fewer folds.")
    labels = _strata(cohort)
    assigned = splits.folds(patients, folds, seed, labels=labels)
    dealt = []
    for fold in range(folds):
        names = splits.fold_split(assigned, fold, patients, seed, labels=labels)
        train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
        dealt.append(Split(train, val, test, fold))
    return dealt


def _strata(cohort: Cohort) -> NDArray[np.intp] | None:
    """The class [N] of each image whose share every fold shall have; None where there is none."""
    if cohort.task.kind in ("multiclass", "ordinal"):
        return cohort.target.astype(np.intp)
    return cohort.positive.astype(np.intp) if cohort.positive.any() else None


def _by_split(cohort: Cohort, patients: NDArray[np.object_], settings: Settings) -> Split:
    if settings.test_where:
        moved = cohort.manifest.where(settings.test_where)[cohort.rows]
        names = splits.test_where(patients, moved, seed=0)
    else:
        names = _split_names(cohort)
    train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
    return Split(train, val, test)


def _split_names(cohort: Cohort) -> NDArray[np.object_]:
    if "split" not in cohort.manifest.table.columns:
        raise EvalfmError(
            f"Data set {cohort.manifest.info.name} has no split; run `evalfm data split` on it, or ask --folds 5."
        )
    return cohort.manifest.table["split"].to_numpy(dtype=object)[cohort.rows]


def _few(split: Split, cohort: Cohort, patients: NDArray[np.object_], settings: Settings, seed: int) -> Split:
    """Keep few training images; val and test stay whole."""
    inside = patients[split.train]
    if settings.shots:
        if cohort.task.kind in ("binary", "multiclass", "ordinal"):
            labels = cohort.target[split.train].astype(np.intp)
        elif cohort.task.kind == "segmentation":
            labels = cohort.positive[split.train].astype(np.intp)
        else:
            raise EvalfmError(
                f"--shots counts images per class, which {cohort.task.kind} has not; ask --label-fraction."
            )
        few = replace(split, train=split.train[splits.nested_shots(labels, inside, settings.shots, seed)])
        return few if settings.val_shots is None else _few_val(few, cohort, patients, settings, seed)
    if settings.label_fraction:
        return replace(split, train=split.train[splits.label_fraction(inside, settings.label_fraction, seed)])
    return split


def _on_base(split: Split, cohort: Cohort, base: int) -> Split:
    """Train and val cut down to images of the first ``base`` classes; test stays whole."""
    learnt = cohort.target < base
    return replace(split, train=split.train[learnt[split.train]], val=split.val[learnt[split.val]])


def _few_val(split: Split, cohort: Cohort, patients: NDArray[np.object_], settings: Settings, seed: int) -> Split:
    """Keep as many val images of each class as there are shots, at most ``val_shots``, or all where there are fewer.

    So do the papers' own programs (Dassl): a class with three images gives these three.
    """
    assert settings.shots is not None
    assert settings.val_shots is not None
    labels = (cohort.positive if cohort.task.kind == "segmentation" else cohort.target)[split.val].astype(np.intp)
    number = min(settings.shots, settings.val_shots)
    kept = splits.nested_shots(labels, patients[split.val], number, seed, fewer=True)
    exclusive = cohort.task.kind in ("multiclass", "ordinal")
    scarce = [
        f"{count} of {cohort.class_names[label] if exclusive else f'{cohort.class_names[0]} = {label}'}"
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
        if count < number
    ]
    words = f"Val has fewer than {number} images of a class, and all of these were taken: {', '.join(scarce)}."
    return replace(
        split, val=split.val[kept], cautions=(*split.cautions, *([Caution("scarce-val", words)] if scarce else []))
    )


def _learnable(split: Split, cohort: Cohort) -> Split:
    """Refuse before any computing what no head could learn from, or choose on."""
    where = "" if split.fold is None else f" of fold {split.fold + 1}"
    if not len(split.val) and len(split.train) and split.fold is None and _has_no_val(cohort):
        raise EvalfmError(
            f"{cohort.manifest.info.name} has no val part, on which heads choose; draw it by patient from train: "
            f"`evalfm data split {cohort.manifest.folder} --val-from-train`."
        )
    for name in ("train", "val", "test"):
        if not len(getattr(split, name)):
            raise EvalfmError(f"No image is left in {name}{where}; take more data, another split or fewer conditions.")
    remedy = "take another split (`evalfm data split --stratify`), more data or fewer folds"
    several = cohort.task.kind == "multilabel"
    if several and len(unlearnable(cohort, split)) == len(cohort.task.target):
        raise EvalfmError(f"No label has both classes in train and in val{where}; {remedy}.")
    for name in ("train", "val"):
        inside = getattr(split, name)
        for label, values in _classes(cohort).items():
            if not several and not _has_two_classes(values[inside]):
                raise EvalfmError(f"In {name}{where} {label!r} has one class only; {remedy}.")
        if cohort.task.kind == "segmentation" and not cohort.positive[inside].any():
            findings = ", ".join(cohort.task.target)
            raise EvalfmError(f"In {name}{where} no image has a mask of {findings} that holds anything; {remedy}.")
    return split


def _has_no_val(cohort: Cohort) -> bool:
    table = cohort.manifest.table
    return "split" in table and "train" in set(table["split"]) and "val" not in set(table["split"])


def unlearnable(cohort: Cohort, split: Split) -> tuple[str, ...]:
    """Labels of a multilabel task that show one class only in train or in val of ``split``; none for other kinds."""
    if cohort.task.kind != "multilabel":
        return ()
    return tuple(
        label
        for label, values in _classes(cohort).items()
        if not all(_has_two_classes(values[getattr(split, name)]) for name in ("train", "val"))
    )


def _has_two_classes(values: NDArray[np.float64]) -> bool:
    return len(np.unique(values[~np.isnan(values)])) > 1


def _classes(cohort: Cohort) -> dict[str, NDArray[np.float64]]:
    """Per label the class [N] of each image, where the task has classes."""
    if cohort.task.kind == "multilabel":
        return {name: cohort.target[:, index] for index, name in enumerate(cohort.task.target)}
    if cohort.task.kind in ("binary", "multiclass", "ordinal"):
        return {cohort.task.target[0]: cohort.target}
    return {}


def _ids(cohort: Cohort) -> list[str]:
    return [str(name) for name in cohort.manifest.table["id"].to_numpy()[cohort.rows]]
