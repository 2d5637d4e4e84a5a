"""Counts of right and wrong calls, the rates made of them, and the threshold that makes the calls."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.resampling import Positions, Values, mean_of_defined, ratio

TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_NEGATIVE = range(4)


def call_columns(target: ArrayLike, score: ArrayLike, threshold: float | Values) -> Values:
    """[N, 4] indicators: true positive, false positive, false negative, true negative.

    A score at or above ``threshold`` (one, or one per row) is called positive.

    Args:
        target: 0 or 1, [N].
        score: [N].
        threshold: one, or one per row [N].

    >>> call_columns([1, 0, 1, 0], [0.5, 0.6, 0.2, 0.1], threshold=0.5).sum(axis=0).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    label = np.asarray(target).astype(bool)
    called = np.asarray(score, dtype=np.float64) >= threshold
    return np.stack([label & called, ~label & called, label & ~called, ~label & ~called], axis=1).astype(np.float64)


def sensitivity(counts: Values) -> Values:
    """Share of positives called positive, from counts [..., 4]; NaN without a positive.

    >>> counts = np.array([8.0, 3.0, 2.0, 27.0])  # true and false positives, false and true negatives
    >>> round(float(sensitivity(counts)), 3)
    0.8
    """
    return ratio(counts[..., TRUE_POSITIVE], counts[..., TRUE_POSITIVE] + counts[..., FALSE_NEGATIVE])


def specificity(counts: Values) -> Values:
    """Share of negatives called negative, from counts [..., 4]; NaN without a negative.

    >>> counts = np.array([8.0, 3.0, 2.0, 27.0])  # true and false positives, false and true negatives
    >>> round(float(specificity(counts)), 3)
    0.9
    """
    return ratio(counts[..., TRUE_NEGATIVE], counts[..., TRUE_NEGATIVE] + counts[..., FALSE_POSITIVE])


def f1(counts: Values) -> Values:
    """2 TP / (2 TP + FP + FN), from counts [..., 4]; NaN without a positive and without a positive call.

    >>> counts = np.array([8.0, 3.0, 2.0, 27.0])  # true and false positives, false and true negatives
    >>> round(float(f1(counts)), 3)
    0.762
    """
    twice = 2 * counts[..., TRUE_POSITIVE]
    return ratio(twice, twice + counts[..., FALSE_POSITIVE] + counts[..., FALSE_NEGATIVE])


def balanced_accuracy(counts: Values) -> Values:
    """Mean of sensitivity and specificity, from counts [..., 4].

    >>> counts = np.array([8.0, 3.0, 2.0, 27.0])  # true and false positives, false and true negatives
    >>> round(float(balanced_accuracy(counts)), 3)
    0.85
    """
    return (sensitivity(counts) + specificity(counts)) / 2


def choose_threshold(target: ArrayLike, score: ArrayLike, rule: str = "youden") -> float:
    """The operating threshold that ``rule`` picks on the validation set; a score at or above it is positive.

    Candidates stand midway between neighbouring distinct scores (so a gap between the classes is halved), at
    the lowest score (all positive) and just above the highest (all negative).

    - ``"youden"``: largest sensitivity + specificity. ``"f1"``: largest F1. Ties go to the lower threshold.
    - ``"sensitivity=.9"``: the highest threshold with at least that sensitivity.
    - ``"specificity=.9"``: the lowest threshold with at least that specificity.

    Args:
        target: labels 0 or 1 of validation images, [N]; never of test images.
        score: [N].
        rule: one of the above.

    Raises:
        ValueError: an unknown rule, a level outside (0, 1], or only one class.

    >>> label, score = [0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.4, 0.5, 0.7, 0.9]
    >>> [round(choose_threshold(label, score, rule), 2) for rule in ("youden", "sensitivity=.6", "specificity=.9")]
    [0.3, 0.6, 0.6]
    """
    label, value = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    if label.all() or not label.any():
        raise ValueError("a threshold cannot be chosen where all labels are alike")
    thresholds, counts = _operating_points(label, value)
    name, _, level_text = rule.partition("=")
    if name == "youden" and not level_text:
        return float(thresholds[_first_largest(balanced_accuracy(counts))])
    if name == "f1" and not level_text:
        return float(thresholds[_first_largest(f1(counts))])
    if name not in ("sensitivity", "specificity"):
        raise ValueError(f"unknown threshold rule {rule!r}; use youden, f1, sensitivity=.9 or specificity=.9")
    level = _level(rule, level_text)
    if name == "sensitivity":
        return float(thresholds[np.flatnonzero(sensitivity(counts) >= level - 1e-12)[-1]])
    return float(thresholds[np.flatnonzero(specificity(counts) >= level - 1e-12)[0]])


