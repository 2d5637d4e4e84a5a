"""Does a score depend on an attribute: within strata, across them, and at fixed label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from evalfm.statistics.auroc import Auroc, auroc, auroc_covariance, class_patients, weighted_auroc
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.linear_gee import linear_gee
from evalfm.statistics.permutation import PERMUTATIONS, attribute_permutation, constant_in_patients
from evalfm.statistics.resampling import (
    Contrast,
    Patients,
    Positions,
    Statistic,
    Values,
    identify,
    mean_of_defined,
    over_folds,
)

FEWEST = 10
"""Patients of either class (for an association: of either level) below which no figure is given."""
CLIP = 1e-6
POWER = 0.8
NO_ERROR = 1e-9
"""Standard errors below this share of the range of what is measured are rounding: there is none to speak of."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Effect:
    """How far the logit of the score moves with the attribute at one label, others held fixed.

    Attributes:
        value: the coefficient; ``standardised``: over the standard deviation of the score's logit among negatives.
        detectable: the standardised effect that would have been found with 80 % power.
        p: two-sided, t with ``degrees_of_freedom``.
        reason: why there is none.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    standardised: float | None = None
    detectable: float | None = None
    p: float | None = None
    degrees_of_freedom: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FixedLabel:
    """How well the score tells the attribute among rows of one label: .5 where it does not depend on it.

    Attributes:
        auroc: with its interval (clustered by patient, normal).
        p: of .5, or None.
        method: of p: permutations where the attribute is the same in all rows of a patient, else the clustered
            statistic with t.
        effect: the adjusted difference.
        separated: every row with the attribute scores higher than every row without, or lower: with the patients that
            a figure needs that is no chance, though it has no standard error.
    """

    auroc: Estimate
    p: float | None
    effect: Effect
    method: str = ""
    separated: bool = False

    @property
    def excludes_chance(self) -> bool:
        """Whether the interval of the AUROC lies on one side of .5, or the levels are wholly apart."""
        low, high = self.auroc.low, self.auroc.high
        return self.separated or (low is not None and high is not None and (low > 0.5 or high < 0.5))


def as_logit(score: ArrayLike) -> Values:
    """The logit of probabilities, held inside [1e-6, 1 − 1e-6]; scores outside [0, 1] stay as they are."""
    values = np.asarray(score, dtype=np.float64)
    if values.size and (values.min() < 0 or values.max() > 1):
        return values
    held = np.clip(values, CLIP, 1 - CLIP)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def cross_aurocs(
    target: ArrayLike,
    score: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    seed: int = 0,
    unit: str = "patients",
) -> dict[str, Estimate]:
    """The four AUROCs of Borkan et al. (2019) for the rows with ``member`` [N] true, and what lies between them.

    Returns:
        ``subgroup`` and ``background`` (within), ``bpsn`` (background positives, subgroup negatives: the conflicting
        pairs), ``bnsp`` (background negatives, subgroup positives: the aligned pairs) and ``gap`` (bnsp − bpsn), each
        with its interval. Severity alone moves ``gap``: it describes, and tests nothing. With ``folds`` pairs count
        within a fold.
    """
    label, inside = np.asarray(target).astype(bool), np.asarray(member).astype(bool)
    values, patients = np.asarray(score, dtype=np.float64), identify(patient, folds)
    rows = {
        "subgroup": inside,
        "background": ~inside,
        "bpsn": (label & ~inside) | (~label & inside),
        "bnsp": (label & inside) | (~label & ~inside),
    }
    made = {name: _measured(label, values, keep, patients, patient) for name, keep in rows.items()}
    aligned, crossed = made["bnsp"], made["bpsn"]
    if isinstance(aligned, Measured) and isinstance(crossed, Measured):
        fewest = min(aligned.fewest or 0, crossed.fewest or 0)
        contrast = Contrast([aligned.statistic, crossed.statistic], [1.0, -1.0])
        made["gap"] = Measured(contrast, patients.count, "one of the two is undefined", fewest)
    else:
        reason = next(each.reason for each in (aligned, crossed) if isinstance(each, Estimate))
        made["gap"] = Estimate.absent(str(reason), unit=unit)
    return estimates(made, patients, seed=seed, unit=unit)


def balanced_auroc(target: ArrayLike, score: ArrayLike, member: ArrayLike, folds: ArrayLike | None = None) -> float:
    """AUROC with each row weighted P(a) / P(a | y): attribute and label are independent under these weights.

    NaN where a combination of the two never occurs; with ``folds`` the mean over those where each does.
    """
    if folds is not None:
        rows = [np.asarray(folds) == fold for fold in np.unique(np.asarray(folds))]
        parts = [balanced_auroc(*(np.asarray(each)[keep] for each in (target, score, member))) for keep in rows]
        return float(mean_of_defined(np.array(parts)))
    label, inside = np.asarray(target).astype(bool), np.asarray(member).astype(bool)
    weights = np.zeros(len(label))
    for level in (False, True):
        for truth in (False, True):
            cell = (inside == level) & (label == truth)
            if not cell.any():
                return float("nan")
            weights[cell] = (inside == level).mean() / (cell.sum() / (label == truth).sum())
    return float(weighted_auroc(label, score, weights[None])[0])


def at_fixed_label(
    target: ArrayLike,
    score: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    covariates: Mapping[str, ArrayLike] | None = None,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[int, FixedLabel]:
    """Association of the score with the attribute among negatives (0) and among positives (1).

    The effect is that of GEE with independence on the logit of the score, s ~ y + a + y:a + covariates, with the
    covariance of Mancl and DeRouen and t with (patients in the smaller group of the attribute − 1) degrees of freedom.
    Rows with an unknown covariate are left out of it. With ``folds`` pairs count within a fold, and each fold's logits
    are first brought to the mean 0 and standard deviation 1 of its negatives, since its scores come from a head of its
    own, with a scale of its own.

    The AUROC is tested by exchanging the attribute among patients (of a fold) with as many negatives and as many
    positives, where it is the same in all rows of a patient; else by the clustered statistic, t with (patients in the
    smaller group − 1) degrees of freedom.
    """
    label, inside = np.asarray(target).astype(bool), np.asarray(member).astype(bool)
    names = np.asarray(patient).astype(str)
    values = np.asarray(score, dtype=np.float64)
    fold = None if folds is None else np.asarray(folds)
    own = {} if fold is None else {f"fold {each}": fold == each for each in np.unique(fold)[1:]}
    logits = as_logit(values) if fold is None else _on_one_scale(as_logit(values), label, fold)
    effects = _effects(label, logits, inside, names, {**(covariates or {}), **own}, level)
    codes = np.unique(names, return_inverse=True)[1]
    alike = np.stack([np.bincount(codes, weights=label == truth)[codes] for truth in (False, True)], axis=1)
    exchange = constant_in_patients(inside, codes)
    found = {}
    for truth in (0, 1):
        rows = label == bool(truth)
        among = None if fold is None else fold[rows]
        area, p = _attribute_auroc(inside[rows], values[rows], names[rows], among, level)
        separated = area.value is not None and abs(area.value - 0.5) > 0.5 - NO_ERROR
        method = "clustered, t"
        if (p is not None or separated) and exchange:
            asked = inside[rows], values[rows], codes[rows], alike[rows]
            p = attribute_permutation(*asked, folds=among, permutations=permutations, seed=seed)
            method = f"{permutations} permutations of patients within the label"
        found[truth] = FixedLabel(area, p, effects[truth], method if p is not None else "", separated)
    return found


def _on_one_scale(score: Values, label: Mask, folds: NDArray[np.generic]) -> Values:
    """Scores less the mean of their fold's negatives, over their standard deviation; a fold of one value becomes 0."""
    scaled = np.zeros_like(score)
    for fold in np.unique(folds):
        rows = folds == fold
        among = score[rows & ~label]
        spread = _spread(among)
        if spread > 0:
            scaled[rows] = (score[rows] - among.mean()) / spread
    return scaled


