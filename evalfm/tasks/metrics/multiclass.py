"""What is reported of a task with several exclusive classes, ordered or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.statistics import classification
from evalfm.statistics.calibration import CLIP, calibration_error_statistic
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import RESAMPLES, Measured, estimates
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
from evalfm.tasks.metrics.inputs import checked_columns, checked_patients

OF_CONFUSION: dict[str, Callable[[Values], Values]] = {
    "accuracy": classification.accuracy,
    "balanced_accuracy": classification.mean_recall,
    "macro_f1": classification.macro_f1,
    "weighted_f1": classification.weighted_f1,
}


def multiclass_metrics(
    target: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    *,
    ordinal: bool = False,
    seed: int = 0,
    folds: ArrayLike | None = None,
    unit: str = "patients",
    class_names: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    calibrated: ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Every metric of a multiclass or ordinal task with its interval.

    Args:
        target: [N] class numbers 0 … K − 1.
        scores: [N, K]; the class with the largest score is the answer, of equal ones the first.
        patient, seed, folds, unit, resamples: as for ``binary_metrics``.
        ordinal: the classes are ordered: quadratic kappa as well.
        class_names: [K] for the per-class keys; the class numbers if None.
        calibrated: [N, K] the scores at the temperature that val chose; None leaves out what needs it.

    Returns:
        ``macro_auroc`` (one class against the rest, mean over classes), ``auroc[name]`` per class,
        ``accuracy, balanced_accuracy, macro_f1, weighted_f1``, ``log_loss`` and ``ece`` (of the class that is the
        answer), with ``calibrated`` ``log_loss_calibrated`` and ``ece_calibrated``; if ordinal, ``quadratic_kappa``.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is no class number.
    """
    patients = checked_patients(patient, folds)
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
        mended = checked_columns({"calibrated": calibrated}, len(patients.codes))["calibrated"]
        found = measured_certainty(label, mended, patients, unit=unit)
        measured |= {f"{name}_calibrated": item for name, item in found.items()}
    return estimates(measured, patients, seed=seed, unit=unit, resamples=resamples)


def measured_certainty(
    label: Positions, values: Values, patients: Patients, *, unit: str
) -> dict[str, Measured | Estimate]:
    """Log-loss, and ECE of the class that is the answer; absent where scores are no probabilities."""
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
    """Mean of a metric over the classes or labels that have it; those that do not are told."""
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
