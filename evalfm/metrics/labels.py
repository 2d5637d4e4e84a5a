"""Metrics of a yes-or-no question: of a binary task, of each label of several, and their means over labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.metrics.certainty import AN_EXPECTATION, CERTAINTY, EXPECTATION, LINE, NO_PROBABILITIES, fewest_of_a_class
from evalfm.metrics.metric import (
    THRESHOLD,
    Contrast,
    Measure,
    Metric,
    Table,
    same_images,
)
from evalfm.metrics.ranking import average_precision, chance_precision, folds_that_rank, measured_auroc
from evalfm.metrics.rows import Question, Questions
from evalfm.statistics import classification
from evalfm.statistics.comparison import Difference, contrast_macro_aurocs
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import (
    Average,
    Positions,
    Statistic,
    Values,
    WeightedSum,
    mean_over_patients,
)
from evalfm.statistics.shares import Share

DEFAULT_THRESHOLD = 0.5
"""Threshold of probabilities where none was chosen on validation data."""
NO_THRESHOLD = "no threshold: none was given or chosen on val, and scores outside [0, 1] have no usual one"
EXCLUSIVE = ("multiclass", "ordinal")

EVERY_TABLE: tuple[Table, ...] = ("subgroups", "strata of a report", "operating points")
Counted = Callable[[Values, Positions, int], Statistic]
"""From the table of calls [n, 4], the rows' patient codes [n] and the number of patients to what is counted."""
Of = Literal["positive", "negative", "called", "not called", "all"]


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
    try:
        return classification.choose_threshold(target, score, rule)
    except ValueError as error:
        raise EvalfmError(f"No threshold on val: {error}; give val images of both classes or another rule.") from None


def _counted(statistic: Counted, of: Of, undefined: str, threshold: float | None = None) -> Measure:
    """What is counted at a threshold, by default that of the predictions, and the images that it is a share of.

    A default threshold means something for probabilities alone.
    """

    def measure(rows: Question) -> Measured | Estimate:
        label, patients = rows.label, rows.patients
        if threshold == DEFAULT_THRESHOLD and not rows.probable:
            return Estimate.absent(NO_PROBABILITIES, n=patients.behind(), unit=rows.unit)
        if threshold is None and not rows.has_threshold:
            return Estimate.absent(NO_THRESHOLD, n=patients.behind(), unit=rows.unit)
        counts = classification.call_columns(
            label, rows.score, rows.beside(THRESHOLD) if threshold is None else threshold
        )
        called = counts[:, classification.TRUE_POSITIVE] + counts[:, classification.FALSE_POSITIVE] > 0
        among = {"positive": label == 1, "negative": label == 0, "called": called, "not called": ~called}.get(of)
        made = statistic(counts, patients.codes, patients.count)
        right = counts[:, classification.TRUE_POSITIVE] + counts[:, classification.TRUE_NEGATIVE]
        # Shares of images that the truth picks; what a model calls positive is other images for every model.
        share = statistic in (SENSITIVITY, SPECIFICITY, ACCURACY)
        return Measured(
            made,
            patients.behind(among),
            undefined,
            fewest_of_a_class(rows) if of == "all" else None,
            by_patient=(lambda: mean_over_patients(right, patients, among)) if share else None,
        )

    return measure


def _share(*right: int, among: tuple[int, ...], shown: Callable[[Values], Values] | None = None) -> Counted:
    """The share of the cells ``right`` of a table of calls among the cells ``among``."""

    def statistic(counts: Values, codes: Positions, patients: int) -> Share:
        return Share(counts[:, right].sum(axis=1), counts[:, among].sum(axis=1), codes, patients, shown)

    return statistic


def _both_halves(counts: Values, codes: Positions, patients: int) -> WeightedSum:
    return WeightedSum([each(counts, codes, patients) for each in (SENSITIVITY, SPECIFICITY)], [0.5, 0.5])


HIT, ALARM, MISS, REJECTED = (
    classification.TRUE_POSITIVE,
    classification.FALSE_POSITIVE,
    classification.FALSE_NEGATIVE,
    classification.TRUE_NEGATIVE,
)
SENSITIVITY, SPECIFICITY = _share(HIT, among=(HIT, MISS)), _share(REJECTED, among=(REJECTED, ALARM))
ACCURACY = _share(HIT, REJECTED, among=(HIT, ALARM, MISS, REJECTED))
# F1 rises with the share J of true positives among images that are positive or called so: 2 J / (1 + J).
F1 = _share(HIT, among=(HIT, ALARM, MISS), shown=lambda share: 2 * share / (1 + share))


