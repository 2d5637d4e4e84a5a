"""Which images of a cohort are trained on, chosen on and tested."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.config import STRONGEST_ASSOCIATION, Association, SplitOptions
from evalfm.data import splits as by_patient
from evalfm.data.assign_splits import split_units
from evalfm.errors import EvalfmError
from evalfm.statistics.classification import base_classes
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.truth import binary_label

CURVE = (0.0, 0.25, 0.5, 0.75, STRONGEST_ASSOCIATION)
"""Strengths of a whole shortcut curve; the number of images is one that every one of them allows."""
ASSOCIATED_KINDS = ("binary", "segmentation")


@dataclass(frozen=True)
class Split:
    """One training with its val and test images, as positions into a cohort's rows.

    Attributes:
        fold: which fold it is, or None where there is one split.
        cautions: what must be said of how it was made.
    """

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    fold: int | None = None
    cautions: tuple[Caution, ...] = ()


def make_splits(cohort: Cohort, options: SplitOptions, split_seed: int = 0, subset_seed: int = 0) -> list[Split]:
    """Split the rows of ``cohort``: one split, or one per fold.

    ``split_seed`` decides folds; ``subset_seed`` only which training images a small subset takes.

    Raises:
        EvalfmError: train, val or test is empty, train or val holds one class only, there are fewer images than
            shots, or an association cannot be made.
    """
    patients = _units(cohort, options)
    if options.folds:
        splits = _by_folds(cohort, patients, options.folds, split_seed)
    else:
        splits = [_by_split(cohort, patients, options)]
    if options.base_to_novel:
        base = base_classes(len(cohort.class_names))
        splits = [_on_base(split, cohort, base) for split in splits]
    if options.associate:
        tie = Association.parse(options.associate)
        splits = [associated(split, cohort, tie, subset_seed) for split in splits]
    return [_learnable(_few(split, cohort, patients, options, subset_seed), cohort) for split in splits]


def _units(cohort: Cohort, options: SplitOptions) -> NDArray[np.object_]:
    """What stays together in each row: the patient, and whoever has the same image where anything is drawn here."""
    if options.folds or options.test_where or options.shots or options.label_fraction:
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
        raise EvalfmError(f"{folds} folds need at least {folds} patients; take fewer folds.")
    labels = _strata(cohort)
    assigned = by_patient.folds(patients, folds, seed, labels=labels)
    made = []
    for fold in range(folds):
        names = by_patient.fold_split(assigned, fold, patients, seed, labels=labels)
        train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
        made.append(Split(train, val, test, fold))
    return made


def _strata(cohort: Cohort) -> NDArray[np.intp] | None:
    """The class [N] of each image whose share every fold shall have; None where there is none."""
    if cohort.task.kind in ("multiclass", "ordinal"):
        return cohort.target.astype(np.intp)
    return cohort.positive.astype(np.intp) if cohort.positive.any() else None


def _by_split(cohort: Cohort, patients: NDArray[np.object_], options: SplitOptions) -> Split:
    if options.test_where:
        moved = cohort.manifest.where(options.test_where)[cohort.rows]
        names = by_patient.test_where(patients, moved, seed=0)
    else:
        names = _split_names(cohort)
    train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
    return Split(train, val, test)


def _split_names(cohort: Cohort) -> NDArray[np.object_]:
    if "split" not in cohort.manifest.table.columns:
        raise EvalfmError(
            f"Data set {cohort.manifest.info.name} has no split; run `evalfm data split` on it, or take --folds 5."
        )
    return cohort.manifest.table["split"].to_numpy(dtype=object)[cohort.rows]


def _few(split: Split, cohort: Cohort, patients: NDArray[np.object_], options: SplitOptions, seed: int) -> Split:
    """Keep few training images; val and test stay whole."""
    inside = patients[split.train]
    if options.shots:
        if cohort.task.kind in ("binary", "multiclass", "ordinal"):
            labels = cohort.target[split.train].astype(np.intp)
        elif cohort.task.kind == "segmentation":
            labels = cohort.positive[split.train].astype(np.intp)
        else:
            raise EvalfmError(
                f"--shots counts images per class, which {cohort.task.kind} has not; take --label-fraction."
            )
        few = replace(split, train=split.train[by_patient.nested_shots(labels, inside, options.shots, seed)])
        return few if options.val_shots is None else _few_val(few, cohort, patients, options, seed)
    if options.label_fraction:
        return replace(split, train=split.train[by_patient.label_fraction(inside, options.label_fraction, seed)])
    return split


def _on_base(split: Split, cohort: Cohort, base: int) -> Split:
    """Train and val reduced to images of the first ``base`` classes; test stays whole."""
    learned = cohort.target < base
    return replace(split, train=split.train[learned[split.train]], val=split.val[learned[split.val]])


def _few_val(split: Split, cohort: Cohort, patients: NDArray[np.object_], options: SplitOptions, seed: int) -> Split:
    """Keep as many val images of each class as there are shots, at most ``val_shots``, or all where there are fewer.

    So do the papers' own programs (Dassl): a class with three images gives these three.
    """
    assert options.shots is not None
    assert options.val_shots is not None
    labels = (cohort.positive if cohort.task.kind == "segmentation" else cohort.target)[split.val].astype(np.intp)
    number = min(options.shots, options.val_shots)
    kept = by_patient.nested_shots(labels, patients[split.val], number, seed, fewer=True)
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
            f"{cohort.manifest.info.name} has no val split, on which heads choose; draw it by patient from train: "
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


def associated(split: Split, cohort: Cohort, association: Association, seed: int) -> Split:
    """``split`` with train and val reduced to the strength of ``association``, and test to groups of one size.

    A group is one value of label and attribute (0 or 1). Train and val hold the most images that every strength of
    ``CURVE`` allows, the same number at each; the images of a group are drawn in a fixed order, so that those of one
    strength are nested in those of the next. Test is the same for every strength and seed.

    Raises:
        EvalfmError: the task has no label of yes and no, the attribute is no such column, or a group is empty.
    """
    if cohort.task.kind not in ASSOCIATED_KINDS:
        raise EvalfmError(f"--associate needs a yes-or-no label; {cohort.task.name} is {cohort.task.kind}.")
    attribute, _ = binary_label(cohort.manifest, association.attribute, cohort.rows)
    label = cohort.positive.astype(np.float64)
    where = "" if split.fold is None else f" of fold {split.fold + 1}"

    def groups_of(positions: NDArray[np.intp], name: str, seed: int) -> dict[tuple[int, int], NDArray[np.intp]]:
        order = _order(cohort, positions, seed)
        groups = {(y, a): order[(label[order] == y) & (attribute[order] == a)] for y in (0, 1) for a in (0, 1)}
        for (y, a), inside in groups.items():
            if not len(inside):
                raise EvalfmError(
                    f"In {name}{where} no image has label {y} and {association.attribute} {a}, so the two cannot be "
                    "made independent; take more data or another attribute."
                )
        return groups

    by_split = []
    chosen = {}
    for name in ("train", "val"):
        chosen[name], sentence = _tied(groups_of(getattr(split, name), name, seed), association.strength)
        by_split.append(f"{name} {sentence}")
    every = groups_of(split.test, "test", 0)
    most = min(map(len, every.values()))
    words = f"Association of label and {association.attribute}: {'; '.join(by_split)}; test 4 × {most} images, phi 0."
    cautions = (*split.cautions, Caution("association", words))
    test = np.sort(np.concatenate([inside[:most] for inside in every.values()]))
    return replace(split, train=chosen["train"], val=chosen["val"], test=test, cautions=cautions)


def _tied(groups: dict[tuple[int, int], NDArray[np.intp]], strength: float) -> tuple[NDArray[np.intp], str]:
    """The images of the four groups at one strength, with their number and the phi that came of rounding, in words."""
    aligned = min(len(groups[0, 0]), len(groups[1, 1]))
    conflicting = min(len(groups[0, 1]), len(groups[1, 0]))
    # Of each label, so that every strength from 0 to the strongest fits; even, so that 0 is met exactly.
    half = 2 * (min(2 * conflicting, int(2 * aligned / (1 + STRONGEST_ASSOCIATION))) // 2)
    if not half:
        raise EvalfmError("There is too little data to tie label and attribute at every strength; take more.")
    same = round(half * (1 + strength) / 2)
    taken = {(y, a): inside[: same if y == a else half - same] for (y, a), inside in groups.items()}
    phi = (2 * same - half) / half
    return np.sort(np.concatenate(list(taken.values()))), f"{2 * half} images, phi {phi:.2f}"


def _order(cohort: Cohort, positions: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """``positions`` in an order that a seed and the images' ids decide."""
    ids = cohort.manifest.table["id"].to_numpy(dtype=object)[cohort.rows[positions]]
    drawn = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in ids]
    return positions[np.argsort(drawn, kind="stable")]
