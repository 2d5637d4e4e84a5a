"""What a model is asked image by image: scores of a yes-or-no question, of a run or any table, or values of masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import declared
from evalfm.analysis.predictions import Predictions, flat, numbers_or_words, rows_of_test, unknown_words
from evalfm.data.columns import read_table
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.metrics.rows import ROWS, Question, Scored
from evalfm.run import Run
from evalfm.tasks.kinds import kind_of

SUMS_TO_ONE = 1e-4
"""How far probabilities of float32 may be from that."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class LabelScores:
    """Scores of one model on test images, with the attributes beside them.

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


def asks_questions(of: Run | Predictions, label: str | None = None) -> bool:
    """Whether a subgroup report is of yes-or-no questions: of masks, values and grades it is of their errors.

    A single grade, ``label``, is a question all the same.
    """
    kind = kind_of(of.kind)
    return kind.has_classes and (not kind.ordered or label is not None)


def scores_of_run(of: Run | Predictions, label: str | None = None, *, model: str | None = None) -> LabelScores:
    """The test predictions of a run of one yes-or-no question, or of one ``label`` of a run of several.

    A label of a multilabel run is of the images where it is known; a class is compared with all others. ``model`` is
    the run's name, by default encoder, head and adaptation.

    Raises:
        EvalfmError: the run is of another kind, there is no such label, or it has no score.
    """
    found = of if isinstance(of, Predictions) else Predictions.of_run(of)
    kind, names, table = kind_of(found.kind), found.class_names, found.table
    if not (kind.one_label or (label is not None and kind.has_classes)):
        raise EvalfmError(f"{found.source} answers a {kind} task, which has no score of one yes-or-no question.")
    if label is not None and label not in names:
        raise UnknownNameError(f"label in {found.source}", label, names)
    label_name = names[0] if label is None else label
    rows = ROWS[kind.name](Scored(table, names, found.unit == "patients"))
    question = rows.of_class.get(f"[{label_name}]", rows)
    assert isinstance(question, Question)
    if not question.known.any():
        raise EvalfmError(
            f"{label_name!r} has no score in {found.source}: one class only in train or val, or never known."
        )
    table = table[question.known].reset_index(drop=True)
    # Of several labels each has its own.
    columns = (name for name in (f"threshold_{label_name}", "threshold") if name in table)
    threshold_column = next((name for name in columns if table[name].notna().any()), None)
    model = model or found.model
    return LabelScores(
        model if kind.one_label else f"{model} · {label_name}",
        table[declared(table, names)],
        question.label,
        question.score,
        None if threshold_column is None else table[threshold_column].to_numpy(np.float64),
        table["patient"].to_numpy(dtype=object),
        table["fold"].to_numpy(np.intp) if "fold" in table else None,
        found.unit,
        found.cautions,
    )


def questions_of_run(of: Run | Predictions, label: str | None = None, *, model: str | None = None) -> list[LabelScores]:
    """Each yes-or-no question of a run: its only one, ``label``, or every label or class that has a score.

    Raises:
        EvalfmError: as for ``scores_of_run``.
    """
    predictions = of if isinstance(of, Predictions) else Predictions.of_run(of)
    kind = kind_of(predictions.kind)
    if label is not None or kind.one_label or not kind.has_classes:
        return [scores_of_run(predictions, label, model=model)]
    found, without = [], []
    for name in predictions.class_names:
        try:
            found.append(scores_of_run(predictions, name, model=model))
        except EvalfmError as error:
            without.append(str(error))
    if not found:
        raise EvalfmError(without[0])
    return [replace(each, cautions=(*each.cautions, *without)) for each in found]


def predictions_of_table(
    path: Path, *, target: str = "target", score: str = "score", patient: str = "patient", label: str | None = None
) -> tuple[Predictions, str | None] | None:
    """The table at ``path`` as predictions that evalfm wrote, with the label; None where it is no such.

    A score column that was named is a label's; any other makes it a table like those of other programs.

    Raises:
        EvalfmError: the table cannot be read, or is a run's with rows lost or added.
    """
    found = Predictions.of_table(path, read_table(path))
    if found is None or patient != "patient":
        return None
    if score == "score":
        return (found, label) if target == "target" else None
    named = score.removeprefix("score_")
    if named not in found.class_names or target not in ("target", f"target_{named}"):
        return None
    return found, None if kind_of(found.kind).one_label else named


def scores_of_table(
    path: Path,
    *,
    target: str = "target",
    score: str = "score",
    patient: str | None = "patient",
    threshold: float | None = None,
) -> LabelScores:
    """A table of any model's predictions, CSV or Parquet; rows without a label are left out, which is said.

    Rows of train and val are left out where a column of splits tells them, and scores are ranked within folds where
    there are some. Cells that say NA, NaN or null are unknown, as R and others write them. Label, score, patient, split
    and fold are no attributes.

    Raises:
        EvalfmError: a column is missing, it is unknown which rows are of test, labels are not 0 and 1, a score is
            no number, some rows have no patient, or the threshold is none.
    """
    native = flat(read_table(path))
    # A patient column that was named must be there; the usual one need not.
    named = [] if patient in (None, "patient") else [str(patient)]
    for name in [target, score, *named]:
        if name not in native:
            raise UnknownNameError(f"column of {path.name}", name, [str(each) for each in native.columns])
    cautions = unknown_words(native)
    rows = rows_of_test(native, path.name, [target, score, *([] if patient is None else [patient])])
    cautions += rows.cautions
    native = native[rows.test].reset_index(drop=True)
    folds = None if rows.folds is None else rows.folds[rows.test]
    labels = pd.to_numeric(native[target], errors="coerce")
    if (labels.isna() & native[target].notna()).any() or not labels.dropna().isin([0, 1]).all():
        raise EvalfmError(
            f"The column {target!r} of {path.name} must hold 0, 1 or nothing; name another with --target."
        )
    kept = labels.notna().to_numpy()
    if not kept.any():
        raise EvalfmError(f"No row of {path.name} has a label in {target!r}; name another column with --target.")
    native, labels = native[kept].reset_index(drop=True), labels[kept]
    folds = None if folds is None else folds[kept]
    numbers = pd.to_numeric(native[score], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers).all():
        wrong = int((~np.isfinite(numbers)).sum())
        raise EvalfmError(f"The column {score!r} of {path.name} has {wrong} cells that are no number; fix them.")
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
    if known and folds is not None:
        apart = int((pd.Series(folds).groupby(names).nunique() > 1).sum())
        if apart:
            raise EvalfmError(
                f"{apart} patients of {path.name} stand in several folds, which were made by image; leave their rows "
                "out, or name a column of patients who do not with --patient."
            )
    native = native.drop(columns=[target, score, *([patient] if known else []), *rows.columns])
    for name in native.columns:
        native[name] = numbers_or_words(native[name])
    thresholds = None if threshold is None else np.full(len(native), threshold)
    unit = "patients" if known else "images"
    truth = labels.to_numpy(np.float64)
    return LabelScores(path.name, native, truth, numbers, thresholds, names, folds, unit, tuple(cautions))


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


@dataclass(frozen=True)
class ImageValues:
    """A value per image [N], the images it is of, and what it goes with by its nature, such as Dice with the area."""

    name: str
    values: Values
    rows: NDArray[np.bool_]
    held: dict[str, Values]


def values_of_images(found: Predictions, label: str | None = None) -> list[ImageValues]:
    """What a model of masks or measurements is asked: Dice and false alarms, or errors; ``label`` keeps one mask.

    Dice is of images with the finding and goes with the logarithm of the lesion's area; the predicted area is of images
    without it. Errors of measurements go with the truth. A grade is measured by its expected number, the sum of the
    classes' numbers times their probabilities.

    Raises:
        EvalfmError: the predictions are of another kind, or scores of grades are no probabilities.
    """
    kind = kind_of(found.kind)
    if not kind.errors:
        raise EvalfmError(f"{found.source} {kind.unasked}.")
    return ERRORS[kind.errors](found, label)


def _of_masks(found: Predictions, label: str | None) -> list[ImageValues]:
    values = []
    for name in (name for name in found.class_names if label in (None, name)):
        dice, area, predicted = (
            found.table[f"{what}_{name}"].to_numpy(np.float64) for what in ("dice", "area_true", "area_predicted")
        )
        logarithm = np.log(np.where(area > 0, area, 1.0))
        values += [
            ImageValues(f"Dice of {name} where it is there", dice, area > 0, {"log area": logarithm}),
            ImageValues(f"predicted area of {name} where it is not", predicted, area == 0, {}),
        ]
    return values


def _of_values(found: Predictions, label: str | None) -> list[ImageValues]:
    return _errors(found, found.table["prediction"].to_numpy(np.float64), "absolute error", "prediction − truth")


def _of_grades(found: Predictions, label: str | None) -> list[ImageValues]:
    scores = found.table[[f"score_{name}" for name in found.class_names]].to_numpy(np.float64)
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > SUMS_TO_ONE:
        raise EvalfmError(
            f"The scores of {found.source} are no probabilities, so there is no expected grade; ask a class with "
            "--label."
        )
    expected: Values = scores @ np.arange(scores.shape[1], dtype=np.float64)
    return _errors(found, expected, "absolute error in grades", "expected − true grade")


def _errors(found: Predictions, prediction: Values, size: str, signed: str) -> list[ImageValues]:
    truth = found.table["target"].to_numpy(np.float64)
    error, every = prediction - truth, np.isfinite(truth)
    return [
        ImageValues(size, np.abs(error), every, {"truth": truth}),
        ImageValues(signed, error, every, {"truth": truth}),
    ]


ERRORS: dict[str, Callable[[Predictions, str | None], list[ImageValues]]] = {
    "masks": _of_masks,
    "values": _of_values,
    "grades": _of_grades,
}
"""What is measured on each image, see ``Kind.errors``."""