def _of_known(measure: Measure) -> Measure:
    """Absent of a question that has no metric at all."""
    return lambda rows: measure(rows) if rows.absent is None else Estimate.absent(rows.absent, unit=rows.unit)


def _mean_over(metric: Metric) -> Measure:
    """Mean over the questions that have the metric; those that do not are named in its note."""

    def measure(rows: Questions) -> Measured | Estimate:
        parts = {name: metric.measure(question) for name, question in rows.questions.items()}
        present = {name: part for name, part in parts.items() if isinstance(part, Measured)}
        n, plural, without = rows.patients.count, rows.plural, sorted(set(parts) - set(present))
        if not present:
            reasons = "; ".join(f"{name}: {part.reason}" for name, part in parts.items() if isinstance(part, Estimate))
            return Estimate.absent(f"no {plural} can be estimated ({reasons})", n=n, unit=rows.unit)
        return Measured(
            Average([part.statistic for part in present.values()], plural),
            n=n,
            undefined=f"undefined for all {plural}",
            fewest=min(part.n if part.fewest is None else part.fewest for part in present.values()),
            note=f"over {len(present)} of {len(parts)} {plural}, without {', '.join(without)}" if without else None,
        )

    return measure


def _mean_chance(rows: Questions) -> Estimate:
    """Over the questions of which average precision is."""
    parts = [AUPRC_CHANCE.measure(each) for each in rows.questions.values()]
    values = [each.value for each in parts if isinstance(each, Estimate) and each.value is not None]
    if not values:
        return Estimate.absent("no image is positive", n=rows.patients.count, unit=rows.unit)
    mean = float(np.mean(values))
    return Estimate(mean, n=rows.patients.count, unit=rows.unit, reason=AN_EXPECTATION, method=EXPECTATION)


def _macro(metric: Metric, *kinds: str, beside: str = "", contrast: Contrast | None = None) -> Metric:
    """The mean of ``metric`` over labels or classes."""
    return Metric(
        f"macro_{metric.name}",
        ("multilabel", *kinds),
        _mean_over(metric),
        beside=(f"macro_{beside}",) if beside else (),
        needs=metric.needs,
        contrast=contrast,
        words=f"macro {metric.words}",
    )


def _same_images_in_every_fold(runs: Sequence[Questions]) -> Sequence[Questions]:
    """Refuse folds that cannot rank a class: they would drop out of its mean, which no paired variance could follow."""
    same_images(runs)
    folds, patient = runs[0].scored.folds, runs[0].scored.patient
    for question in _ranked(runs[0]):
        for fold in () if folds is None else np.unique(folds):
            counts = [len(np.unique(patient[(folds == fold) & (question.every_label == value)])) for value in (1, 0)]
            if min(counts) < 2:
                raise EvalfmError(
                    f"fold {int(fold) + 1} tests {counts[0]} patients with {question.name!r} and {counts[1]} without, "
                    "and two of either are needed; use fewer folds, or another metric with --metric."
                )
    return runs


def _ranked(rows: Questions) -> list[Question]:
    """Those with an AUROC."""
    return [each for each in rows.questions.values() if isinstance(AUROC.measure(each), Measured)]


def _difference_of_areas(runs: Sequence[Sequence[Question]], weights: Values) -> list[Difference]:
    """Of the mean AUROC over the questions, by the joint covariance of Obuchowski's structural components.

    Of one question alone, over the folds that its AUROC is of.
    """
    label = np.stack([each.every_label for each in runs[0]], axis=1)
    score = np.stack([np.stack([each.every_score for each in rows], axis=1) for rows in runs], axis=2)
    first = runs[0][0]
    scored, keep = first.scored, folds_that_rank(first.label, first.patients)
    if scored.folds is None or keep is None or len(runs[0]) > 1:
        return contrast_macro_aurocs(label, score, weights, scored.patient, folds=scored.folds)
    inside = keep[scored.patients.folds]
    return contrast_macro_aurocs(
        label[inside], score[inside], weights, scored.patient[inside], folds=scored.folds[inside]
    )


