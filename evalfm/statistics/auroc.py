"""Area under the ROC curve: with ties, its covariance for clustered data, and under many weightings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.resampling import Positions, Statistic, Values, blocks, mean_of_defined, ratio


@dataclass(frozen=True)
class Ranking:
    """Scores sorted once, so that every weighting needs only cumulative sums.

    Attributes:
        positive: [m] rows with label 1, by ascending score.
        negative: [n] rows with label 0, by ascending score.
        below: [m] how many negatives score lower than each positive.
        upto: [m] how many negatives score lower or the same.
    """

    positive: Positions
    negative: Positions
    below: Positions
    upto: Positions


def rank(target: ArrayLike, score: ArrayLike) -> Ranking:
    """Sort scores [N] of positives and negatives (``target`` 0 or 1) against each other."""
    label, value = _labels(target), np.asarray(score, dtype=np.float64)
    order = np.argsort(value, kind="stable")
    positive, negative = order[label[order]], order[~label[order]]
    return Ranking(
        positive,
        negative,
        np.searchsorted(value[negative], value[positive], side="left"),
        np.searchsorted(value[negative], value[positive], side="right"),
    )


def auroc(target: ArrayLike, score: ArrayLike, folds: ArrayLike | None = None) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann–Whitney).

    With ``folds`` [N] only pairs within a fold count: the mean over the folds that hold both classes.
    NaN where one class is missing.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    label, value = _labels(target), np.asarray(score, dtype=np.float64)
    if folds is None:
        return float(weighted_auroc(label, value, np.ones((1, len(label))))[0])
    fold = np.asarray(folds)
    parts = [auroc(label[fold == which], value[fold == which]) for which in np.unique(fold)]
    return float(mean_of_defined(np.array(parts)))


def weighted_auroc(target: ArrayLike, score: ArrayLike, weights: Values) -> Values:
    """AUROC [B] under each row of ``weights`` ≥ 0, [B, N]: a pair counts the product of its weights.

    Whole-number weights give the AUROC of the rows repeated so often. O(N) per weighting after one sort, in
    blocks of bounded memory; NaN where the weight of one class is 0.
    """
    ranking = rank(target, score)
    parts = [
        _area(ranking, weights[start:stop][:, ranking.positive], weights[start:stop][:, ranking.negative])
        for start, stop in blocks(len(weights), weights.shape[1])
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def cumulative(weights: Values) -> Values:
    """[B, n] → [B, n + 1]: the weight of the first k entries, k = 0 … n."""
    summed = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=summed[:, 1:])
    return summed


def _area(ranking: Ranking, positive: Values, negative: Values) -> Values:
    """AUROC [B] from the weights of the sorted positives [B, m] and negatives [B, n]."""
    summed = cumulative(negative)
    beaten = np.einsum("bi,bi->b", positive, summed[:, ranking.below])
    if not np.array_equal(ranking.below, ranking.upto):
        beaten = (beaten + np.einsum("bi,bi->b", positive, summed[:, ranking.upto])) / 2
    return ratio(beaten, positive.sum(axis=1) * summed[:, -1])


class Auroc(Statistic):
    """AUROC as a function of patient weights.

    Args:
        target, score: [n] labels and scores.
        codes: [n] patient of each row.
        patients: P.
    """

    def __init__(self, target: ArrayLike, score: ArrayLike, codes: Positions, patients: int) -> None:
        self.patients = patients
        self.ranking = rank(target, score)
        self.positive = codes[self.ranking.positive]
        self.negative = codes[self.ranking.negative]

    def values(self, weights: Values) -> Values:
        """AUROC [B] under patient weights [B, P]."""
        parts = [
            _area(self.ranking, weights[start:stop][:, self.positive], weights[start:stop][:, self.negative])
            for start, stop in blocks(len(weights), len(self.positive) + len(self.negative))
        ]
        return np.concatenate(parts)

    def without_each(self) -> Values:
        """Exact for any number of patients: what a patient's rows win is taken from the total."""
        below, upto = self.ranking.below, self.ranking.upto
        won = (below + upto) / 2
        # A negative wins against nobody: count, per negative, the positives above it and half of those level.
        edges = np.zeros(len(self.negative) + 1)
        np.add.at(edges, below, 0.5)
        np.add.at(edges, upto, 0.5)
        lost = edges[::-1].cumsum()[::-1][1:]
        positives = np.bincount(self.positive, minlength=self.patients)
        negatives = np.bincount(self.negative, minlength=self.patients)
        gone = (
            np.bincount(self.positive, weights=won, minlength=self.patients)
            + np.bincount(self.negative, weights=lost, minlength=self.patients)
            - np.bincount(self.positive, weights=self._won_at_home(), minlength=self.patients)
        )
        pairs = (len(self.positive) - positives) * (len(self.negative) - negatives)
        return ratio(won.sum() - gone, pairs.astype(np.float64))

    def _won_at_home(self) -> Values:
        """Per positive, how many negatives of its own patient it beats, level ones counting half."""
        width = len(self.negative) + 1
        place = np.arange(len(self.negative))
        keys = np.sort(self.negative * width + place)
        own = self.positive * width
        start = np.searchsorted(keys, own)
        below = np.searchsorted(keys, own + self.ranking.below) - start
        upto = np.searchsorted(keys, own + self.ranking.upto) - start
        return np.asarray((below + upto) / 2, dtype=np.float64)


@dataclass(frozen=True)
class AurocCovariance:
    """AUROCs of several scores on the same rows with their covariance.

    Attributes:
        auroc: [C] on the data, the mean over questions where there are several.
        covariance: [C, C].
        positive_patients, negative_patients: patients with at least one positive, one negative row; of the question
            that has the fewest.
    """

    auroc: Values
    covariance: Values
    positive_patients: int
    negative_patients: int


