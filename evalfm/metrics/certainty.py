"""Metrics of how far the probabilities of a yes-or-no question can be trusted: Brier score and calibration.

With folds they are of all folds together: a probability means the same whichever head gave it.
"""

from __future__ import annotations

from collections.abc import Callable

from evalfm.metrics.metric import CALIBRATED, Better, Measure, Metric, Table, mean_among
from evalfm.metrics.rows import Question, Rows, probable
from evalfm.statistics.calibration import (
    CalibrationRms,
    calibration_error,
    calibration_in_the_large_statistic,
    calibration_line_statistic,
    expected_calibration_error,
)
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import Values

NO_PROBABILITIES = "scores outside [0, 1] are no probabilities"
EXPECTATION, AN_EXPECTATION = "expectation", "an expectation, no estimate"
BIASED = "a sum of absolute gaps is above 0 for a calibrated score too; read it beside its expectation"


def fewest_of_a_class(rows: Question) -> int:
    """Patients of the rarer class."""
    return min(rows.patients.behind(rows.label == 1), rows.patients.behind(rows.label == 0))


def _of_probabilities(measure: Callable[[Question, Values], Measured | Estimate], column: str | None = None) -> Measure:
    """Of the scores, or of a column beside them; absent where they are no probabilities."""

    def of(rows: Question) -> Measured | Estimate:
        score = rows.score if column is None else rows.beside(column)
        if not probable(score):
            return Estimate.absent(NO_PROBABILITIES, n=rows.patients.behind(), unit=rows.unit)
        return measure(rows, score)

    return of


def _brier(rows: Question, score: Values) -> Measured:
    return mean_among(rows, (score - rows.label) ** 2, undefined="no image")


def _ece(rows: Question, score: Values) -> Estimate:
    return ece(rows, rows.label, score)


def ece(rows: Rows, right: Values, score: Values) -> Estimate:
    """ECE of how sure ``score`` [n] is of what is ``right`` [n], 0 or 1; it has no interval."""
    value = calibration_error(right, score)
    return Estimate(value, n=rows.patients.behind(), unit=rows.unit, reason=BIASED)


def expected_ece(rows: Rows, score: Values) -> Estimate:
    """What ECE comes to, in the mean, where ``score`` [n] is right about everything."""
    expected = expected_calibration_error(score)
    return Estimate(expected, n=rows.patients.behind(), unit=rows.unit, reason=AN_EXPECTATION, method=EXPECTATION)


def calibration_rms(rows: Rows, right: Values, score: Values) -> Measured:
    """RMS calibration error of how sure ``score`` [n] is of what is ``right`` [n], 0 or 1."""
    patients = rows.patients
    statistic = CalibrationRms(right, score, patients.codes, patients.count)
    return Measured(statistic, patients.behind(), "a bin holds images of one patient only")


def _slope(rows: Question, score: Values) -> Measured:
    statistic = calibration_line_statistic(rows.label, score, rows.patients.codes, rows.patients.count, "slope")
    undefined = "there is no fit: one class is missing, the scores are constant, or they separate the classes"
    return Measured(statistic, rows.patients.behind(), undefined, fewest_of_a_class(rows))


def _in_the_large(rows: Question, score: Values) -> Measured:
    statistic = calibration_in_the_large_statistic(rows.label, score, rows.patients.codes, rows.patients.count)
    return Measured(statistic, rows.patients.behind(), "one class is missing", fewest_of_a_class(rows))


def _certainty(
    name: str,
    measure: Callable[[Question, Values], Measured | Estimate],
    better: Better = "lower",
    *,
    paired: bool = False,
    beside: str = "",
    tables: tuple[Table, ...] = (),
) -> tuple[Metric, Metric]:
    """Of the scores, and the same after temperature scaling."""
    calibrated = Metric(
        f"{name}_calibrated",
        ("binary",),
        _of_probabilities(measure, CALIBRATED),
        better=better,
        needs=CALIBRATED,
        paired=paired,
        beside=(f"{beside}_calibrated",) if beside else (),
    )
    plain = Metric(
        name,
        ("binary",),
        _of_probabilities(measure),
        better=better,
        paired=paired,
        beside=(beside,) if beside else (),
        tables=tables,
        calibrated=calibrated.name,
    )
    return plain, calibrated


CERTAINTY = (
    _certainty("brier", _brier, paired=True, tables=("operating points",)),
    # A constant answer at the share of positives is calibrated: neither says that a score is good.
    _certainty("ece", _ece, None, beside="ece_expected", tables=("operating points",)),
    _certainty("ece_expected", lambda rows, score: expected_ece(rows, score), None, tables=("operating points",)),
    _certainty(
        "calibration_rms",
        lambda rows, score: calibration_rms(rows, rows.label, score),
        tables=("operating points",),
    ),
)
LINE = (
    Metric(
        "calibration_slope",
        ("binary",),
        _of_probabilities(_slope),
        better=1.0,
        beside=("calibration_intercept",),
    ),
    Metric(
        "calibration_intercept",
        ("binary",),
        _of_probabilities(_in_the_large),
        better=0.0,
        beside=("calibration_slope",),
    ),
)
"""The calibration line by its slope, and in the large."""
