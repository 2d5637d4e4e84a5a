"""What is reported where half of the classes were learnt on and the other half were not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.errors import EvalfmError
from evalfm.statistics import classification
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import RESAMPLES, Measured, estimates
from evalfm.statistics.resampling import Positions, Values, sums_over_folds
from evalfm.tasks.metrics.inputs import checked_columns, checked_patients

FORMULAS: dict[str, Callable[[Values], Values]] = {
    "harmonic_mean": classification.harmonic_mean,
    "accuracy_base": classification.base_accuracy,
    "accuracy_novel": classification.novel_accuracy,
}


def base_to_novel_metrics(
    target: ArrayLike,
    scores: ArrayLike,
    patient: ArrayLike,
    *,
    seed: int = 0,
    unit: str = "patients",
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Accuracy on images of base classes among these, of novel classes among those, and their harmonic mean.

    The harmonic mean is 2·b·n / (b + n) of the two accuracies, 0 where either is (Xian et al., CVPR 2017).

    Args:
        target: [N] class numbers 0 … K − 1, of which the first ceil(K / 2) were learnt on.
        scores: [N, K]; of an image only the columns of its own half are read, the others may be NaN.
        patient, seed, unit, resamples: as for ``binary_metrics``.

    Returns:
        ``harmonic_mean, accuracy_base, accuracy_novel``, and each with ``_constant``: of answering with the class that
        is the most frequent of its half on these images, a baseline.

    Raises:
        EvalfmError: rows are missing or do not fit, or a label is no class number.
    """
    patients = checked_patients(patient, None)
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
    learnt = label < base
    own = np.where((np.arange(classes) < base) == learnt[:, None], given, -np.inf)
    checked_columns({"scores": own.max(axis=1)}, len(label))
    answers = {"": own.argmax(axis=1), "_constant": _most_frequent(label, learnt)}
    measured: dict[str, Measured | Estimate] = {
        f"{name}{suffix}": Measured(
            sums_over_folds(classification.confusion_columns(label, answer, classes), patients, formula),
            n=patients.count,
            undefined="no image of a base class, or none of a novel one",
            fewest=min(patients.behind(learnt), patients.behind(~learnt)),
        )
        for suffix, answer in answers.items()
        for name, formula in FORMULAS.items()
    }
    return estimates(measured, patients, seed=seed, unit=unit, resamples=resamples)


def _most_frequent(label: Positions, learnt: NDArray[np.bool_]) -> Positions:
    """Per image the class that its half shows most often, of equals the first."""
    answer = np.zeros(len(label), dtype=np.intp)
    for half in (learnt, ~learnt):
        if half.any():
            answer[half] = np.bincount(label[half]).argmax()
    return answer
