"""Metrics of several yes-or-no labels at once: macro and per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Patients, Values
from evalfm.tasks.metrics.binary import RATES, measured_auroc, measured_average_precision, measured_rates
from evalfm.tasks.metrics.inputs import BY_PATIENT, Sampling, checked_columns
from evalfm.tasks.metrics.multiclass import macro


def multilabel_metrics(
    targets: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    sampling: Sampling = BY_PATIENT,
    *,
    class_names: Sequence[str],
    thresholds: Mapping[str, float | Values] | None = None,
) -> dict[str, Estimate]:
    """Metrics of each label over the images where it is known, and their mean over labels.

    Args:
        targets: 0, 1 or NaN (unknown), [N, K].
        scores: [N, K]; NaN where a label could not be learnt: such images do not count for it.
        patient: patient id of each row, [N]; patients are resampled as a whole.
        sampling: folds, and how intervals are made.
        class_names: names of the labels, [K].
        thresholds: per label the threshold chosen on the validation set, one or one per row; None leaves out what
            needs it.

    Returns:
        ``macro_auroc, macro_auprc`` and, per label, ``auroc[name], auprc[name]``, with thresholds also
        ``sensitivity, specificity, ppv, npv, f1, accuracy, balanced_accuracy``, both macro and per label.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is neither 0, 1 nor NaN.

    >>> labels = np.array([[0, 1], [1, 0], [1, 1], [0, 0]] * 12)
    >>> scores = 0.4 * labels + np.linspace(0, 0.6, 96).reshape(48, 2)[:, ::-1]
    >>> found = multilabel_metrics(labels, scores, range(48), Sampling(resamples=200), class_names=["edema", "mass"])
    >>> round(found["macro_auroc"].value, 2), round(found["auroc[mass]"].value, 2)
    (0.94, 0.94)
    """
    unit, patients = sampling.unit, sampling.patients(patient)
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
        f"macro_{metric}": macro(of_labels, n=patients.count, unit=unit, names="labels")
        for metric, of_labels in per_metric.items()
    }
    for metric, of_labels in per_metric.items():
        everything |= {f"{metric}[{name}]": item for name, item in of_labels.items()}
    return sampling.estimates(everything, patients)


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
    of_scores: dict[str, Measured | Estimate] = {
        "auroc": measured_auroc(label, value, patients, unit=unit),
        "auprc": measured_average_precision(label, value, patients),
    }
    return of_scores | (measured_rates(label, value, patients, threshold, unit=unit) if rates else {})
