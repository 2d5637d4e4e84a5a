"""Scores of one yes-or-no question: of a run, of one label or class of it, or of a table from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import declared
from evalfm.data.columns import read_table
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.runs import Run

QUESTIONS = ("binary", "multilabel", "multiclass", "ordinal")
"""Kinds of task that ask a yes-or-no question, or one per label or class."""


UNKNOWN = ("NA", "N/A", "<NA>", "NaN", "nan", "null", "NULL")
"""What other programs write into a cell that they mean to be empty."""


@dataclass(frozen=True)
class Scores:
    """Scores of one model on test images, with the attributes that may be asked about.

    Attributes:
        name: of the model.
        table: attributes by column, a row per image.
        target, score: [N]; ``threshold`` [N] or None where none was chosen.
        folds: [N], or None where one head gave all scores.
        patient: [N]; ``unit`` says whether these are patients or images.
        cautions: to print with every figure.
    """

    name: str
    table: pd.DataFrame
    target: NDArray[np.float64]
    score: NDArray[np.float64]
    threshold: NDArray[np.float64] | None
    patient: NDArray[np.object_]
    folds: NDArray[np.intp] | None
    unit: str
    cautions: tuple[str, ...]


def asks_questions(run: Run, label: str | None = None) -> bool:
    """Whether a subgroup report is of yes-or-no questions: of masks, values and grades it is of their errors.

    A single grade, ``label``, is a question all the same.
    """
    kind = run.kind
    return kind in QUESTIONS and (kind != "ordinal" or label is not None)


def scores_of_run(run: Run, label: str | None = None, *, model: str | None = None) -> Scores:
    """The test predictions of a run of one yes-or-no question, or of one ``label`` of a run of several.

    A label of a multilabel run is of the images where it is known; a class is asked against all others. ``model`` is
    the run's name, by default encoder, head and adaptation.

    Raises:
        EvalfmError: the run is of another kind, there is no such label, or it has no score.
    """
    kind, names = run.kind, [str(name) for name in run.record.data["class_names"]]
    if kind not in QUESTIONS or (label is None and kind != "binary"):
        raise EvalfmError(f"{run.folder} answers a {kind} task, which has no score of one yes-or-no question.")
    if label is not None and label not in names:
        raise UnknownNameError(f"label in {run.folder}", label, names)
    asked = names[0] if label is None else label
    table = run.predictions()
    table = table[table["split"] == "test"].reset_index(drop=True)
    if kind == "multilabel":
        known = table[f"target_{asked}"].notna() & table[f"score_{asked}"].notna()
        if not known.any():
            raise EvalfmError(
                f"{asked!r} has no score in {run.folder}: one class only in train or val, or never known."
            )
        table = table[known].reset_index(drop=True)
        target = table[f"target_{asked}"].to_numpy(np.float64)
    else:
        target = table["target"].to_numpy(np.float64)
        if kind != "binary":
            target = (target == names.index(asked)).astype(np.float64)
    # Of several labels each has its own.
    cut = next((name for name in (f"threshold_{asked}", "threshold") if name in table), None)
    model = model or f"{run.encoder} · {run.head} · {run.adaptation}"
    return Scores(
        model if kind == "binary" else f"{model} · {asked}",
        table[declared(table, names)],
        target,
        table[f"score_{asked}"].to_numpy(np.float64),
        None if cut is None else table[cut].to_numpy(np.float64),
        table["patient"].to_numpy(dtype=object),
        table["fold"].to_numpy(np.intp) if "fold" in table else None,
        "patients" if run.record.data["patients_known"] else "images",
        tuple(note for note in run.record.notes if note.startswith(("Synthetic", "Random", "Patients unknown"))),
    )


def questions_of_run(run: Run, label: str | None = None, *, model: str | None = None) -> list[Scores]:
    """Each yes-or-no question of a run: its only one, ``label``, or every label or class that has a score.

    Raises:
        EvalfmError: as for ``scores_of_run``.
    """
    kind = run.kind
    if label is not None or kind not in QUESTIONS or kind == "binary":
        return [scores_of_run(run, label, model=model)]
    found, without = [], []
    for name in map(str, run.record.data["class_names"]):
        try:
            found.append(scores_of_run(run, name, model=model))
        except EvalfmError as error:
            without.append(str(error))
    if not found:
        raise EvalfmError(without[0])
    return [replace(each, cautions=(*each.cautions, *without)) for each in found]


def scores_of_table(
    path: Path,
    *,
    target: str = "target",
    score: str = "score",
    patient: str | None = "patient",
    threshold: float | None = None,
) -> Scores:
    """A table of any model's predictions, CSV or Parquet; rows without a label are left out, which is said.

    Cells that say NA, NaN or null are unknown, as R and others write them. Label, score and patient are no attributes.

    Raises:
        EvalfmError: a column is missing, labels are not 0 and 1, a score is no number, some rows have no patient, or
            the threshold is none.
    """
    native = read_table(path)
    # A patient column that was named must be there; the usual one need not.
    named = [] if patient in (None, "patient") else [str(patient)]
    for name in [target, score, *named]:
        if name not in native:
            raise UnknownNameError(f"column of {path.name}", name, [str(each) for each in native.columns])
    cautions = _unknown_words(native)
    labels = pd.to_numeric(native[target], errors="coerce")
    if (labels.isna() & native[target].notna()).any() or not labels.dropna().isin([0, 1]).all():
        raise EvalfmError(
            f"The column {target!r} of {path.name} must hold 0, 1 or nothing; name another with --target."
        )
    kept = labels.notna().to_numpy()
    if not kept.any():
        raise EvalfmError(f"No row of {path.name} has a label in {target!r}; name another column with --target.")
    native, labels = native[kept].reset_index(drop=True), labels[kept]
    numbers = pd.to_numeric(native[score], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        raise EvalfmError(f"The column {score!r} of {path.name} has {wrong} cells that are no number; mend them.")
    _check_threshold(threshold, numbers)
    if not kept.all():
        cautions.append(f"{int((~kept).sum())} rows without a label were left out.")
    known = patient is not None and patient in native and bool(native[patient].notna().any())
    if known and native[patient].isna().any():
        raise EvalfmError(
            f"The column {patient!r} of {path.name} is empty in {int(native[patient].isna().sum())} rows; "
            "fill it, or leave those rows out."
        )
    if not known:
        cautions.append("Patients unknown: every row counts as a patient of its own.")
    names = (
        native[patient].astype(str).to_numpy(dtype=object)
        if known
        else np.arange(len(native)).astype(str).astype(object)
    )
    native = native.drop(columns=[target, score, *([patient] if known else [])])
    for name in native.columns:
        told = pd.to_numeric(native[name], errors="coerce")
        if native[name].notna().any() and (told.notna() == native[name].notna()).all():
            native[name] = told
    thresholds = None if threshold is None else np.full(len(native), threshold)
    unit = "patients" if known else "images"
    truth = labels.to_numpy(np.float64)
    return Scores(path.name, native, truth, numbers, thresholds, names, None, unit, tuple(cautions))


def _unknown_words(table: pd.DataFrame) -> list[str]:
    """Empty, in place, the cells that say in words that they are empty; the caution that says where."""
    found = []
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name].dtype):
            says = np.array([isinstance(cell, str) and cell in UNKNOWN for cell in table[name]], dtype=bool)
            if says.any():
                table[name] = table[name].mask(says)
                found.append(f"{int(says.sum())} in {name}")
    return [f"Cells that say NA or the like count as unknown: {', '.join(found)}."] if found else []


def _check_threshold(threshold: float | None, scores: NDArray[np.float64]) -> None:
    """Refuse what can be no threshold of these scores."""
    if threshold is None:
        return
    probabilities = bool(scores.min() >= 0 and scores.max() <= 1)
    if not np.isfinite(threshold) or (probabilities and not 0 <= threshold <= 1):
        raise EvalfmError(
            f"{threshold:g} is no threshold of these scores, which lie between {scores.min():.3g} and "
            f"{scores.max():.3g}; give one on their scale with --threshold."
        )
