"""Metrics of a measured quantity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from evalfm.metrics.metric import Better, Metric
from evalfm.metrics.rows import TrueAndPredicted
from evalfm.statistics import agreement
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import (
    FromRows,
    FromSums,
    Positions,
    Scale,
    Statistic,
    Values,
    mean_over_patients,
    over_folds,
)
from evalfm.statistics.studentised import FISHER, HEAVY, LOG, LOG_OF_REST, PLAIN, l_kurtosis

REGRESSION = ("regression",)
FEWEST_IN_FOLD = 3
"""Patients of a fold, of whom two lie on a line whatever they are."""
HEAVY_TAILS = "errors have heavy tails"
OF_TARGET = "unit of the target"


def _heavy_tails(rows: TrueAndPredicted) -> str | None:
    """A caution where errors have tails under which no interval of a variance was shown to cover."""
    found = l_kurtosis(rows.prediction - rows.target)
    return f"{HEAVY_TAILS} (L-kurtosis {found:.2f}): coverage not shown" if found > HEAVY else None


def _of_moments(
    name: str,
    formula: Callable[[Values], Values],
    undefined: str = "no image",
    *,
    unit: str = "",
    better: Better = "higher",
    beside: tuple[str, ...] = (),
    words: str = "",
    scale: Scale | None = None,
    of_image: Callable[[Values], Values] | None = None,
) -> Metric:
    """``formula`` of the summed moments of target and prediction, of all folds together: one head's unit is another's.

    What rests on squares has a bootstrap-t interval on its ``scale``; ``of_image``: the errors of which it is a mean.
    """

    def measure(rows: TrueAndPredicted) -> Measured:
        moments, patients = agreement.moment_columns(rows.target, rows.prediction), rows.patients
        statistic = FromSums(moments, patients.codes, patients.count, formula, scale)
        note = None if scale is None else _heavy_tails(rows)
        by_patient = None if of_image is None else partial(_mean_over_patients, rows, of_image)
        return Measured(statistic, patients.count, undefined, note=note, by_patient=by_patient)

    return Metric(name, REGRESSION, measure, (), unit, better, beside, words=words)


def _mean_over_patients(rows: TrueAndPredicted, of_image: Callable[[Values], Values]) -> Statistic:
    return mean_over_patients(of_image(rows.prediction - rows.target), rows.patients)


def _in_folds(rows: TrueAndPredicted, build: Callable[[Positions], Statistic]) -> Measured | Estimate:
    """A correlation, which a shift between heads would move: the mean over the folds of three patients or more."""
    patients, keep, note = rows.patients, None, None
    if patients.folds is not None:
        keep = np.bincount(patients.strata) >= FEWEST_IN_FOLD
        if not keep.any():
            reason = f"no fold holds {FEWEST_IN_FOLD} patients; take fewer folds"
            return Estimate.absent(reason, n=patients.count, unit=rows.unit)
        lost = int((~keep).sum())
        note = (
            f"{lost} of {len(keep)} folds hold fewer than {FEWEST_IN_FOLD} patients and are left out" if lost else None
        )
    statistic = over_folds(patients, build, keep)
    return Measured(statistic, patients.count, "target or prediction is constant", note=note)


def _pearson(rows: TrueAndPredicted) -> Measured | Estimate:
    moments, patients = agreement.moment_columns(rows.target, rows.prediction), rows.patients

    def build(some: Positions) -> FromSums:
        return FromSums(moments[some], patients.codes[some], patients.count, agreement.pearson, FISHER)

    found, heavy = _in_folds(rows, build), _heavy_tails(rows)
    if isinstance(found, Estimate) or heavy is None:
        return found
    return replace(found, note="; ".join(filter(None, [found.note, heavy])))


def _spearman(rows: TrueAndPredicted) -> Measured | Estimate:
    target, prediction, patients = rows.target, rows.prediction, rows.patients

    def build(some: Positions) -> FromRows:
        return agreement.spearman_statistic(target[some], prediction[some], patients.codes[some], patients.count)

    return _in_folds(rows, build)


METRICS = (
    _of_moments(
        "mae",
        agreement.mean_absolute_error,
        unit=OF_TARGET,
        better="lower",
        words="absolute errors",
        of_image=np.abs,
    ),
    _of_moments("rmse", agreement.root_mean_square_error, unit=OF_TARGET, better="lower", scale=LOG),
    _of_moments("r2", agreement.r_squared, "the target is constant", scale=LOG_OF_REST),
    Metric("pearson", REGRESSION, _pearson),
    _of_moments("ccc", agreement.concordance, "target and prediction are the same constant", scale=FISHER),
    # Bland–Altman: the mean of prediction − target, and that ± 1.96 sd.
    _of_moments("bias", agreement.bias, unit=OF_TARGET, better=0.0, beside=("limits_low", "limits_high")),
    _of_moments(
        "limits_low",
        agreement.lower_limit,
        "needs two images",
        unit=OF_TARGET,
        better=0.0,
        beside=("bias", "limits_high"),
        scale=PLAIN,
    ),
    _of_moments(
        "limits_high",
        agreement.upper_limit,
        "needs two images",
        unit=OF_TARGET,
        better=0.0,
        beside=("bias", "limits_low"),
        scale=PLAIN,
    ),
    Metric("spearman", REGRESSION, _spearman),
)
"""In the order of tables."""
