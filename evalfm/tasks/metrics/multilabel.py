"""What is reported of several yes-or-no labels at once: macro and per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import RESAMPLES, Measured, estimates
from evalfm.statistics.resampling import Patients, Values
from evalfm.tasks.metrics.binary import RATES, measured_auroc, measured_average_precision, measured_rates
from evalfm.tasks.metrics.inputs import checked_columns, checked_patients
from evalfm.tasks.metrics.multiclass import macro


def multilabel_metrics(
    targets: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    *,
    class_names: Sequence[str],
    thresholds: Mapping[str, float | Values] | None = None,
    seed: int = 0,
    folds: ArrayLike | None = None,
    unit: str = "patients",
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Metrics of each label over the images where it is known, and their mean over labels.

    Args:
        targets: [N, K] 0, 1 or NaN (unknown).
        scores: [N, K]; NaN where a label could not be learnt: such images do not count for it.
        class_names: [K] names of the labels.
        thresholds: per label the operating point chosen on val, one or one per row; None leaves out what needs it.
        patient, seed, folds, unit, resamples: as for ``binary_metrics``.

    Returns:
        ``macro_auroc, macro_auprc`` and, per label, ``auroc[name], auprc[name]``, with thresholds also
        ``sensitivity, specificity, ppv, npv, f1, accuracy, balanced_accuracy``, both macro and per label.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is neither 0, 1 nor NaN.
    """
    patients = checked_patients(patient, folds)
    given = np.asarray(scores, dtype=np.float64)
    learnt = ~np.isnan(given)
    values = checked_columns({"scores": np.where(learnt, given, 0.0)}, len(patients.codes))["scores"]
    labels = np.asarray(targets, dtype=np.float64)
    if values.ndim != 2 or labels.shape != values.shape or len(class_names) != values.shape[1]:
        raise EvalfmError(
            f"Targets of shape {labels.shape}, scores of shape {values.shape} and {len(class_names)} label "
            "names do not fit; give one column of each per label."
        )
    if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
        raise EvalfmError("Metrics of a multilabel task need labels 0, 1 or empty; recode the target columns.")
    per_metric: dict[str, dict[str, Measured | Estimate]] = {}
    for index, name in enumerate(class_names):
        threshold = None if thresholds is None else thresholds[name]
        if not learnt[:, index].any():
            reason = "the label has one class only in train or in val"
            absent = Estimate.absent(reason, unit=unit)
            measured: dict[str, Measured | Estimate] = dict.fromkeys(
                ("auroc", "auprc", *(RATES if threshold is not None else ())), absent
            )
        else:
            label = np.where(learnt[:, index], labels[:, index], np.nan)
            measured = _one_label(label, values[:, index], patients, threshold, unit)
        for metric, item in measured.items():
            per_metric.setdefault(metric, {})[name] = item
    everything: dict[str, Measured | Estimate] = {
        f"macro_{metric}": macro(parts, n=patients.count, unit=unit, names="labels")
        for metric, parts in per_metric.items()
    }
    for metric, parts in per_metric.items():
        everything |= {f"{metric}[{name}]": item for name, item in parts.items()}
    return estimates(everything, patients, seed=seed, unit=unit, resamples=resamples)


def _one_label(
    label: Values, value: Values, patients: Patients, threshold: float | Values | None, unit: str
) -> dict[str, Measured | Estimate]:
    known = ~np.isnan(label)
    rates = {} if threshold is None else RATES
    if not known.any():
        absent = Estimate.absent("the label is unknown on every image", unit=unit)
        return dict.fromkeys(("auroc", "auprc", *rates), absent)
    label, value, patients = label[known], value[known], patients.among(known)
    if isinstance(threshold, np.ndarray):
        threshold = threshold[known]
    found: dict[str, Measured | Estimate] = {
        "auroc": measured_auroc(label, value, patients, unit=unit),
        "auprc": measured_average_precision(label, value, patients),
    }
    return found | (measured_rates(label, value, patients, threshold, unit=unit) if rates else {})