def auroc_covariance(
    target: ArrayLike, scores: ArrayLike, patient: ArrayLike | None = None, folds: ArrayLike | None = None
) -> AurocCovariance:
    """AUROC of each column of ``scores`` [N, C] (or [N]) and their covariance in O(N log N).

    Rows of one patient are a cluster (Obuchowski 1997, equations 3–6); at one row per patient, or with
    ``patient=None``, this is DeLong (1988). With ``folds`` the mean over folds, whose patients are disjoint.

    Raises:
        ValueError: fewer than two positive or two negative patients (in a fold).
    """
    label = _labels(target)
    columns = np.asarray(scores, dtype=np.float64).reshape(len(label), -1)
    return macro_auroc_covariance(label.astype(np.float64)[:, None], columns[:, None, :], patient, folds)


def macro_auroc_covariance(
    targets: ArrayLike, scores: ArrayLike, patient: ArrayLike | None = None, folds: ArrayLike | None = None
) -> AurocCovariance:
    """Mean AUROC over K yes-or-no questions of each of C models, and the models' joint covariance.

    The questions are the labels of a multilabel task or one class against the rest. A patient's structural components
    are summed over the questions, so that what one patient does to several of them is in the variance. Obuchowski's
    factors for few patients are those of each question; between questions, the geometric mean of both (evalfm's
    choice: with one question nothing but Obuchowski is left).

    Args:
        targets: [N, K] 0, 1 or NaN; a row is in a question where it is known.
        scores: [N, K, C].
        patient, folds: as for ``auroc_covariance``.

    Raises:
        ValueError: a question has fewer than two positive or two negative patients (in a fold).
    """
    labels, columns = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise ValueError("labels must be 0 or 1, or NaN where unknown")
    names = np.arange(len(labels)).astype(str) if patient is None else np.asarray(patient).astype(str)
    codes = np.unique(names, return_inverse=True)[1]
    fold = np.zeros(len(labels)) if folds is None else np.asarray(folds)
    parts = [_clustered(labels[rows], columns[rows], codes[rows]) for rows in (fold == f for f in np.unique(fold))]
    counts = np.sum([part.counts for part in parts], axis=0).min(axis=1)
    return AurocCovariance(
        np.mean([part.auroc for part in parts], axis=0),
        np.sum([part.covariance for part in parts], axis=0) / len(parts) ** 2,
        int(counts[0]),
        int(counts[1]),
    )


def class_patients(target: ArrayLike, patient: ArrayLike) -> tuple[int, int]:
    """How many patients have at least one positive row, and how many at least one negative row.

    A patient with both counts on both sides, as Obuchowski's I10 and I01 do.
    """
    label, names = _labels(target), np.asarray(patient).astype(str)
    return int(np.unique(names[label]).size), int(np.unique(names[~label]).size)


@dataclass(frozen=True)
class _Clustered:
    """Mean AUROC [C], covariance [C, C] and patients with a positive and with a negative row per question [2, K]."""

    auroc: Values
    covariance: Values
    counts: Positions


def _clustered(labels: Values, scores: Values, codes: Positions) -> _Clustered:
    clusters, codes = np.unique(codes, return_inverse=True)
    questions, models = scores.shape[1:]
    areas = np.zeros(models)
    # By positives and by negatives, each as it goes with its own kind and as it goes with the other.
    own, crossed = np.zeros((2, models, len(clusters))), np.zeros((2, models, len(clusters)))
    counts = np.zeros((2, questions), dtype=np.intp)
    for question in range(questions):
        known = ~np.isnan(labels[:, question])
        label, patients = labels[known, question] == 1, codes[known]
        there = np.array([np.unique(patients[label]).size, np.unique(patients[~label]).size])
        if there.min() < 2:
            raise ValueError(
                "the variance of AUROC needs two positive and two negative patients; "
                f"there are {there[0]} and {there[1]}"
            )
        counts[:, question], everybody = there, np.unique(patients).size
        for model in range(models):
            area, *by = patient_contributions(label, scores[known, question, model], patients, len(clusters))
            areas[model] += area
            own[:, model] += np.sqrt(there / (there - 1))[:, None] * np.stack(by)
            crossed[:, model] += (everybody / (everybody - 1)) ** 0.5 * np.stack(by)
    between = crossed[0] @ crossed[1].T
    covariance = own[0] @ own[0].T + own[1] @ own[1].T + between + between.T
    return _Clustered(areas / questions, covariance / questions**2, counts)


def patient_contributions(
    label: NDArray[np.bool_], score: Values, codes: Positions, patients: int
) -> tuple[float, Values, Values]:
    """AUROC, and what each of ``patients`` adds to it by its positive and by its negative rows [patients] (sums 0)."""
    wins, losses = _placements(score[label], score[~label])
    area = float(wins.mean())
    by_positive = np.bincount(codes[label], weights=wins - area, minlength=patients) / len(wins)
    by_negative = np.bincount(codes[~label], weights=losses - area, minlength=patients) / len(losses)
    return area, by_positive, by_negative


def _placements(positive: Values, negative: Values) -> tuple[Values, Values]:
    """Per positive the share of negatives it beats; per negative the share of positives that beat it."""
    low, high = np.sort(negative), np.sort(positive)
    wins = (np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")) / (2 * len(low))
    beaten = (np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")) / (2 * len(high))
    return wins, 1 - beaten


def _labels(target: ArrayLike) -> NDArray[np.bool_]:
    label = np.asarray(target)
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return label.astype(bool)