def _spread(values: Values) -> float:
    """Standard deviation; exactly 0 where all are the same, which rounding would make a tiny number."""
    return float(values.std(ddof=1)) if len(values) > 1 and np.ptp(values) > 0 else 0.0


def _attribute_auroc(
    inside: Mask, score: Values, names: NDArray[np.str_], folds: NDArray[np.generic] | None, level: float
) -> tuple[Estimate, float | None]:
    """AUROC of the score for the attribute, its interval and the p of .5."""
    with_it, without = class_patients(inside, names)
    n = int(np.unique(names).size)
    if min(with_it, without) < FEWEST:
        reason = f"needs {FEWEST} patients with the attribute and as many without; there are {with_it} and {without}"
        return Estimate.absent(reason, n=n), None
    area = auroc(inside, score, folds)
    try:
        variance = float(auroc_covariance(inside, score, names, folds).covariance[0, 0])
    except ValueError as failure:
        return Estimate.absent(f"in some fold {failure}", n=n), None
    if variance <= NO_ERROR**2:
        apart = abs(area - 0.5) > 0.5 - NO_ERROR
        why = "the scores of the two levels lie wholly apart" if apart else "the score has no spread"
        return Estimate(area, n=n, reason=f"{why}: no interval"), None
    error = variance**0.5
    reach = float(norm.isf((1 - level) / 2)) * error
    estimate = Estimate(area, max(0.0, area - reach), min(1.0, area + reach), method="clustered, normal", n=n)
    return estimate, float(2 * t(min(with_it, without) - 1).sf(abs(area - 0.5) / error))


