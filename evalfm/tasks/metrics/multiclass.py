"""Metrics of several exclusive classes, ordered or not, and of base-to-novel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.errors import EvalfmError
from evalfm.statistics import classification
from evalfm.statistics.calibration import CLIP, calibration_error_statistic
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import (
    Average,
    FromSums,
    Patients,
    Positions,
    Values,
    mean_over_folds,
    over_folds,
    sums_over_folds,
)
from evalfm.tasks.metrics.binary import measured_auroc
from evalfm.tasks.metrics.inputs import BY_PATIENT, Sampling, checked_columns

OF_CONFUSION: dict[str, Callable[[Values], Values]] = {
    "accuracy": classification.accuracy,
    "balanced_accuracy": classification.mean_recall,
    "macro_f1": classification.macro_f1,
    "weighted_f1": classification.weighted_f1,
}

OF_HALVES: dict[str, Callable[[Values], Values]] = {
    "harmonic_mean": classification.harmonic_mean,
    "accuracy_base": classification.base_accuracy,
    "accuracy_novel": classification.novel_accuracy,
}


def multiclass_metrics(
    target: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    ordinal: bool = False,
    class_names: Sequence[str] | None = None,
    calibrated: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Every metric of a multiclass or ordinal task with its interval.

    Args:
        target: class numbers 0 … K − 1, [N].
        scores: [N, K]; the class with the largest score is predicted, of equal ones the first.
        patient: patient id of each row, [N]; patients are resampled as a whole.
        sampling: folds, and how intervals are made.
        ordinal: the classes are ordered: quadratic kappa as well.
        class_names: [K] for the per-class keys; the class numbers if None.
        calibrated: scores at the temperature chosen on the validation set, [N, K]; None leaves out what needs it.

    Returns:
        ``macro_auroc`` (one class against the rest, mean over classes), ``auroc[name]`` per class,
        ``accuracy, balanced_accuracy, macro_f1, weighted_f1``, ``log_loss`` and ``ece`` (of the class that is
        predicted), with ``calibrated`` ``log_loss_calibrated`` and ``ece_calibrated``; if ordinal, ``quadratic_kappa``.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is no class number.

    >>> label = [0, 1, 2] * 20
    >>> scores = np.eye(3)[label] * 0.2 + np.random.default_rng(0).random((60, 3)) / 2
    >>> found = multiclass_metrics(label, scores, range(60), Sampling(resamples=200), class_names=["a", "b", "c"])
    >>> round(found["accuracy"].value, 2), round(found["auroc[b]"].value, 2)
    (0.68, 0.84)
    """
    unit, patients = sampling.unit, sampling.patients(patient)
    values = checked_columns({"scores": scores}, len(patients.codes))["scores"]
    if values.ndim != 2 or values.shape[1] < 2:
        raise EvalfmError("Metrics of a multiclass task need one score column per class, at least two.")
    classes = values.shape[1]
    names = [str(index) for index in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise EvalfmError(f"There are {classes} score columns but {len(names)} class names; name every class once.")
    labels = checked_columns({"target": target}, len(patients.codes))["target"]
    try:
        label = classification.class_indices(labels, classes)
    except ValueError as error:
        raise EvalfmError(f"Metrics cannot be computed: {error}; recode the target column.") from None
    per_class = {
        name: measured_auroc((label == index).astype(np.float64), values[:, index], patients, unit=unit)
        for index, name in enumerate(names)
    }
    confusion = classification.confusion_columns(label, values.argmax(axis=1), classes)
    formulas = {**OF_CONFUSION, "quadratic_kappa": classification.quadratic_kappa} if ordinal else OF_CONFUSION
    measured: dict[str, Measured | Estimate] = {
        "macro_auroc": macro(per_class, n=patients.count, unit=unit, names="classes"),
        **{
            name: Measured(
                sums_over_folds(confusion, patients, formula),
                n=patients.count,
                undefined="one class only, both true and called",
            )
            for name, formula in formulas.items()
        },
        **measured_certainty(label, values, patients, unit=unit),
        **{f"auroc[{name}]": item for name, item in per_class.items()},
    }
    if calibrated is not None:
        scaled = checked_columns({"calibrated": calibrated}, len(patients.codes))["calibrated"]
        of_scaled = measured_certainty(label, scaled, patients, unit=unit)
        measured |= {f"{name}_calibrated": item for name, item in of_scaled.items()}
    return sampling.estimates(measured, patients)


def measured_certainty(
    label: Positions, values: Values, patients: Patients, *, unit: str
) -> dict[str, Measured | Estimate]:
    """Log-loss, and ECE of the class that is predicted; absent where scores are no probabilities."""
    if values.min() < 0 or values.max() > 1:
        absent = Estimate.absent("scores outside [0, 1] are no probabilities", n=patients.count, unit=unit)
        return {"log_loss": absent, "ece": absent}
    true = np.clip(values[np.arange(len(label)), label], CLIP, 1)
    right, sure = (values.argmax(axis=1) == label).astype(np.float64), values.max(axis=1)

    def gap(rows: Positions) -> FromSums:
        return calibration_error_statistic(right[rows], sure[rows], patients.codes[rows], patients.count)

    return {
        "log_loss": Measured(mean_over_folds(-np.log(true), patients), n=patients.count, undefined="no image"),
        "ece": Measured(over_folds(patients, gap), n=patients.count, undefined="no image"),
    }


def macro(parts: Mapping[str, Measured | Estimate], *, n: int, unit: str, names: str) -> Measured | Estimate:
    """Mean of a metric over the classes or labels that have it; those that do not are named in its note."""
    present = {name: part for name, part in parts.items() if isinstance(part, Measured)}
    absent = sorted(set(parts) - set(present))
    if not present:
        reasons = "; ".join(f"{name}: {part.reason}" for name, part in parts.items() if isinstance(part, Estimate))
        return Estimate.absent(f"no {names} can be estimated ({reasons})", n=n, unit=unit)
    return Measured(
        Average([part.statistic for part in present.values()], names),
        n=n,
        undefined=f"undefined for all {names}",
        fewest=min(part.n if part.fewest is None else part.fewest for part in present.values()),
        note=f"over {len(present)} of {len(parts)} {names}, without {', '.join(absent)}" if absent else None,
    )


def base_to_novel_metrics(
    target: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
) -> dict[str, Estimate]:
    """Accuracy on images of base classes among these, of novel classes among those, and their harmonic mean.

    The harmonic mean is 2·b·n / (b + n) of the two accuracies, 0 where either is (Xian et al., CVPR 2017).

    Args:
        target: class numbers 0 … K − 1, [N]; the first ceil(K / 2) are the base classes.
        scores: [N, K]; of an image only the columns of its own half are read, the others may be NaN.
        patient: patient id of each row, [N]; patients are resampled as a whole.
        sampling: how intervals are made; without folds.

    Returns:
        ``harmonic_mean, accuracy_base, accuracy_novel``, and each with ``_constant``: a baseline that always
        predicts the most frequent class of the image's half.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is no class number.

    >>> label = [0, 1, 2, 3] * 10
    >>> scores = np.eye(4)[label] + 2 * np.random.default_rng(0).random((40, 4))
    >>> found = base_to_novel_metrics(label, scores, range(40), Sampling(resamples=200))
    >>> round(found["harmonic_mean"].value, 2), round(found["accuracy_base_constant"].value, 2)
    (0.72, 0.5)
    """
    patients = sampling.patients(patient)
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] < classification.FEWEST_TO_HALVE:
        raise EvalfmError(
            f"Base-to-novel needs one score column per class, and {classification.FEWEST_TO_HALVE} classes or more: in "
            "a half of one class every answer is right."
        )
    classes = given.shape[1]
    base = classification.base_classes(classes)
    labels = checked_columns({"target": target}, len(patients.codes))["target"]
    try:
        label = classification.class_indices(labels, classes)
    except ValueError as error:
        raise EvalfmError(f"Metrics cannot be computed: {error}; recode the target column.") from None
    of_base = label < base
    own = np.where((np.arange(classes) < base) == of_base[:, None], given, -np.inf)
    checked_columns({"scores": own.max(axis=1)}, len(label))
    predicted = {"": own.argmax(axis=1), "_constant": _most_frequent(label, of_base)}
    measured: dict[str, Measured | Estimate] = {
        f"{name}{suffix}": Measured(
            sums_over_folds(classification.confusion_columns(label, answer, classes), patients, formula),
            n=patients.count,
            undefined="no image of a base class, or none of a novel one",
            fewest=min(patients.behind(of_base), patients.behind(~of_base)),
        )
        for suffix, answer in predicted.items()
        for name, formula in OF_HALVES.items()
    }
    return sampling.estimates(measured, patients)


def _most_frequent(label: Positions, of_base: NDArray[np.bool_]) -> Positions:
    """The most frequent class of each image's half, [N]; of equals the first."""
    answer = np.zeros(len(label), dtype=np.intp)
    for half in (of_base, ~of_base):
        if half.any():
            answer[half] = np.bincount(label[half]).argmax()
    return answer
