"""Metrics of exclusive classes, ordered or not, and of base-to-novel, most of them of the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics.certainty import NO_PROBABILITIES, calibration_rms, ece, expected_ece
from evalfm.metrics.labels import EXCLUSIVE
from evalfm.metrics.metric import CALIBRATED, Better, Contrast, Measure, Metric, mean_among, share_among
from evalfm.metrics.rows import Classes, Rows, probable
from evalfm.statistics import classification
from evalfm.statistics.calibration import CLIP
from evalfm.statistics.comparison import ConfusionStatistic, Difference, contrast_confusions
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import FromSums, Positions, Statistic, Values, ratio

Formula = Callable[[Values], Values]
Certainty = Callable[[Classes, Values], Measured | Estimate]
BASE_TO_NOVEL = ("base-to-novel",)


def _statistic(rows: Classes, answer: Positions, formula: Formula) -> Statistic:
    """``formula`` of the confusion matrix of the true class and the ``answer`` [N], that of all folds together."""
    confusion = classification.confusion_columns(rows.label, answer, rows.scores.shape[1])
    return FromSums(confusion, rows.patients.codes, rows.patients.count, formula)


def _measured(formula: Formula) -> Measure:
    undefined = "one class only, both true and called"
    return lambda rows: Measured(_statistic(rows, rows.called, formula), rows.patients.count, undefined)


def _accuracy(rows: Classes) -> Measured:
    return share_among(rows, rows.called == rows.label, undefined="no image")


def _influence(statistic: ConfusionStatistic) -> Contrast:
    """By the influence of each patient."""

    def test(runs: Sequence[Classes], weights: Values) -> list[Difference]:
        first, called = runs[0], np.stack([rows.called for rows in runs], axis=1)
        classes, scored = first.scores.shape[1], first.scored
        return contrast_confusions(first.label, called, classes, statistic, weights, scored.patient)

    return Contrast("influence values of patients for {}", test)


def _of_confusion(of: ConfusionStatistic, kinds: tuple[str, ...] = EXCLUSIVE) -> Metric:
    words = of.name.replace("_", " ")
    return Metric(of.name, kinds, _measured(of.formula), contrast=_influence(of), words=words)


def _balanced_accuracy(confusion: Values) -> Values:
    """Gradient [K, K] at a confusion matrix [K, K], true class first; likewise below."""
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


def _in_halves(of: ConfusionStatistic, answer: Callable[[Classes], Positions]) -> Measure:
    def measure(rows: Classes) -> Measured:
        base, patients, undefined = _of_base(rows), rows.patients, "no image of a base class, or none of a novel one"
        half = {"accuracy_base": base, "accuracy_novel": ~base}.get(of.name)
        fewest = min(patients.behind(base), patients.behind(~base))
        if half is None:
            return Measured(_statistic(rows, answer(rows), of.formula), patients.count, undefined, fewest)
        share = share_among(rows, answer(rows) == rows.label, half, undefined=undefined)
        return replace(share, n=patients.count, fewest=fewest)

    return measure


def _of_base(rows: Classes) -> NDArray[np.bool_]:
    return np.asarray(rows.label < classification.base_classes(rows.scores.shape[1]))


def _most_frequent(rows: Classes) -> Positions:
    """The most frequent class of each image's half, [N]; of equals the first."""
    label, of_base = rows.label, _of_base(rows)
    answer = np.zeros(len(label), dtype=np.intp)
    for half in (of_base, ~of_base):
        if half.any():
            answer[half] = np.bincount(label[half]).argmax()
    return answer


def _of_halves(of: ConfusionStatistic, beside: str = "") -> tuple[Metric, Metric]:
    """Of the answers, and of a baseline that always predicts the most frequent class of the image's half."""
    constant = Metric(
        f"{of.name}_constant",
        BASE_TO_NOVEL,
        _in_halves(of, _most_frequent),
        beside=(f"{beside}_constant",) if beside else (),
        paired=False,
    )
    answers = Metric(
        of.name,
        BASE_TO_NOVEL,
        _in_halves(of, lambda rows: rows.called),
        beside=(beside,) if beside else (),
        contrast=_influence(of),
        words=of.name.replace("_", " "),
        constant=constant.name,
    )
    return answers, constant


