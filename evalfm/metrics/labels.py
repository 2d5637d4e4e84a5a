"""Metrics of a yes-or-no question: of a binary task, of each label of several, and their means over labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.metrics.metric import CALIBRATED, THRESHOLD, Contrast, Measure, Metric, Table, mean_among, same_images
from evalfm.metrics.rows import Question, Questions, Rows, probable
from evalfm.statistics import classification
from evalfm.statistics.auroc import Auroc, average_precision_statistic
from evalfm.statistics.calibration import calibration_error_statistic, calibration_line_statistic
from evalfm.statistics.comparison import Difference, contrast_macro_aurocs
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Average, FromRows, FromSums, Positions, Values, over_folds, sums_over_folds

FEWEST_PATIENTS = 10
"""AUROC needs so many patients with a positive and with a negative image."""
DEFAULT_THRESHOLD = 0.5
"""Threshold of probabilities where none was chosen on validation data."""
NO_PROBABILITIES = "scores outside [0, 1] are no probabilities"
NO_THRESHOLD = "no threshold: none was given or chosen on val, and scores outside [0, 1] have no usual one"
EXCLUSIVE = ("multiclass", "ordinal")

EVERY_TABLE: tuple[Table, ...] = ("subgroups", "strata of a report", "operating points")
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


def measured_auroc(rows: Question) -> Measured | Estimate:
    """AUROC, absent below ten positive or ten negative patients; one with images of both kinds counts in both."""
    label, value, patients = rows.label, rows.score, rows.patients
    positive, negative = patients.behind(label == 1), patients.behind(label == 0)
    fewest = min(positive, negative)
    if fewest < FEWEST_PATIENTS:
        reason = (
            f"needs at least {FEWEST_PATIENTS} {rows.unit} with a positive label and as many with a negative one; "
            f"there are {positive} and {negative}"
        )
        return Estimate.absent(reason, n=patients.behind(), unit=rows.unit)

    def build(some: Positions) -> Auroc:
        return Auroc(label[some], value[some], patients.codes[some], patients.count)

    return Measured(
        over_folds(patients, build), n=patients.behind(), undefined="no fold holds both classes", fewest=fewest
    )


def _average_precision(rows: Question) -> Measured:
    label, patients = rows.label, rows.patients

    def build(some: Positions) -> FromRows:
        return average_precision_statistic(label[some], rows.score[some], patients.codes[some], patients.count)

    statistic = over_folds(patients, build)
    return Measured(statistic, n=patients.behind(), undefined="no image is positive", fewest=_fewest(rows))


def _fewest(rows: Question) -> int:
    """Patients of the rarer class."""
    return min(rows.patients.behind(rows.label == 1), rows.patients.behind(rows.label == 0))


def _counted(formula: Callable[[Values], Values], of: Of, undefined: str, threshold: float | None = None) -> Measure:
    """What is counted at a threshold, by default that of the predictions: its formula and the images it is a share of.

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
        statistic = sums_over_folds(counts, patients, formula)
        return Measured(statistic, patients.behind(among), undefined, _fewest(rows) if of == "all" else None)

    return measure


def _of_probabilities(measure: Callable[[Question, Values], Measured], column: str | None = None) -> Measure:
    """Of the scores, or of a column beside them; absent where they are no probabilities."""

    def of(rows: Question) -> Measured | Estimate:
        score = rows.score if column is None else rows.beside(column)
        if not probable(score):
            return Estimate.absent(NO_PROBABILITIES, n=rows.patients.behind(), unit=rows.unit)
        return measure(rows, score)

    return of


def _brier(rows: Question, score: Values) -> Measured:
    return mean_among(rows, (score - rows.label) ** 2, undefined="no image")


def _ece(rows: Question, score: Values) -> Measured:
    return calibration_error(rows, rows.label, score)


def calibration_error(rows: Rows, right: Values, score: Values) -> Measured:
    """ECE of how sure ``score`` [n] is of what is ``right`` [n], 0 or 1."""
    patients = rows.patients

    def build(some: Positions) -> FromSums:
        return calibration_error_statistic(right[some], score[some], patients.codes[some], patients.count)

    return Measured(over_folds(patients, build), n=patients.behind(), undefined="no image")


