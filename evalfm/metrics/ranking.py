"""How well a score ranks images of one yes-or-no question: AUROC and average precision, folds apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evalfm.metrics.certainty import AN_EXPECTATION, EXPECTATION, fewest_of_a_class
from evalfm.metrics.rows import Question
from evalfm.statistics.auroc import Auroc, average_precision_statistic, chance_average_precision
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import FromRows, Mask, Patients, Positions, Statistic, Values, over_folds

FEWEST_IN_FOLD = 2
"""Patients of either class without whom a fold ranks nothing: no variance could be had of it."""
ENOUGH = f"{FEWEST_IN_FOLD} patients with a positive label and {FEWEST_IN_FOLD} with a negative one"
NO_FOLD = f"no fold holds {ENOUGH}"


def measured_auroc(rows: Question) -> Measured | Estimate:
    """AUROC, absent below ten positive or ten negative patients; one with images of both kinds counts in both."""
    label, value, patients = rows.label, rows.score, rows.patients
    positive, negative = patients.behind(label == 1), patients.behind(label == 0)
    fewest = min(positive, negative)
    least = rows.scored.fewest_patients
    if fewest < least:
        reason = (
            f"needs at least {least} {rows.unit} with a positive label and as many with a negative one; "
            f"there are {positive} and {negative}"
        )
        return Estimate.absent(reason, n=patients.behind(), unit=rows.unit)

    def build(some: Positions) -> Auroc:
        return Auroc(label[some], value[some], patients.codes[some], patients.count)

    return _ranked_in_folds(rows, build, "the classes cannot be ranked", fewest)


def folds_that_rank(label: Values, patients: Patients) -> Mask | None:
    """Folds [F] in which two patients have a positive image and two a negative one; None without folds."""
    if patients.folds is None:
        return None
    found = np.zeros(patients.strata.max() + 1, dtype=bool)
    for fold in range(len(found)):
        inside = patients.folds == fold
        found[fold] = min(patients.behind(inside & (label == value)) for value in (0, 1)) >= FEWEST_IN_FOLD
    return found


def _ranked_in_folds(
    rows: Question, build: Callable[[Positions], Statistic], undefined: str, fewest: int
) -> Measured | Estimate:
    """``build`` over all rows, or its mean over the folds that hold patients enough; which are left out is said."""
    patients = rows.patients
    keep = folds_that_rank(rows.label, patients)
    lost = 0 if keep is None else int((~keep).sum())
    if keep is not None and lost == len(keep):
        return Estimate.absent(NO_FOLD, n=patients.behind(), unit=rows.unit)
    note = (
        f"{lost} of {len(keep)} folds hold fewer than {ENOUGH} and are left out" if keep is not None and lost else None
    )
    return Measured(over_folds(patients, build, keep), patients.behind(), undefined, fewest, note)


def average_precision(rows: Question) -> Measured | Estimate:
    """Average precision; the mean over folds, whose heads are ranked apart."""
    label, patients = rows.label, rows.patients

    def build(some: Positions) -> FromRows:
        return average_precision_statistic(label[some], rows.score[some], patients.codes[some], patients.count)

    return _ranked_in_folds(rows, build, "no image is positive", fewest_of_a_class(rows))


def chance_precision(rows: Question) -> Estimate:
    """What average precision comes to, in the mean, for a ranking by chance: in the folds where it is measured."""
    label, patients, keep = rows.label, rows.patients, folds_that_rank(rows.label, rows.patients)
    inside = [label] if keep is None else [label[patients.folds == fold] for fold in np.flatnonzero(keep)]
    found = [chance_average_precision(int(each.sum()), len(each)) for each in inside if each.any()]
    if not found:
        reason = NO_FOLD if label.any() else "no image is positive"
        return Estimate.absent(reason, n=patients.behind(), unit=rows.unit)
    return Estimate(
        float(np.mean(found)), n=patients.behind(), unit=rows.unit, reason=AN_EXPECTATION, method=EXPECTATION
    )
