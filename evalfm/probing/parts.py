"""Which images of a question are trained on, chosen on and tested."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evalfm.data import splits
from evalfm.data.dealing import split_units
from evalfm.errors import EvalfmError
from evalfm.probing.associating import Association, associated
from evalfm.probing.settings import Settings
from evalfm.statistics.classification import base_classes
from evalfm.tasks.question import Question


@dataclass(frozen=True)
class Part:
    """One training with its val and test images, as positions into a question's rows.

    Attributes:
        fold: which fold it is, or None where there is one split.
        notes: what must be said of how it was dealt.
    """

    train: NDArray[np.intp]
    val: NDArray[np.intp]
    test: NDArray[np.intp]
    fold: int | None = None
    notes: tuple[str, ...] = ()


def parts(question: Question, settings: Settings, split_seed: int = 0, subset_seed: int = 0) -> list[Part]:
    """Deal the rows of ``question``: one part, or one per fold.

    ``split_seed`` decides folds; ``subset_seed`` only which training images a small subset takes.

    Raises:
        EvalfmError: train, val or test is empty, train or val holds one class only, there are fewer images than
            shots, or an association cannot be made.
    """
    patients = _units(question, settings)
    if settings.folds:
        dealt = _by_folds(question, patients, settings.folds, split_seed)
    else:
        dealt = [_by_split(question, patients, settings)]
    if settings.base_to_novel:
        base = base_classes(len(question.class_names))
        dealt = [_on_base(part, question, base) for part in dealt]
    if settings.associate:
        tie = Association.parse(settings.associate)
        dealt = [associated(part, question, tie, subset_seed) for part in dealt]
    return [_learnable(_few(part, question, patients, settings, subset_seed), question) for part in dealt]


def _units(question: Question, settings: Settings) -> NDArray[np.object_]:
    """What stays together in each row: the patient, and whoever has the same image where anything is drawn here."""
    if settings.folds or settings.test_where or settings.shots or settings.label_fraction:
        return split_units(question.manifest, question.rows)
    return question.manifest.patients[question.rows]


def limited(question: Question, limit: int | None) -> Question:
    """At most ``limit`` images, in each split and class in proportion, always the same ones."""
    if limit is None or limit >= len(question):
        return question
    order = np.argsort([hashlib.sha256(str(name).encode()).hexdigest() for name in _ids(question)], kind="stable")
    split = _split_names(question)
    strata = np.array([f"{name}/{positive}" for name, positive in zip(split, question.positive, strict=True)])
    names, counts = np.unique(strata, return_counts=True)
    share = counts * limit / len(question)
    take = np.floor(share).astype(int)
    for index in np.argsort(take - share, kind="stable")[: limit - int(take.sum())]:
        take[index] += 1
    chosen = np.zeros(len(question), dtype=bool)
    for name, number in zip(names, take, strict=True):
        chosen[order[strata[order] == name][:number]] = True
    return question.keep(chosen, f"beyond --limit {limit}")


def _by_folds(question: Question, patients: NDArray[np.object_], folds: int, seed: int) -> list[Part]:
    if len(set(patients.tolist())) < folds:
        raise EvalfmError(f"{folds} folds need at least {folds} patients; ask fewer folds.")
    labels = _strata(question)
    assigned = splits.folds(patients, folds, seed, labels=labels)
    dealt = []
    for fold in range(folds):
        names = splits.fold_split(assigned, fold, patients, seed, labels=labels)
        train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
        dealt.append(Part(train, val, test, fold))
    return dealt


def _strata(question: Question) -> NDArray[np.intp] | None:
    """The class [N] of each image whose share every fold shall have; None where there is none."""
    if question.task.kind in ("multiclass", "ordinal"):
        return question.target.astype(np.intp)
    return question.positive.astype(np.intp) if question.positive.any() else None


def _by_split(question: Question, patients: NDArray[np.object_], settings: Settings) -> Part:
    if settings.test_where:
        moved = question.manifest.where(settings.test_where)[question.rows]
        names = splits.test_where(patients, moved, seed=0)
    else:
        names = _split_names(question)
    train, val, test = (np.flatnonzero(names == name) for name in ("train", "val", "test"))
    return Part(train, val, test)


def _split_names(question: Question) -> NDArray[np.object_]:
    if "split" not in question.manifest.table.columns:
        raise EvalfmError(
            f"Data set {question.manifest.info.name} has no split; run `evalfm data split` on it, or ask --folds 5."
        )
    return question.manifest.table["split"].to_numpy(dtype=object)[question.rows]


def _few(part: Part, question: Question, patients: NDArray[np.object_], settings: Settings, seed: int) -> Part:
    """Keep few training images; val and test stay whole."""
    inside = patients[part.train]
    if settings.shots:
        if question.task.kind in ("binary", "multiclass", "ordinal"):
            labels = question.target[part.train].astype(np.intp)
        elif question.task.kind == "segmentation":
            labels = question.positive[part.train].astype(np.intp)
        else:
            raise EvalfmError(
                f"--shots counts images per class, which {question.task.kind} has not; ask --label-fraction."
            )
        few = replace(part, train=part.train[splits.nested_shots(labels, inside, settings.shots, seed)])
        return few if settings.val_shots is None else _few_val(few, question, patients, settings, seed)
    if settings.label_fraction:
        return replace(part, train=part.train[splits.label_fraction(inside, settings.label_fraction, seed)])
    return part


def _on_base(part: Part, question: Question, base: int) -> Part:
    """Train and val cut down to images of the first ``base`` classes; test stays whole."""
    learnt = question.target < base
    return replace(part, train=part.train[learnt[part.train]], val=part.val[learnt[part.val]])


def _few_val(part: Part, question: Question, patients: NDArray[np.object_], settings: Settings, seed: int) -> Part:
    """Keep as many val images of each class as there are shots, at most ``val_shots``, or all where there are fewer.

    So do the papers' own programs (Dassl): a class with three images gives these three.
    """
    assert settings.shots is not None
    assert settings.val_shots is not None
    labels = (question.positive if question.task.kind == "segmentation" else question.target)[part.val].astype(np.intp)
    number = min(settings.shots, settings.val_shots)
    kept = splits.nested_shots(labels, patients[part.val], number, seed, fewer=True)
    exclusive = question.task.kind in ("multiclass", "ordinal")
    scarce = [
        f"{count} of {question.class_names[label] if exclusive else f'{question.class_names[0]} = {label}'}"
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
        if count < number
    ]
    told = f"Val has fewer than {number} images of a class, and all of these were taken: {', '.join(scarce)}."
    return replace(part, val=part.val[kept], notes=(*part.notes, *([told] if scarce else [])))


def _learnable(part: Part, question: Question) -> Part:
    """Refuse before any computing what no head could learn from, or choose on."""
    where = "" if part.fold is None else f" of fold {part.fold + 1}"
    if not len(part.val) and len(part.train) and part.fold is None and _has_no_val(question):
        raise EvalfmError(
            f"{question.manifest.info.name} has no val part, on which heads choose; draw it by patient from train: "
            f"`evalfm data split {question.manifest.folder} --val-from-train`."
        )
    for name in ("train", "val", "test"):
        if not len(getattr(part, name)):
            raise EvalfmError(f"No image is left in {name}{where}; take more data, another split or fewer conditions.")
    remedy = "take another split (`evalfm data split --stratify`), more data or fewer folds"
    several = question.task.kind == "multilabel"
    if several and len(unlearnable(question, part)) == len(question.task.target):
        raise EvalfmError(f"No label has both classes in train and in val{where}; {remedy}.")
    for name in ("train", "val"):
        inside = getattr(part, name)
        for label, values in _classes(question).items():
            if not several and not _has_two_classes(values[inside]):
                raise EvalfmError(f"In {name}{where} {label!r} has one class only; {remedy}.")
        if question.task.kind == "segmentation" and not question.positive[inside].any():
            findings = ", ".join(question.task.target)
            raise EvalfmError(f"In {name}{where} no image has a mask of {findings} that holds anything; {remedy}.")
    return part


def _has_no_val(question: Question) -> bool:
    table = question.manifest.table
    return "split" in table and "train" in set(table["split"]) and "val" not in set(table["split"])


def unlearnable(question: Question, part: Part) -> tuple[str, ...]:
    """Labels of a multilabel task that show one class only in train or in val of ``part``; none for other kinds."""
    if question.task.kind != "multilabel":
        return ()
    return tuple(
        label
        for label, values in _classes(question).items()
        if not all(_has_two_classes(values[getattr(part, name)]) for name in ("train", "val"))
    )


def _has_two_classes(values: NDArray[np.float64]) -> bool:
    return len(np.unique(values[~np.isnan(values)])) > 1


def _classes(question: Question) -> dict[str, NDArray[np.float64]]:
    """Per label the class [N] of each image, where the task has classes."""
    if question.task.kind == "multilabel":
        return {name: question.target[:, index] for index, name in enumerate(question.task.target)}
    if question.task.kind in ("binary", "multiclass", "ordinal"):
        return {question.task.target[0]: question.target}
    return {}


def _ids(question: Question) -> list[str]:
    return [str(name) for name in question.manifest.table["id"].to_numpy()[question.rows]]