def _line(which: Literal["slope", "intercept"]) -> Callable[[Question, Values], Measured]:
    def measure(rows: Question, score: Values) -> Measured:
        label, patients = rows.label, rows.patients

        def build(some: Positions) -> FromRows:
            return calibration_line_statistic(label[some], score[some], patients.codes[some], patients.count, which)

        undefined = "there is no fit: one class is missing, the scores are constant, or they separate the classes"
        return Measured(over_folds(patients, build), patients.behind(), undefined, _fewest(rows))

    return measure


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
    """Of the mean AUROC over the questions, by the joint covariance of Obuchowski's structural components."""
    label = np.stack([each.every_label for each in runs[0]], axis=1)
    score = np.stack([np.stack([each.every_score for each in rows], axis=1) for rows in runs], axis=2)
    scored = runs[0][0].scored
    return contrast_macro_aurocs(label, score, weights, scored.patient, folds=scored.folds)


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
AUPRC = Metric("auprc", ("binary",), _of_known(_average_precision), of_class=("multilabel",), tables=("subgroups",))


def _rate(
    name: str,
    formula: Callable[[Values], Values],
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
    measure = _of_known(_counted(formula, of, undefined))
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
        _counted(formula, of, undefined, DEFAULT_THRESHOLD),
        beside=(f"{other_half}_default",) if other_half else both,
    )
    return chosen, _macro(chosen, beside=other_half), default


RATES = (
    _rate(
        "sensitivity",
        classification.sensitivity,
        "positive",
        "no image is positive",
        other_half="specificity",
        tables=EVERY_TABLE,
    ),
    _rate(
        "specificity",
        classification.specificity,
        "negative",
        "no image is negative",
        other_half="sensitivity",
        tables=EVERY_TABLE,
    ),
    _rate(
        "ppv",
        classification.positive_predictive_value,
        "called",
        "no image is called positive at the threshold",
        other_half="npv",
    ),
    _rate(
        "npv",
        classification.negative_predictive_value,
        "not called",
        "every image is called positive at the threshold",
        other_half="ppv",
    ),
    # Where most images are positive, F1 is high for calling all of them so.
    _rate(
        "f1",
        classification.f1,
        "all",
        "no image is positive or called positive",
        constant="f1_all_positive",
        tables=("operating points",),
    ),
    _rate("accuracy", classification.call_accuracy, "all", "no image", tables=("operating points",)),
    _rate("balanced_accuracy", classification.balanced_accuracy, "all", "one class is missing"),
)


def _certainty(
    name: str, measure: Callable[[Question, Values], Measured], paired: bool = True
) -> tuple[Metric, Metric]:
    """Of the scores, and the same after temperature scaling."""
    calibrated = Metric(
        f"{name}_calibrated",
        ("binary",),
        _of_probabilities(measure, CALIBRATED),
        better="lower",
        needs=CALIBRATED,
        paired=paired,
    )
    plain = Metric(
        name,
        ("binary",),
        _of_probabilities(measure),
        better="lower",
        paired=paired,
        tables=("operating points",),
        calibrated=calibrated.name,
    )
    return plain, calibrated


CERTAINTY = (_certainty("brier", _brier), _certainty("ece", _ece, paired=False))
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
    _macro(AUPRC),
    *(macro for _, macro, _ in RATES),
    AUROC,
    AUPRC,
    *(chosen for chosen, _, _ in RATES),
    *(plain for plain, _ in CERTAINTY),
    Metric(
        "calibration_slope",
        ("binary",),
        _of_probabilities(_line("slope")),
        better=1.0,
        beside=("calibration_intercept",),
    ),
    Metric(
        "calibration_intercept",
        ("binary",),
        _of_probabilities(_line("intercept")),
        better=0.0,
        beside=("calibration_slope",),
    ),
    *(default for _, _, default in RATES),
    Metric(
        "f1_all_positive",
        ("binary",),
        _counted(classification.f1, "all", "no image is positive or called positive", -np.inf),
        paired=False,
    ),
    *(calibrated for _, calibrated in CERTAINTY),
)
"""In the order of tables."""
