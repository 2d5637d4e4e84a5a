"""Does a score depend on an attribute among images of one label, where the label itself can play no role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from evalfm.statistics.association import FEWEST, Effect, by_t, linear_gee
from evalfm.statistics.auroc import auroc, auroc_covariance, class_patients
from evalfm.statistics.calibration import CLIP
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.permutation import PERMUTATIONS, attribute_permutation, constant_in_patients
from evalfm.statistics.resampling import Mask, Values
from evalfm.statistics.subgroups import SubgroupScores

NO_ERROR = 1e-9
"""Standard errors below this share of the range of what is measured are rounding: there is none to speak of."""


@dataclass(frozen=True)
class LabelEffect(Effect):
    """How far the logit of the score moves with the attribute at one label, others held fixed.

    Attributes:
        standardised: the value over the standard deviation of the score's logit among negatives; ``detectable``
            likewise.
    """

    standardised: float | None = None


@dataclass(frozen=True)
class FixedLabel:
    """How well the score predicts the attribute among rows of one label: .5 where it does not depend on it.

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
    effect: LabelEffect
    method: str = ""
    separated: bool = False

    @property
    def excludes_chance(self) -> bool:
        """Whether the interval of the AUROC lies on one side of .5, or the levels are wholly apart."""
        low, high = self.auroc.low, self.auroc.high
        return self.separated or (low is not None and high is not None and (low > 0.5 or high < 0.5))