def _level(rule: str, text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 0 < level <= 1:
        raise ValueError(f"threshold rule {rule!r} needs a level above 0 and at most 1, such as sensitivity=.9")
    return level


def _operating_points(label: NDArray[np.bool_], value: Values) -> tuple[Values, Values]:
    """Ascending candidate thresholds [T] and the counts [T, 4] that each gives."""
    distinct = np.unique(value)
    middle = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    # Between neighbouring floats there is no middle: the upper one separates them as well.
    middle = np.where(middle > distinct[:-1], middle, distinct[1:])
    thresholds = np.concatenate([distinct[:1], middle, [np.nextafter(distinct[-1], np.inf)]])
    missed = np.searchsorted(np.sort(value[label]), thresholds, side="left")
    rejected = np.searchsorted(np.sort(value[~label]), thresholds, side="left")
    positives, negatives = label.sum(), (~label).sum()
    counts = np.stack([positives - missed, negatives - rejected, missed, rejected], axis=1)
    return thresholds, counts.astype(np.float64)


def _first_largest(criterion: Values) -> int:
    """Position of the first value within rounding of the largest."""
    return int(np.flatnonzero(criterion >= np.nanmax(criterion) - 1e-12)[0])


def confusion_columns(target: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Values:
    """[N, K²] indicators of (true class, predicted class), true class slow.

    Args:
        target, predicted: class numbers 0 … K − 1, [N].
        classes: K.

    >>> confusion_columns(np.array([0, 1]), np.array([0, 0]), classes=2).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    columns = np.zeros((len(target), classes * classes))
    columns[np.arange(len(target)), target * classes + predicted] = 1.0
    return columns


def accuracy(confusion: Values) -> Values:
    """Share of right calls, from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(accuracy(confusion)), 3)
    0.7
    """
    square = _square(confusion)
    return ratio(_diagonal(square).sum(axis=-1), square.sum(axis=(-2, -1)))


def mean_recall(confusion: Values) -> Values:
    """Balanced accuracy: mean recall over the classes that occur, from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(mean_recall(confusion)), 3)
    0.728
    """
    square = _square(confusion)
    return mean_of_defined(np.moveaxis(ratio(_diagonal(square), square.sum(axis=-1)), -1, 0))


def macro_f1(confusion: Values) -> Values:
    """Mean F1 over the classes that occur or are called, from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(macro_f1(confusion)), 3)
    0.701
    """
    return mean_of_defined(np.moveaxis(_class_f1(_square(confusion)), -1, 0))


def weighted_f1(confusion: Values) -> Values:
    """Mean F1 over classes weighted by how often they occur, from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(weighted_f1(confusion)), 3)
    0.697
    """
    square = _square(confusion)
    support = square.sum(axis=-1)
    score = np.where(support > 0, _class_f1(square), 0.0)
    return ratio((support * score).sum(axis=-1), support.sum(axis=-1))


def quadratic_kappa(confusion: Values) -> Values:
    """Cohen's (1968) weighted kappa with weights (i − j)², from confusion sums [..., K²].

    At most 1; NaN where chance explains all. Only classes that occur or are called carry weight, but their distance is
    that of the class numbers.

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(quadratic_kappa(confusion)), 3)
    0.722
    """
    square = _square(confusion)
    grade = np.arange(square.shape[-1])
    cost = (grade[:, None] - grade[None, :]) ** 2.0
    total = square.sum(axis=(-2, -1))
    chance = np.einsum("...i,ij,...j->...", square.sum(axis=-1), cost, square.sum(axis=-2))
    return 1 - ratio(total * (square * cost).sum(axis=(-2, -1)), chance)


def base_accuracy(confusion: Values) -> Values:
    """Share of right calls on images of base classes, the first ceil(K / 2), from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(base_accuracy(confusion)), 3)
    0.688
    """
    return _accuracy_of(confusion, slice(None, base_classes(_square(confusion).shape[-1])))


def novel_accuracy(confusion: Values) -> Values:
    """Share of right calls on images of the other classes, from confusion sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(novel_accuracy(confusion)), 3)
    0.75
    """
    return _accuracy_of(confusion, slice(base_classes(_square(confusion).shape[-1]), None))


def harmonic_mean(confusion: Values) -> Values:
    """2·b·n / (b + n) of base and novel accuracy, 0 where either is (Xian et al., CVPR 2017), from sums [..., K²].

    >>> confusion = np.array([5.0, 1, 0, 2, 6, 2, 0, 1, 3])  # 3 × 3, true class slow
    >>> round(float(harmonic_mean(confusion)), 3)
    0.717
    """
    base, novel = base_accuracy(confusion), novel_accuracy(confusion)
    mean = ratio(2 * base * novel, base + novel)
    # NaN where there is no image of a half.
    return np.where((base == 0) & (novel == 0), 0.0, mean)


FEWEST_TO_HALVE = 4
"""Classes below which a half would hold one class alone, on which every answer is right."""


def base_classes(classes: int) -> int:
    """How many of so many classes are base classes: the first ceil(K / 2).

    >>> base_classes(7)
    4
    """
    return -(-classes // 2)


def _accuracy_of(confusion: Values, half: slice) -> Values:
    square = _square(confusion)
    return ratio(_diagonal(square)[..., half].sum(axis=-1), square[..., half, :].sum(axis=(-2, -1)))


def _square(confusion: Values) -> Values:
    classes = round(confusion.shape[-1] ** 0.5)
    return confusion.reshape(*confusion.shape[:-1], classes, classes)


def _diagonal(square: Values) -> Values:
    return np.diagonal(square, axis1=-2, axis2=-1)


def _class_f1(square: Values) -> Values:
    return ratio(2 * _diagonal(square), square.sum(axis=-1) + square.sum(axis=-2))


def class_indices(target: ArrayLike, classes: int) -> Positions:
    """Labels as whole class numbers [N].

    Raises:
        ValueError: a label is no whole number in 0 … classes − 1.

    >>> class_indices([0.0, 2.0, 1.0], classes=3).tolist()
    [0, 2, 1]
    """
    value = np.asarray(target, dtype=np.float64)
    if not (np.isfinite(value).all() and (value == np.floor(value)).all() and ((value >= 0) & (value < classes)).all()):
        raise ValueError(f"class labels must be whole numbers from 0 to {classes - 1}")
    return value.astype(np.intp)
