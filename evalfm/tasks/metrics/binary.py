"""Metrics of a yes-or-no task."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.errors import EvalfmError
from evalfm.statistics import classification
from evalfm.statistics.auroc import Auroc, average_precision_statistic
from evalfm.statistics.calibration import calibration_error_statistic, calibration_line_statistic
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import (
    FromRows,
    Patients,
    Positions,
    Values,
    mean_over_folds,
    over_folds,
    sums_over_folds,
)
from evalfm.tasks.metrics.inputs import BY_PATIENT, Sampling, checked_columns

FEWEST_PATIENTS = 10
"""AUROC needs so many patients with a positive and with a negative image."""


@dataclass(frozen=True)
class Rate:
    """What is counted at a threshold: its formula, the images it is a share of, and why it may have no value."""

    formula: Callable[[Values], Values]
    of: Literal["positive", "negative", "called", "not called", "all"]
    undefined: str


RATES: dict[str, Rate] = {
    "sensitivity": Rate(classification.sensitivity, "positive", "no image is positive"),
    "specificity": Rate(classification.specificity, "negative", "no image is negative"),
    "ppv": Rate(classification.positive_predictive_value, "called", "no image is called positive at the threshold"),
    "npv": Rate(
        classification.negative_predictive_value, "not called", "every image is called positive at the threshold"
    ),
    "f1": Rate(classification.f1, "all", "no image is positive or called positive"),
    "accuracy": Rate(classification.call_accuracy, "all", "no image"),
    "balanced_accuracy": Rate(classification.balanced_accuracy, "all", "one class is missing"),
}

DEFAULT_THRESHOLD = 0.5
"""Threshold of probabilities where none was chosen on validation data."""


def binary_metrics(
    target: ArrayLike,
    score: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    threshold: float | NDArray[np.float64] | None,
    calibrated: ArrayLike | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Estimate]:
    """Every metric of a binary task with its interval.

    Args:
        target: 0 or 1, [N].
        score: [N]; Brier, ECE and calibration need probabilities and are absent for scores outside [0, 1].
        patient: patient id of each row, [N]; patients are resampled as a whole.
        sampling: folds, and how intervals are made.
        threshold: chosen on the validation set; a score at or above it is positive. One, or one per row where folds
            have their own; None leaves out what needs it.
        calibrated: scores at the temperature chosen on the validation set, [N]; None leaves out what needs it.
        only: these metrics alone, with the same values; None gives all.

    Returns:
        ``auroc, auprc, sensitivity, specificity, ppv, npv, f1, accuracy, balanced_accuracy, brier, ece,
        calibration_slope, calibration_intercept``; what is counted at the threshold also at .5 (``f1_default`` …), F1
        where every image is called positive (``f1_all_positive``), and with ``calibrated`` ``brier_calibrated`` and
        ``ece_calibrated``.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is neither 0 nor 1.

    >>> label = [0, 1] * 30
    >>> score = [0.3 + 0.4 * y + (i % 7 - 3) / 10 for i, y in enumerate(label)]
    >>> found = binary_metrics(label, score, range(60), threshold=0.5, only=("auroc", "sensitivity"))
    >>> {name: [round(each, 2) for each in (of.value, of.low, of.high)] for name, of in found.items()}
    {'auroc': [0.89, 0.79, 0.95], 'sensitivity': [0.7, 0.52, 0.83]}
    """
    unit, patients = sampling.unit, sampling.patients(patient)
    given = {"target": target, "score": score}
    if isinstance(threshold, np.ndarray):
        given["threshold"] = threshold
    columns = checked_columns(given, len(patients.codes))
    label, value = columns["target"], columns["score"]
    if not np.isin(label, (0.0, 1.0)).all():
        raise EvalfmError("Metrics of a binary task need labels 0 and 1; recode the target column.")
    measured: dict[str, Measured | Estimate] = {
        "auroc": measured_auroc(label, value, patients, unit=unit),
        "auprc": measured_average_precision(label, value, patients),
        **measured_rates(label, value, patients, threshold, unit=unit),
        **measured_calibration(label, value, patients, unit=unit),
        **_at_default(label, value, patients, unit=unit),
        "f1_all_positive": measured_rates(label, value, patients, -np.inf, unit=unit)["f1"],
    }
    if calibrated is not None:
        scaled = checked_columns({"calibrated": calibrated}, len(patients.codes))["calibrated"]
        of_scaled = measured_calibration(label, scaled, patients, unit=unit)
        measured |= {f"{name}_calibrated": of_scaled[name] for name in ("brier", "ece")}
    wanted = {name: item for name, item in measured.items() if only is None or name in only}
    return sampling.estimates(wanted, patients)


def choose_threshold(target: ArrayLike, score: ArrayLike, rule: str = "youden") -> float:
    """The operating threshold on the validation set, by ``statistics.classification.choose_threshold``.

    Args:
        target: 0 or 1, [N].
        score: [N].
        rule: ``youden``, ``f1``, ``sensitivity=.9`` or ``specificity=.9``.

    Raises:
        EvalfmError: an unknown rule, or the validation set holds only one class.

    >>> choose_threshold([0, 0, 1, 1], [0.1, 0.3, 0.7, 0.9])
    0.5
    """
    columns = checked_columns({"target": target, "score": score}, len(np.asarray(target)))
    try:
        return classification.choose_threshold(columns["target"], columns["score"], rule)
    except ValueError as error:
        raise EvalfmError(f"No threshold on val: {error}; give val images of both classes or another rule.") from None


def measured_auroc(label: Values, value: Values, patients: Patients, *, unit: str) -> Measured | Estimate:
    """AUROC, absent below ten positive or ten negative patients.

    A patient with images of both kinds counts in both.
    """
    positive, negative = patients.behind(label == 1), patients.behind(label == 0)
    fewest = min(positive, negative)
    if fewest < FEWEST_PATIENTS:
        reason = (
            f"needs at least {FEWEST_PATIENTS} {unit} with a positive label and as many with a negative one; "
            f"there are {positive} and {negative}"
        )
        return Estimate.absent(reason, n=patients.behind(), unit=unit)

    def build(rows: Positions) -> Auroc:
        return Auroc(label[rows], value[rows], patients.codes[rows], patients.count)

    return Measured(
        over_folds(patients, build),
        n=patients.behind(),
        undefined="no fold holds both classes",
        fewest=fewest,
    )


def measured_average_precision(label: Values, value: Values, patients: Patients) -> Measured:
    """Average precision; undefined without a positive."""

    def build(rows: Positions) -> FromRows:
        return average_precision_statistic(label[rows], value[rows], patients.codes[rows], patients.count)

    fewest = min(patients.behind(label == 1), patients.behind(label == 0))
    return Measured(over_folds(patients, build), n=patients.behind(), undefined="no image is positive", fewest=fewest)


def measured_rates(
    label: Values,
    value: Values,
    patients: Patients,
    threshold: float | NDArray[np.float64] | None,
    *,
    unit: str,
) -> dict[str, Measured | Estimate]:
    """The rates that a threshold gives, from sensitivity to accuracy; absent with the reason where there is none."""
    if threshold is None:
        reason = "no threshold was chosen on val"
        return {name: Estimate.absent(reason, n=patients.behind(), unit=unit) for name in RATES}
    counts = classification.call_columns(label, value, threshold)
    called = counts[:, classification.TRUE_POSITIVE] + counts[:, classification.FALSE_POSITIVE] > 0
    positive, negative = label == 1, label == 0
    rows = {
        "positive": positive,
        "negative": negative,
        "called": called,
        "not called": ~called,
        "all": np.ones(len(label), dtype=bool),
    }
    both = min(patients.behind(positive), patients.behind(negative))
    return {
        name: Measured(
            sums_over_folds(counts, patients, rate.formula),
            n=patients.behind(rows[rate.of]),
            undefined=rate.undefined,
            fewest=both if rate.of == "all" else None,
        )
        for name, rate in RATES.items()
    }


def _at_default(label: Values, value: Values, patients: Patients, *, unit: str) -> dict[str, Measured | Estimate]:
    """The rates at .5, which means something for probabilities alone."""
    probable = value.min() >= 0 and value.max() <= 1
    rates = measured_rates(label, value, patients, DEFAULT_THRESHOLD if probable else None, unit=unit)
    if not probable:
        reason = "scores outside [0, 1] are no probabilities"
        rates = {name: Estimate.absent(reason, n=patients.behind(), unit=unit) for name in rates}
    return {f"{name}_default": item for name, item in rates.items()}


def measured_calibration(
    label: Values, value: Values, patients: Patients, *, unit: str
) -> dict[str, Measured | Estimate]:
    """Brier score, ECE, calibration slope and intercept; absent where scores are no probabilities."""
    names = ("brier", "ece", "calibration_slope", "calibration_intercept")
    if value.min() < 0 or value.max() > 1:
        reason = "scores outside [0, 1] are no probabilities"
        return {name: Estimate.absent(reason, n=patients.behind(), unit=unit) for name in names}
    both = min(patients.behind(label == 1), patients.behind(label == 0))
    squared = (value - label) ** 2
    no_line = "there is no fit: one class is missing, the scores are constant, or they separate the classes"

    def line(which: Literal["slope", "intercept"]) -> Measured:
        return Measured(
            over_folds(
                patients,
                lambda rows: calibration_line_statistic(
                    label[rows], value[rows], patients.codes[rows], patients.count, which
                ),
            ),
            n=patients.behind(),
            undefined=no_line,
            fewest=both,
        )

    return {
        "brier": Measured(mean_over_folds(squared, patients), n=patients.behind(), undefined="no image"),
        "ece": Measured(
            over_folds(
                patients,
                lambda rows: calibration_error_statistic(
                    label[rows], value[rows], patients.codes[rows], patients.count
                ),
            ),
            n=patients.behind(),
            undefined="no image",
        ),
        "calibration_slope": line("slope"),
        "calibration_intercept": line("intercept"),
    }
