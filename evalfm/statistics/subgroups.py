"""AUROC within the levels of an attribute, across them, and the gap between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from evalfm.statistics.adjusted import LevelSizes
from evalfm.statistics.association import FEWEST, Effect, effective_clusters
from evalfm.statistics.auroc import Auroc, binary_labels, class_patients, placements, weighted_auroc
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.gaps import by_normal, difference_limits, pooled_variance
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import (
    Mask,
    Patients,
    Positions,
    Statistic,
    Values,
    WeightedSum,
    identify,
    mean_of_defined,
    over_folds,
)


@dataclass(frozen=True)
class SubgroupScores:
    """Scores of a yes-or-no label with an attribute beside them; made by ``of``, which checks them.

    Attributes:
        target: label of each row, [N].
        score: [N].
        member: whether the row has the attribute, [N].
        patient: patient id of each row, [N].
        folds: fold of each row, [N], or None; pairs then count within a fold, and figures are means over folds.
    """

    target: Mask
    score: Values
    member: Mask
    patient: NDArray[np.str_]
    folds: NDArray[np.generic] | None = None

    @classmethod
    def of(
        cls,
        target: ArrayLike,
        score: ArrayLike,
        member: ArrayLike,
        patient: ArrayLike,
        folds: ArrayLike | None = None,
    ) -> SubgroupScores:
        """Take labels and membership (0 or 1), scores, patient ids and folds, each [N].

        Raises:
            ValueError: the lengths differ, or a label or a membership is neither 0 nor 1.

        >>> SubgroupScores.of([0, 1], [0.2, 0.7], [True, False], ["a", "b"]).score.tolist()
        [0.2, 0.7]
        """
        columns = cls(
            binary_labels(target),
            np.asarray(score, dtype=np.float64),
            binary_labels(member),
            np.asarray(patient).astype(str),
            None if folds is None else np.asarray(folds),
        )
        lengths = {len(each) for each in (columns.target, columns.score, columns.member, columns.patient)}
        if len(lengths | ({len(columns.folds)} if columns.folds is not None else set())) > 1:
            raise ValueError("labels, scores, membership, patients and folds must be of the same rows")
        return columns

    def among(self, rows: Mask) -> SubgroupScores:
        """Only ``rows`` (bool [N])."""
        folds = None if self.folds is None else self.folds[rows]
        return SubgroupScores(self.target[rows], self.score[rows], self.member[rows], self.patient[rows], folds)

    def by_fold(self) -> list[SubgroupScores]:
        """The rows of each fold; all rows where there are no folds."""
        if self.folds is None:
            return [self]
        return [self.among(self.folds == fold) for fold in np.unique(self.folds)]


def cross_aurocs(scores: SubgroupScores, *, seed: int = 0, unit: str = "patients") -> dict[str, Estimate]:
    """The four AUROCs of Borkan et al. (2019) within and across the subgroup, and the gap between the crossed ones.

    Args:
        scores: labels, scores and membership.
        seed: of the resamples behind the intervals.
        unit: what is resampled, ``"patients"`` or ``"images"``, as the estimates name it.

    Returns:
        ``subgroup`` and ``background`` (within), ``bpsn`` (background positives, subgroup negatives: the conflicting
        pairs), ``bnsp`` (background negatives, subgroup positives: the aligned pairs) and ``gap`` (bnsp − bpsn), each
        with its interval; absent where a pairing has fewer than 10 patients of either class. Severity alone moves
        ``gap``: it describes, and tests nothing.

    >>> label = [0, 1] * 40
    >>> member = [0, 0, 1, 1] * 20
    >>> score = [0.4 * y + 0.3 * a + (i * 37 % 80) / 80 for i, (y, a) in enumerate(zip(label, member))]
    >>> found = cross_aurocs(SubgroupScores.of(label, score, member, range(80)))
    >>> {name: round(each.value, 2) for name, each in found.items()}
    {'subgroup': 0.83, 'background': 0.83, 'bpsn': 0.57, 'bnsp': 0.96, 'gap': 0.39}
    """
    label, inside = scores.target, scores.member
    patients = identify(scores.patient, scores.folds)
    rows = {
        "subgroup": inside,
        "background": ~inside,
        "bpsn": (label & ~inside) | (~label & inside),
        "bnsp": (label & inside) | (~label & ~inside),
    }
    measured = {name: _measured(scores, keep, patients) for name, keep in rows.items()}
    aligned, crossed = measured["bnsp"], measured["bpsn"]
    if isinstance(aligned, Measured) and isinstance(crossed, Measured):
        fewest = min(aligned.fewest or 0, crossed.fewest or 0)
        difference = WeightedSum([aligned.statistic, crossed.statistic], [1.0, -1.0])
        measured["gap"] = Measured(difference, patients.count, "one of the two is undefined", fewest)
    else:
        reason = next(each.reason for each in (aligned, crossed) if isinstance(each, Estimate))
        measured["gap"] = Estimate.absent(str(reason), unit=unit)
    return estimates(measured, patients, seed=seed, unit=unit)


def balanced_auroc(scores: SubgroupScores) -> float:
    """AUROC with each row weighted P(a) / P(a | y): attribute and label are independent under these weights.

    NaN where a combination of the two never occurs; with folds the mean over those where each does.

    >>> label, member = [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1]
    >>> score = [0.1, 0.2, 0.6, 0.5, 0.8, 0.9]
    >>> round(balanced_auroc(SubgroupScores.of(label, score, member, range(6))), 3)
    0.75
    """
    if scores.folds is not None:
        return float(mean_of_defined(np.array([_balanced(fold) for fold in scores.by_fold()])))
    return _balanced(scores)


def _balanced(scores: SubgroupScores) -> float:
    label, inside = scores.target, scores.member
    weights = np.zeros(len(label))
    for level in (False, True):
        for truth in (False, True):
            rows = (inside == level) & (label == truth)
            if not rows.any():
                return float("nan")
            weights[rows] = (inside == level).mean() / (rows.sum() / (label == truth).sum())
    return float(weighted_auroc(label, scores.score, weights[None])[0])


def _measured(scores: SubgroupScores, keep: Mask, patients: Patients) -> Measured | Estimate:
    """AUROC of the rows ``keep``, or why it is not given."""
    label = scores.target
    counts = class_patients(label[keep], scores.patient[keep])
    if min(counts) < FEWEST:
        return Estimate.absent(f"needs {FEWEST} patients of either class; there are {counts[0]} and {counts[1]}")

    def build(members: Positions) -> Statistic:
        rows = members[keep[members]]
        return Auroc(label[rows], scores.score[rows], patients.codes[rows], patients.count)

    statistic = over_folds(patients, build)
    n = int(np.unique(patients.codes[keep]).size)
    return Measured(statistic, n, "one class is missing", min(counts))


def stratum_gap(scores: SubgroupScores, *, level: float = 0.95) -> Effect:
    """AUROC of the rows with the attribute minus AUROC of the others; a patient may have rows of both kinds.

    p is normal, by placement variances pooled over both levels (``gaps.pooled_variance``), which holds its level near
    an AUROC of 1, where the variance of a small level is often far too small by itself. The interval joins those of the
    two AUROCs, each on the logit scale with the larger of the clustered (Obuchowski 1997) and Hanley and McNeil's
    (1982, of effective patients) variance: it is conservative, and need not say what p says. With folds the mean over
    folds. Absent with its reason where a level has fewer than 10 patients of a class, or 10 effective ones.

    Args:
        scores: labels, scores and membership.
        level: coverage of the interval, a fraction.

    >>> label = [0, 1] * 40
    >>> member = [0, 0, 1, 1] * 20
    >>> score = [(i * 37 % 80) / 80 + (0.1 if a else 0.4) * y for i, (y, a) in enumerate(zip(label, member))]
    >>> gap = stratum_gap(SubgroupScores.of(label, score, member, range(80)))
    >>> round(gap.value, 3), round(gap.low, 3), round(gap.high, 3), round(gap.p, 3)
    (-0.218, -0.423, 0.011, 0.046)
    """
    codes = np.unique(scores.patient, return_inverse=True)[1]
    for label in (True, False):
        rows = scores.target == label
        lacking = LevelSizes.of(scores.member[rows], codes[rows]).lacking(f" at label {int(label)}")
        if lacking is not None:
            return Effect(None, reason=lacking)
    folds = [np.ones(len(codes), dtype=bool)]
    if scores.folds is not None:
        folds = [scores.folds == fold for fold in np.unique(scores.folds)]
    areas, variances, apart, between = np.zeros(2), np.zeros(2), 0.0, 0.0
    for rows in folds:
        found = _GapParts.of(scores.among(rows), np.unique(codes[rows], return_inverse=True)[1])
        if found is None:
            return Effect(None, reason="in some fold a level has fewer than two patients of a class")
        areas += np.array(found.areas) / len(folds)
        variances += np.array(found.variances) / len(folds) ** 2
        apart += found.pooled / len(folds) ** 2
        between += found.between / len(folds) ** 2
    gap, error = float(areas[0] - areas[1]), max(0.0, apart) ** 0.5
    # Two AUROCs that no resample could move, or that move together, leave only rounding.
    if error <= 1e-9:
        return Effect(gap, reason="it has no standard error: no interval")
    z = float(norm.isf((1 - level) / 2))
    covered, wide = [], []
    for place, rows in enumerate((scores.member, ~scores.member)):
        sizes = [effective_clusters(codes[rows & (scores.target == label)]) for label in (True, False)]
        held = float(np.clip(areas[place], 0.5 / np.prod(sizes), 1 - 0.5 / np.prod(sizes)))
        wide.append(max(float(variances[place]), hanley_mcneil(held, *sizes)))
        reach = z * wide[-1] ** 0.5 / (held * (1 - held))
        low, high = (float(expit(logit(held) + side * reach)) for side in (-1, 1))
        covered.append((float(areas[place]), min(low, float(areas[place])), max(high, float(areas[place]))))
    correlation = float(np.clip(between / (wide[0] * wide[1]) ** 0.5, -1, 1))
    return by_normal(gap, error, difference_limits(covered[0], covered[1], correlation))


def hanley_mcneil(area: float, positives: float, negatives: float) -> float:
    """Variance of an AUROC in (0, 1) by the exponential approximation of Hanley and McNeil (1982).

    >>> round(hanley_mcneil(0.9, 10, 30), 4)
    0.0047
    """
    one, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (one - area**2) + (negatives - 1) * (other - area**2)
    return spread / (positives * negatives)


@dataclass(frozen=True)
class _GapParts:
    """AUROCs of a fold's two levels with their variances, the variance of the gap, and the levels' covariance."""

    areas: tuple[float, float]
    variances: tuple[float, float]
    pooled: float
    between: float

    @classmethod
    def of(cls, scores: SubgroupScores, codes: Positions) -> _GapParts | None:
        """None where a level has fewer than two patients of a class."""
        levels = (scores.member, ~scores.member)
        if min(min(class_patients(scores.target[rows], codes[rows])) for rows in levels) < 2:
            return None
        placed = np.zeros(len(codes))
        areas, shares, variances = [], [], []
        for rows in levels:
            label, patients = scores.target[rows], codes[rows]
            wins, losses = placements(scores.score[rows][label], scores.score[rows][~label])
            area = float(wins.mean())
            own = np.zeros(len(label))
            own[label], own[~label] = wins - area, losses - area
            placed[rows] = own
            count = int(codes.max()) + 1
            each = [np.bincount(patients[c], weights=own[c], minlength=count) / c.sum() for c in (label, ~label)]
            areas.append(area)
            shares.append(np.stack(each))
            variances.append(_covariance(shares[-1], shares[-1], class_patients(label, patients), patients))
        apart = shares[0] - shares[1]
        everybody = int(codes.max()) + 1
        pooled = sum(pooled_variance(placed[c], scores.member[c], codes[c]) for c in (scores.target, ~scores.target))
        pooled += 2 * everybody / (everybody - 1) * float(apart[0] @ apart[1])
        between = _covariance(shares[0], shares[1], class_patients(scores.target, codes), codes)
        return cls((areas[0], areas[1]), (variances[0], variances[1]), pooled, between)


def _covariance(one: Values, other: Values, counts: tuple[int, int], codes: Positions) -> float:
    """Obuchowski's covariance of two AUROCs from their contributions [2, patients], positives before negatives."""
    patients = np.unique(codes).size
    crossed = patients / (patients - 1) * (one[0] @ other[1] + one[1] @ other[0])
    return float(sum(count / (count - 1) * one[row] @ other[row] for row, count in enumerate(counts)) + crossed)
