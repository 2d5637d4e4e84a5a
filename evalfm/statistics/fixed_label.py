"""Does a score depend on an attribute among images of one label, where the label itself can play no role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from evalfm.statistics.adjusted import NO_ERROR, AdjustedEffect, LevelSizes, mean_difference
from evalfm.statistics.auroc import auroc, auroc_covariance
from evalfm.statistics.calibration import CLIP
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.permutation import PERMUTATIONS, attribute_permutation, constant_in_patients
from evalfm.statistics.resampling import Mask, Positions, Values
from evalfm.statistics.subgroups import SubgroupScores


@dataclass(frozen=True)
class LabelEffect(AdjustedEffect):
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
        auroc: with its interval, which excludes .5 where p, uncorrected, is below 1 − level.
        p: of .5, or None.
        effect: the adjusted difference.
        method: of p: permutations, or the clustered statistic with t.
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

    The effect is the attribute's coefficient in a least-squares fit of the score's logit **within the label**, with
    covariates of its own there: a natural cubic spline for each number, others as they are. With folds, pairs count
    within a fold, each fold has a mean of its own, and each fold's logits are first brought to the mean 0 and standard
    deviation 1 of its negatives, since its scores come from a head of its own, with a scale of its own.

    ``mean_difference`` says what p comes from: permutations where the smaller level within the label has fewer than 50
    patients or 30 effective ones, a clustered covariance and t elsewhere, and nothing below 10.

    The AUROC is tested by exchanging the attribute among patients (of a fold) with as many negatives and as many
    positives, where it is the same in all of a patient's images; else, in small levels, in the same exchange and within
    patients; else by the clustered statistic and t as above. Its interval reaches as many standard errors as the test
    asks for.

    Args:
        scores: labels, scores and membership.
        covariates: what the effect is adjusted for, [N] each; rows with an unknown one are left out of the effect.
        level: coverage of the intervals, a fraction.
        permutations: how many.
        seed: of the permutations.

    >>> label = [0, 1] * 40
    >>> member = [0, 0, 1, 1] * 20
    >>> score = [(i * 37 % 80) / 160 + 0.2 * y + 0.1 * a for i, (y, a) in enumerate(zip(label, member))]
    >>> found = at_fixed_label(SubgroupScores.of(label, score, member, range(80)), permutations=200)[0]
    >>> round(found.auroc.value, 3), found.p < 0.05, round(found.effect.value, 3), round(found.effect.p, 2)
    (0.7, True, 1.243, 0.03)
    """
    label, fold = scores.target, scores.folds
    logits = as_logit(scores.score) if fold is None else _on_one_scale(as_logit(scores.score), label, fold)
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in (covariates or {}).items()}
    codes = np.unique(scores.patient, return_inverse=True)[1]
    alike = np.stack([np.bincount(codes, weights=label == truth)[codes] for truth in (False, True)], axis=1)
    spread = _spread(logits[~label])
    results = {}
    for truth in (0, 1):
        rows = np.flatnonzero(label == bool(truth))
        cell = _Cell(
            truth,
            scores.score[rows],
            logits[rows],
            scores.member[rows],
            codes[rows],
            alike[rows],
            {name: column[rows] for name, column in columns.items()},
            None if fold is None else fold[rows],
        )
        effect = _effect(cell, spread, level, permutations, seed)
        results[truth] = _fixed_label(cell, effect, level, permutations, seed)
    return results


@dataclass(frozen=True)
class _Cell:
    """The rows of one label, [N] each; ``alike`` [N, 2] counts the patient's negatives and positives."""

    truth: int
    score: Values
    logit: Values
    member: Mask
    codes: Positions
    alike: NDArray[np.generic]
    covariates: dict[str, Values]
    folds: NDArray[np.generic] | None


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


def _fixed_label(cell: _Cell, effect: LabelEffect, level: float, permutations: int, seed: int) -> FixedLabel:
    """AUROC of the score for the attribute, its interval and the p of .5, beside the effect."""
    sizes, n = LevelSizes.of(cell.member, cell.codes), len(np.unique(cell.codes))
    lacking = sizes.lacking(f" at label {cell.truth}")
    if lacking is not None:
        return FixedLabel(Estimate.absent(lacking, n=n), None, effect)
    area = auroc(cell.member, cell.score, cell.folds)
    try:
        variance = float(auroc_covariance(cell.member, cell.score, cell.codes, cell.folds).covariance[0, 0])
    except ValueError as failure:
        return FixedLabel(Estimate.absent(f"in some fold {failure}", n=n), None, effect)
    separated = abs(area - 0.5) > 0.5 - NO_ERROR
    whole = constant_in_patients(cell.member, cell.codes)
    p, critical, method = None, 0.0, ""
    if (variance > NO_ERROR**2 or separated) and (whole or (sizes.few and variance > NO_ERROR**2)):
        found = attribute_permutation(
            cell.member,
            cell.score,
            cell.codes,
            cell.alike,
            folds=cell.folds,
            level=level,
            permutations=permutations,
            seed=seed,
        )
        p, critical = found.p, found.critical
        within = "" if whole else ", and within patients,"
        method = f"{permutations} permutations of patients{within} within the label"
    elif variance > NO_ERROR**2:
        law = t(sizes.degrees_of_freedom)
        p, critical = float(2 * law.sf(abs(area - 0.5) / variance**0.5)), float(law.isf((1 - level) / 2))
        method = "clustered, t"
    if variance <= NO_ERROR**2:
        why = "the scores of the two levels lie wholly apart" if separated else "the score has no spread"
        return FixedLabel(Estimate(area, n=n, reason=f"{why}: no interval"), p, effect, method, separated)
    if not np.isfinite(critical):
        reason = "too few permutations have a spread for an interval"
        return FixedLabel(Estimate(area, n=n, reason=reason), p, effect, method, separated)
    reach = critical * variance**0.5
    estimate = Estimate(area, max(0.0, area - reach), min(1.0, area + reach), method=method, n=n)
    return FixedLabel(estimate, p, effect, method, separated)


def _effect(cell: _Cell, spread: float, level: float, permutations: int, seed: int) -> LabelEffect:
    """The coefficient of the attribute within the label; ``spread`` is that of the negatives' logits."""
    found = mean_difference(
        cell.logit,
        cell.member,
        cell.codes,
        cell.covariates,
        folds=cell.folds,
        level=level,
        permutations=permutations,
        seed=seed,
        where=f" at label {cell.truth}",
    )
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    if facts["reason"] is not None:
        facts["reason"] = facts["reason"].replace("the value is the same everywhere", "the score is constant")
    if found.value is None or spread == 0:
        return LabelEffect(**{**facts, "detectable": None})
    detectable = None if found.detectable is None else found.detectable / spread
    return LabelEffect(**{**facts, "detectable": detectable}, standardised=found.value / spread)