def as_logit(score: ArrayLike) -> Values:
    """The logit of probabilities [N], held inside [1e-6, 1 − 1e-6]; scores outside [0, 1] stay as they are.

    >>> as_logit([0.5, 0.9]).round(3).tolist(), as_logit([-2.0, 3.0]).tolist()
    ([0.0, 2.197], [-2.0, 3.0])
    """
    values = np.asarray(score, dtype=np.float64)
    if values.size and (values.min() < 0 or values.max() > 1):
        return values
    held = np.clip(values, CLIP, 1 - CLIP)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def at_fixed_label(
    scores: SubgroupScores,
    covariates: Mapping[str, ArrayLike] | None = None,
    *,
    level: float = 0.95,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[int, FixedLabel]:
    """Association of the score with the attribute among negatives (0) and among positives (1).

    The effect is that of GEE with independence on the logit of the score, s ~ y + a + y:a + covariates, with the
    covariance of Mancl and DeRouen (2001) and t with (patients in the smaller group of the attribute − 1) degrees of
    freedom. With folds, pairs count within a fold, and each fold's logits are first brought to the mean 0 and standard
    deviation 1 of its negatives, since its scores come from a head of its own, with a scale of its own.

    The AUROC is tested by exchanging the attribute among patients (of a fold) with as many negatives and as many
    positives, where it is the same in all rows of a patient; else by the clustered statistic, t with (patients in the
    smaller group − 1) degrees of freedom.

    Args:
        scores: labels, scores and membership.
        covariates: what the effect is adjusted for, [N] each; rows with an unknown one are left out of the effect.
        level: coverage of the intervals, a fraction.
        permutations: how many, for the p of the AUROC.
        seed: of the permutations.

    >>> label = [0, 1] * 40
    >>> member = [0, 0, 1, 1] * 20
    >>> score = [(i * 37 % 80) / 160 + 0.2 * y + 0.1 * a for i, (y, a) in enumerate(zip(label, member))]
    >>> found = at_fixed_label(SubgroupScores.of(label, score, member, range(80)), permutations=200)[0]
    >>> round(found.auroc.value, 3), found.p < 0.05, round(found.effect.value, 3), round(found.effect.p, 3)
    (0.7, True, 1.243, 0.083)
    """
    label, inside, names, fold = scores.target, scores.member, scores.patient, scores.folds
    own = {} if fold is None else {f"fold {each}": fold == each for each in np.unique(fold)[1:]}
    logits = as_logit(scores.score) if fold is None else _on_one_scale(as_logit(scores.score), label, fold)
    effects = _effects(label, logits, inside, names, {**(covariates or {}), **own}, level)
    codes = np.unique(names, return_inverse=True)[1]
    alike = np.stack([np.bincount(codes, weights=label == truth)[codes] for truth in (False, True)], axis=1)
    exchange = constant_in_patients(inside, codes)
    results = {}
    for truth in (0, 1):
        rows = label == bool(truth)
        of_label = scores.among(rows)
        area, p = _attribute_auroc(of_label, level)
        separated = area.value is not None and abs(area.value - 0.5) > 0.5 - NO_ERROR
        method = "clustered, t"
        if (p is not None or separated) and exchange:
            p = attribute_permutation(
                of_label.member,
                of_label.score,
                codes[rows],
                alike[rows],
                folds=of_label.folds,
                permutations=permutations,
                seed=seed,
            )
            method = f"{permutations} permutations of patients within the label"
        results[truth] = FixedLabel(area, p, effects[truth], method if p is not None else "", separated)
    return results


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


def _attribute_auroc(scores: SubgroupScores, level: float) -> tuple[Estimate, float | None]:
    """AUROC of the score for the attribute, its interval and the p of .5."""
    inside, score, names, folds = scores.member, scores.score, scores.patient, scores.folds
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
) -> dict[int, LabelEffect]:
    """The coefficient of the attribute at label 0 and at label 1."""
    columns = [np.asarray(column, dtype=np.float64) for column in covariates.values()]
    known = np.isfinite(score) & np.all(
        [np.isfinite(column) for column in columns] or [np.ones(len(score), bool)], axis=0
    )
    label, score, inside, names = label[known], score[known], inside[known], names[known]
    cells = {
        (truth, member): np.unique(names[(label == truth) & (inside == member)]).size
        for truth in (False, True)
        for member in (False, True)
    }
    smaller = min(np.unique(names[inside]).size, np.unique(names[~inside]).size)
    results: dict[int, LabelEffect] = {}
    for truth in (0, 1):
        fewest = min(cells[bool(truth), False], cells[bool(truth), True])
        if fewest < FEWEST:
            reason = f"needs {FEWEST} patients of either level at label {truth}; the smaller has {fewest}"
            results[truth] = LabelEffect(None, reason=reason)
    if len(results) == 2:
        return results
    y, a = label.astype(np.float64), inside.astype(np.float64)
    extra = [column[known] - column[known].mean() for column in columns if np.ptp(column[known]) > 0]
    design: list[Values]
    contrasts: dict[int, tuple[int, ...]]
    # Where one label has too few patients there is no interaction to fit: its rows are left out.
    if results:
        rows = label == (next(iter({0, 1} - set(results))) == 1)
        design, contrasts = [np.ones(len(y)), a, *extra], {next(iter({0, 1} - set(results))): (1,)}
    else:
        rows = np.ones(len(y), dtype=bool)
        design, contrasts = [np.ones(len(y)), y, a, y * a, *extra], {0: (2,), 1: (2, 3)}
    matrix = np.stack(design, axis=1)[rows]
    if np.linalg.matrix_rank(matrix) < matrix.shape[1] or np.ptp(score[rows]) == 0:
        reason = "the score is constant" if np.ptp(score[rows]) == 0 else "attribute and covariates say the same"
        return {truth: results.get(truth, LabelEffect(None, reason=reason)) for truth in (0, 1)}
    fitted = linear_gee(matrix, score[rows], names[rows])
    spread, whole = _spread(score[~label]), float(np.ptp(score[rows]))
    for truth, places in contrasts.items():
        contrast = np.isin(np.arange(matrix.shape[1]), places).astype(np.float64)
        value = float(contrast @ fitted.coefficients)
        error = max(0.0, float(contrast @ fitted.covariance @ contrast)) ** 0.5
        if error <= NO_ERROR * whole:
            results[truth] = LabelEffect(
                None, reason=f"at label {truth} the score has no spread beside the attribute's"
            )
        else:
            results[truth] = _effect(value, error, int(smaller) - 1, spread, level)
    return results


def _effect(value: float, error: float, freedom: int, spread: float, level: float) -> LabelEffect:
    test = by_t(value, error, freedom, level)
    assert test.detectable is not None
    standardised, detectable = (value / spread, test.detectable / spread) if spread > 0 else (None, None)
    return LabelEffect(value, test.low, test.high, detectable, test.p, freedom, standardised=standardised)