DELONG = "DeLong with the covariance of Obuchowski"
AUROC = Metric(
    "auroc",
    ("binary",),
    _of_known(measured_auroc),
    of_class=("multilabel", *EXCLUSIVE),
    words="AUROC",
    tables=EVERY_TABLE,
    contrast=Contrast(
        f"{DELONG} for {{}}",
        lambda runs, weights: _difference_of_areas([[rows] for rows in runs], weights),
        same_images,
    ),
)
AUPRC = Metric(
    "auprc",
    ("binary",),
    _of_known(average_precision),
    of_class=("multilabel",),
    tables=("subgroups",),
    beside=("auprc_chance",),
)
AUPRC_CHANCE = Metric(
    "auprc_chance",
    ("binary",),
    _of_known(chance_precision),
    of_class=("multilabel",),
    better=None,
    tables=("subgroups",),
    words="AUPRC by chance",
)
MACRO_CHANCE = Metric("macro_auprc_chance", ("multilabel",), _mean_chance, better=None, words="macro AUPRC by chance")


def _rate(
    name: str,
    statistic: Counted,
    of: Of,
    undefined: str,
    *,
    other_half: str = "",
    constant: str = "",
    tables: tuple[Table, ...] = (),
) -> tuple[Metric, Metric, Metric]:
    """What is counted at the chosen threshold, the mean of that over labels, and the same at .5.

    Beside it stands its ``other_half``, or what a ``constant`` answer has.
    """
    both = (constant,) if constant else ()
    measure = _of_known(_counted(statistic, of, undefined))
    chosen = Metric(
        name,
        ("binary",),
        measure,
        of_class=("multilabel",),
        needs=THRESHOLD,
        beside=(other_half,) if other_half else both,
        tables=tables,
        default=f"{name}_default",
        constant=constant,
    )
    default = Metric(
        f"{name}_default",
        ("binary",),
        _counted(statistic, of, undefined, DEFAULT_THRESHOLD),
        beside=(f"{other_half}_default",) if other_half else both,
    )
    return chosen, _macro(chosen, beside=other_half), default


RATES = (
    _rate(
        "sensitivity",
        SENSITIVITY,
        "positive",
        "no image is positive",
        other_half="specificity",
        tables=EVERY_TABLE,
    ),
    _rate(
        "specificity",
        SPECIFICITY,
        "negative",
        "no image is negative",
        other_half="sensitivity",
        tables=EVERY_TABLE,
    ),
    _rate(
        "ppv",
        _share(HIT, among=(HIT, ALARM)),
        "called",
        "no image is called positive at the threshold",
        other_half="npv",
    ),
    _rate(
        "npv",
        _share(REJECTED, among=(REJECTED, MISS)),
        "not called",
        "every image is called positive at the threshold",
        other_half="ppv",
    ),
    # Where most images are positive, F1 is high for calling all of them so.
    _rate(
        "f1",
        F1,
        "all",
        "no image is positive or called positive",
        constant="f1_all_positive",
        tables=("operating points",),
    ),
    _rate(
        "accuracy",
        ACCURACY,
        "all",
        "no image",
        tables=("operating points",),
    ),
    _rate("balanced_accuracy", _both_halves, "all", "one class is missing"),
)


METRICS = (
    _macro(
        AUROC,
        *EXCLUSIVE,
        contrast=Contrast(
            f"{DELONG}, joint over the classes, for {{}}",
            lambda runs, weights: _difference_of_areas([_ranked(rows) for rows in runs], weights),
            _same_images_in_every_fold,
        ),
    ),
    _macro(AUPRC, beside="auprc_chance"),
    MACRO_CHANCE,
    *(macro for _, macro, _ in RATES),
    AUROC,
    AUPRC,
    AUPRC_CHANCE,
    *(chosen for chosen, _, _ in RATES),
    *(plain for plain, _ in CERTAINTY),
    *LINE,
    *(default for _, _, default in RATES),
    Metric(
        "f1_all_positive",
        ("binary",),
        _counted(F1, "all", "no image is positive or called positive", -np.inf),
        paired=False,
    ),
    *(calibrated for _, calibrated in CERTAINTY),
)
"""In the order of tables."""