def _certainty(measure: Certainty, calibrated: bool = False) -> Measure:
    """Of the scores, or of those at the temperature that val chose; absent where they are no probabilities."""

    def of(rows: Classes) -> Measured | Estimate:
        scores = rows.scored.of_classes(CALIBRATED) if calibrated else rows.scores
        if not probable(scores):
            return Estimate.absent(NO_PROBABILITIES, n=rows.patients.count, unit=rows.unit)
        return measure(rows, scores)

    return of


def _log_loss(rows: Classes, scores: Values) -> Measured:
    true = np.clip(scores[np.arange(len(scores)), rows.label], CLIP, 1)
    return mean_among(rows, -np.log(true), undefined="no image")


def _of_the_answer(measure: Callable[[Rows, Values, Values], Measured | Estimate]) -> Certainty:
    """Of the class that is predicted: whether it is right, and how sure it is."""
    return lambda rows, scores: measure(
        rows, (scores.argmax(axis=1) == rows.label).astype(np.float64), scores.max(axis=1)
    )


def _expected_ece(rows: Classes, scores: Values) -> Estimate:
    return expected_ece(rows, scores.max(axis=1))


OF_GRADES = ConfusionStatistic("quadratic_kappa", classification.quadratic_kappa, _quadratic_kappa)
OF_CLASSES = (
    ConfusionStatistic("balanced_accuracy", classification.mean_recall, _balanced_accuracy),
    ConfusionStatistic("macro_f1", classification.macro_f1, _macro_f1),
    ConfusionStatistic("weighted_f1", classification.weighted_f1, _weighted_f1),
)
OF_HALVES = (
    ConfusionStatistic("harmonic_mean", classification.harmonic_mean, _harmonic_mean),
    ConfusionStatistic("accuracy_base", classification.base_accuracy, lambda matrix: _half(matrix, True)[1]),
    ConfusionStatistic("accuracy_novel", classification.novel_accuracy, lambda matrix: _half(matrix, False)[1]),
)
QUADRATIC_KAPPA = _of_confusion(OF_GRADES, ("ordinal",))
HALVES = tuple(map(_of_halves, OF_HALVES, ("", "accuracy_novel", "accuracy_base")))
"""Each with that of the constant answer."""


def _of_certainty(
    name: str, measure: Certainty, better: Better = "lower", *, paired: bool = False, beside: str = ""
) -> tuple[Metric, Metric]:
    """Of the scores, and the same after temperature scaling."""
    plain, calibrated = (
        Metric(
            f"{name}{ending}",
            EXCLUSIVE,
            _certainty(measure, bool(ending)),
            better=better,
            needs=CALIBRATED if ending else None,
            paired=paired,
            beside=(f"{beside}{ending}",) if beside else (),
            calibrated="" if ending else f"{name}_calibrated",
        )
        for ending in ("", "_calibrated")
    )
    return plain, calibrated


CERTAINTY = (
    _of_certainty("log_loss", _log_loss, paired=True),
    _of_certainty("ece", _of_the_answer(ece), None, beside="ece_expected"),
    _of_certainty("ece_expected", _expected_ece, None),
    _of_certainty("calibration_rms", _of_the_answer(calibration_rms)),
)
METRICS = (
    Metric(
        "accuracy",
        EXCLUSIVE,
        _accuracy,
        words="accuracy",
    ),
    *map(_of_confusion, OF_CLASSES),
    *(plain for plain, _ in CERTAINTY),
    *(calibrated for _, calibrated in CERTAINTY),
    *(answers for answers, _ in HALVES),
    *(constant for _, constant in HALVES),
)
"""In the order of tables."""
