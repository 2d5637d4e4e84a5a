"""Influence of each patient on a metric of the confusion matrix: the linear term of the delta method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evalfm.statistics import classification
from evalfm.statistics.resampling import Positions, Values, ratio


@dataclass(frozen=True)
class Influence:
    """A metric on the data, and the influence of each patient on it [P], which sum to 0."""

    value: float
    of_patient: Values


def influence(target: Positions, called: Positions, classes: int, metric: str, codes: Positions) -> Influence:
    """The infinitesimal jackknife over patients (Efron 1982) of ``metric``, in closed form.

    A metric is a function f of the sums S of the confusion matrix, which is the sum of its patients' matrices s_p; the
    influence of a patient is the gradient of f at S times s_p. All metrics here are of degree 0 in S (twice the data
    give the same), so the influences sum to 0.

    Args:
        target, called: true and predicted class numbers, [N].
        classes: K.
        metric: one of ``METRICS``.
        codes: patient code of each row, [N], 0 … P − 1.

    Raises:
        ValueError: the metric is undefined on these rows.

    >>> found = influence(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2, "accuracy", np.array([0, 1, 2, 2]))
    >>> found.value, found.of_patient.tolist()
    (0.75, [0.0625, -0.1875, 0.125])
    """
    formula, gradient = METRICS[metric]
    cell = target * classes + called
    sums = np.bincount(cell, minlength=classes**2).astype(np.float64)
    value = float(formula(sums))
    if not np.isfinite(value):
        raise ValueError(f"{metric} is undefined where all images are, and are called, one class")
    at = gradient(sums.reshape(classes, classes)).ravel()
    return Influence(value, np.bincount(codes, weights=at[cell]).astype(np.float64))


def _accuracy(confusion: Values) -> Values:
    """Gradient [K, K] at a confusion matrix [K, K], true class first; likewise below."""
    total = confusion.sum()
    return np.asarray((np.eye(len(confusion)) - np.trace(confusion) / total) / total, dtype=np.float64)


def _balanced_accuracy(confusion: Values) -> Values:
    support = confusion.sum(axis=1)
    recall = ratio(np.diagonal(confusion), support)
    gradient = ratio(np.eye(len(confusion)) - recall[:, None], support[:, None])
    return np.asarray(np.nan_to_num(gradient) / (support > 0).sum(), dtype=np.float64)


def _class_f1(confusion: Values) -> tuple[Values, Values]:
    """F1 of each class [K] and its gradient [K, K, K], the class first; 0 for one that neither occurs nor is called."""
    both = confusion.sum(axis=1) + confusion.sum(axis=0)
    f1 = np.nan_to_num(ratio(2 * np.diagonal(confusion), both))
    one = np.eye(len(confusion))
    right = 2 * one[:, :, None] * one[:, None, :]
    touched = one[:, :, None] + one[:, None, :]
    return f1, np.nan_to_num(ratio(right - f1[:, None, None] * touched, both[:, None, None]))


def _macro_f1(confusion: Values) -> Values:
    occurs = (confusion.sum(axis=1) + confusion.sum(axis=0)) > 0
    return np.asarray(_class_f1(confusion)[1].sum(axis=0) / occurs.sum(), dtype=np.float64)


def _weighted_f1(confusion: Values) -> Values:
    f1, gradient = _class_f1(confusion)
    support, total = confusion.sum(axis=1), confusion.sum()
    moved = np.einsum("k,kij->ij", support, gradient) + f1[:, None]
    return np.asarray((moved - support @ f1 / total) / total, dtype=np.float64)


def _quadratic_kappa(confusion: Values) -> Values:
    grade = np.arange(len(confusion))
    cost = (grade[:, None] - grade[None, :]) ** 2.0
    total, true, called = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    observed, chance = (cost * confusion).sum(), true @ cost @ called
    by_margins = (cost @ called)[:, None] + (true @ cost)[None, :]
    return np.asarray(-(observed + total * cost - total * observed * by_margins / chance) / chance, dtype=np.float64)


def _half(confusion: Values, base: bool) -> tuple[float, Values]:
    """Accuracy on images of base classes, or of the others, with its gradient."""
    inside = (np.arange(len(confusion)) < classification.base_classes(len(confusion))) == base
    total = confusion[inside].sum()
    accuracy = np.diagonal(confusion)[inside].sum() / total
    return float(accuracy), np.where(inside[:, None], (np.eye(len(confusion)) - accuracy) / total, 0.0)


def _harmonic_mean(confusion: Values) -> Values:
    (base, by_base), (novel, by_novel) = _half(confusion, True), _half(confusion, False)
    if base == novel == 0:
        return np.zeros_like(confusion)
    return np.asarray(2 * (novel**2 * by_base + base**2 * by_novel) / (base + novel) ** 2, dtype=np.float64)


METRICS: dict[str, tuple[Callable[[Values], Values], Callable[[Values], Values]]] = {
    "accuracy": (classification.accuracy, _accuracy),
    "balanced_accuracy": (classification.mean_recall, _balanced_accuracy),
    "macro_f1": (classification.macro_f1, _macro_f1),
    "weighted_f1": (classification.weighted_f1, _weighted_f1),
    "quadratic_kappa": (classification.quadratic_kappa, _quadratic_kappa),
    "harmonic_mean": (classification.harmonic_mean, _harmonic_mean),
    "accuracy_base": (classification.base_accuracy, lambda confusion: _half(confusion, True)[1]),
    "accuracy_novel": (classification.novel_accuracy, lambda confusion: _half(confusion, False)[1]),
}
"""Per metric its formula from confusion sums [..., K²], and the gradient of that at one matrix."""