def _effects(
    label: Mask,
    score: Values,
    inside: Mask,
    names: NDArray[np.str_],
    covariates: Mapping[str, ArrayLike],
    level: float,
) -> dict[int, Effect]:
    """The coefficient of the attribute at label 0 and at label 1."""
    columns = [np.asarray(column, dtype=np.float64) for column in covariates.values()]
    known = np.isfinite(score) & np.all(
        [np.isfinite(column) for column in columns] or [np.ones(len(score), bool)], axis=0
    )
    label, score, inside, names = label[known], score[known], inside[known], names[known]
    cells = {
        (truth, side): np.unique(names[(label == truth) & (inside == side)]).size
        for truth in (False, True)
        for side in (False, True)
    }
    smaller = min(np.unique(names[inside]).size, np.unique(names[~inside]).size)
    results: dict[int, Effect] = {}
    for truth in (0, 1):
        fewest = min(cells[bool(truth), False], cells[bool(truth), True])
        if fewest < FEWEST:
            reason = f"needs {FEWEST} patients of either level at label {truth}; the smaller has {fewest}"
            results[truth] = Effect(None, reason=reason)
    if len(results) == 2:
        return results
    y, a = label.astype(np.float64), inside.astype(np.float64)
    extra = [column[known] - column[known].mean() for column in columns if np.ptp(column[known]) > 0]
    design: list[Values]
    contrasts: dict[int, tuple[int, ...]]
    # Where one label cannot be asked there is no interaction to fit: its rows are left out.
    if results:
        rows = label == (next(iter({0, 1} - set(results))) == 1)
        design, contrasts = [np.ones(len(y)), a, *extra], {next(iter({0, 1} - set(results))): (1,)}
    else:
        rows = np.ones(len(y), dtype=bool)
        design, contrasts = [np.ones(len(y)), y, a, y * a, *extra], {0: (2,), 1: (2, 3)}
    matrix = np.stack(design, axis=1)[rows]
    if np.linalg.matrix_rank(matrix) < matrix.shape[1] or np.ptp(score[rows]) == 0:
        reason = "the score is constant" if np.ptp(score[rows]) == 0 else "attribute and covariates say the same"
        return {truth: results.get(truth, Effect(None, reason=reason)) for truth in (0, 1)}
    fitted = linear_gee(matrix, score[rows], names[rows])
    spread, whole = _spread(score[~label]), float(np.ptp(score[rows]))
    for truth, places in contrasts.items():
        contrast = np.isin(np.arange(matrix.shape[1]), places).astype(np.float64)
        value = float(contrast @ fitted.coefficients)
        error = max(0.0, float(contrast @ fitted.covariance @ contrast)) ** 0.5
        if error <= NO_ERROR * whole:
            results[truth] = Effect(None, reason=f"at label {truth} the score has no spread beside the attribute's")
        else:
            results[truth] = _effect(value, error, int(smaller) - 1, spread, level)
    return results


def _effect(value: float, error: float, freedom: int, spread: float, level: float) -> Effect:
    law = t(freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    found = float(law.isf(0.025) + law.ppf(POWER)) * error
    scaled = spread > 0
    return Effect(
        value,
        value - reach,
        value + reach,
        value / spread if scaled else None,
        found / spread if scaled else None,
        float(2 * law.sf(abs(value) / error)),
        freedom,
    )


def _measured(label: Mask, score: Values, keep: Mask, patients: Patients, patient: ArrayLike) -> Measured | Estimate:
    """AUROC of some rows, or why it is not given."""
    counts = class_patients(label[keep], np.asarray(patient)[keep])
    if min(counts) < FEWEST:
        return Estimate.absent(f"needs {FEWEST} patients of either class; there are {counts[0]} and {counts[1]}")

    def build(members: Positions) -> Statistic:
        rows = members[keep[members]]
        return Auroc(label[rows], score[rows], patients.codes[rows], patients.count)

    statistic = over_folds(patients, build)
    n = int(np.unique(patients.codes[keep]).size)
    return Measured(statistic, n, "one class is missing", min(counts))
