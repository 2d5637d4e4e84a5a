"""Areas under the ROC and the precision–recall curve, ties counted, under many weightings; their covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.resampling import FromRows, Mask, Positions, Statistic, Values, blocks, mean_of_defined, ratio


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
    """Sort scores [N] of positives and negatives (``target`` 0 or 1) against each other.

    Raises:
        ValueError: a label is neither 0 nor 1.

    >>> ranking = rank([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> ranking.below.tolist(), ranking.upto.tolist()
    ([1, 2], [2, 2])
    """
    label, value = binary_labels(target), np.asarray(score, dtype=np.float64)
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
    label, value = binary_labels(target), np.asarray(score, dtype=np.float64)
    if folds is None:
        return float(weighted_auroc(label, value, np.ones((1, len(label))))[0])
    fold = np.asarray(folds)
    areas = [auroc(label[fold == which], value[fold == which]) for which in np.unique(fold)]
    return float(mean_of_defined(np.array(areas)))


def weighted_auroc(target: ArrayLike, score: ArrayLike, weights: Values) -> Values:
    """AUROC [B] under each row of ``weights`` ≥ 0, [B, N]: a pair counts the product of its weights.

    Whole-number weights give the AUROC of the rows repeated so often. O(N) per weighting after one sort, in
    blocks of bounded memory; NaN where the weight of one class is 0.

    >>> weights = np.array([[1.0, 1, 1, 1], [1, 2, 1, 1]])
    >>> weighted_auroc([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8], weights).round(4).tolist()
    [0.75, 0.6667]
    """
    ranking = rank(target, score)
    parts = [
        _area(ranking, weights[start:stop][:, ranking.positive], weights[start:stop][:, ranking.negative])
        for start, stop in blocks(len(weights), weights.shape[1])
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def cumulative(weights: Values) -> Values:
    """[B, n] → [B, n + 1]: the weight of the first k entries, k = 0 … n.

    >>> cumulative(np.array([[1.0, 2.0, 3.0]])).tolist()
    [[0.0, 1.0, 3.0, 6.0]]
    """
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
        target, score: labels 0 or 1 and scores, [n].
        codes: patient code of each row, [n], 0 … P − 1.
        patients: P.

    >>> statistic = Auroc([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8], codes=np.array([0, 1, 2, 3]), patients=4)
    >>> round(statistic.on_the_data(), 3), statistic.values(np.array([[1.0, 0, 1, 1]])).tolist()
    (0.75, [1.0])
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
        # A negative beats no other row: count, per negative, the positives above it and half of those level.
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


def episode_auroc(scores: ArrayLike) -> Values:
    """Macro one-vs-rest AUROC of each episode, [E]; ties count half.

    Args:
        scores: [E, C, q, C]: of q queries of each true class the score for each class.

    Raises:
        ValueError: the shape is another, or a score is not finite.

    >>> scores = np.zeros((1, 2, 1, 2))
    >>> scores[0, 0, 0] = [0.9, 0.1]
    >>> scores[0, 1, 0] = [0.4, 0.6]
    >>> episode_auroc(scores).tolist()
    [1.0]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 4 or values.shape[1] != values.shape[3] or min(values.shape[1:]) < 1 or values.shape[1] < 2:
        raise ValueError(f"scores must be [E, C, q, C] of two classes or more, not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite")
    episodes, classes, queries = values.shape[:3]
    area = np.zeros(episodes)
    for code in range(classes):
        positive = values[:, code, :, code]
        negative = np.delete(values[..., code], code, axis=1).reshape(episodes, -1)
        below = np.zeros(episodes)
        for query in range(queries):
            mine = positive[:, query, None]
            below += (negative < mine).mean(axis=1) + (negative == mine).mean(axis=1) / 2
        area += below / queries
    return np.asarray(area / classes)


def average_precision_statistic(target: ArrayLike, score: ArrayLike, codes: Positions, patients: int) -> FromRows:
    """Average precision as a function of patient weights.

    Args:
        target, score: labels 0 or 1 and scores, [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.

    >>> statistic = average_precision_statistic([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8], np.arange(4), patients=4)
    >>> round(statistic.on_the_data(), 3), statistic.values(np.array([[1.0, 0, 1, 1]])).tolist()
    (0.833, [1.0])
    """
    ranking = rank(target, score)
    positives = np.asarray(score, dtype=np.float64)[ranking.positive]
    # Per sorted positive, the position of the first positive with the same score.
    first = np.searchsorted(positives, positives, side="left")

    def of_rows(weights: Values) -> Values:
        return _precision_area(ranking, first, weights[:, ranking.positive], weights[:, ranking.negative])

    return FromRows(codes, patients, of_rows)


def chance_average_precision(positives: int, images: int) -> float:
    """Mean average precision over all orders of ``images``, ``positives`` of them positive: above their share.

    (m − 1) / (n − 1) + (n − m) · H / (n (n − 1)) for m of n, H the sum of 1 / k to n. For distinct scores; one score
    for all has their share.

    Raises:
        ValueError: there is no positive one.

    >>> round(chance_average_precision(4, 40), 3), chance_average_precision(3, 3)
    (0.176, 1.0)
    """
    m, n = positives, images
    if not 0 < m <= n:
        raise ValueError("average precision needs a positive image")
    if n == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (m - 1) / (n - 1) + (n - m) * harmonic / (n * (n - 1))


def _precision_area(ranking: Ranking, first: Positions, positive: Values, negative: Values) -> Values:
    """Average precision [B] from the weights of the sorted positives [B, m] and negatives [B, n]."""
    hits, alarms = cumulative(positive), cumulative(negative)
    true = hits[:, -1:] - hits[:, first]
    called = true + alarms[:, -1:] - alarms[:, ranking.below]
    # Where nothing is called the positive's own weight is 0, so any precision will do.
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    return ratio(np.einsum("bi,bi->b", positive, precision), hits[:, -1])


def binary_labels(target: ArrayLike) -> Mask:
    """Labels 0 or 1 [N] as booleans.

    Raises:
        ValueError: a label is neither.

    >>> binary_labels([0, 1.0]).tolist()
    [False, True]
    """
    label = np.asarray(target)
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return label.astype(bool)


@dataclass(frozen=True)
class AurocCovariance:
    """AUROCs of several scores on the same rows with their covariance.

    Attributes:
        auroc: [C] on the data, the mean over labels where there are several.
        covariance: [C, C].
    """

    auroc: Values
    covariance: Values


def auroc_covariance(
    target: ArrayLike, scores: ArrayLike, patient: ArrayLike | None = None, folds: ArrayLike | None = None
) -> AurocCovariance:
    """AUROC of each column of ``scores`` [N, C] (or [N]) and their covariance in O(N log N).

    Rows of one patient are a cluster (Obuchowski 1997, equations 3–6); at one row per patient, or with
    ``patient=None``, this is DeLong (1988). With ``folds`` the mean over folds, whose patients are disjoint.

    Args:
        target: 0 or 1, [N].
        scores: of one or several models, [N] or [N, C].
        patient: patient id of each row, [N]; None: every row is a patient.
        folds: fold of each row, [N].

    Raises:
        ValueError: fewer than two positive or two negative patients (in a fold).

    >>> found = auroc_covariance([0, 0, 1, 1, 1], [0.1, 0.6, 0.5, 0.8, 0.9])
    >>> found.auroc.round(3).tolist(), found.covariance.round(4).tolist()
    ([0.833], [[0.0556]])
    """
    label = binary_labels(target)
    columns = np.asarray(scores, dtype=np.float64).reshape(len(label), -1)
    return macro_auroc_covariance(label.astype(np.float64)[:, None], columns[:, None, :], patient, folds)


def macro_auroc_covariance(
    targets: ArrayLike, scores: ArrayLike, patient: ArrayLike | None = None, folds: ArrayLike | None = None
) -> AurocCovariance:
    """Mean AUROC over K yes-or-no labels of each of C models, and the models' joint covariance.

    The labels are those of a multilabel task, or one class against the rest. A patient's structural components are
    summed over the labels, so that what one patient does to several of them is in the variance. Obuchowski's factors
    for few patients are those of each label; between labels, the geometric mean of both (evalfm's choice: with one
    label nothing but Obuchowski is left).

    Args:
        targets: [N, K] 0, 1 or NaN; a row counts for the labels that are known.
        scores: [N, K, C].
        patient, folds: as for ``auroc_covariance``.

    Raises:
        ValueError: a label is neither 0, 1 nor NaN, or has fewer than two positive or two negative patients (in a
            fold).

    >>> targets = np.array([[0, 1], [0, 0], [1, 1], [1, 0], [1, np.nan]])
    >>> scores = np.array([[0.1, 0.4], [0.6, 0.2], [0.5, 0.9], [0.8, 0.5], [0.9, 0.3]])[:, :, None]
    >>> found = macro_auroc_covariance(targets, scores)
    >>> found.auroc.round(3).tolist(), found.covariance.round(4).tolist()
    ([0.792], [[0.0115]])
    """
    labels, columns = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise ValueError("labels must be 0 or 1, or NaN where unknown")
    names = np.arange(len(labels)).astype(str) if patient is None else np.asarray(patient).astype(str)
    codes = np.unique(names, return_inverse=True)[1]
    fold = np.zeros(len(labels)) if folds is None else np.asarray(folds)
    by_fold = [_clustered(labels[rows], columns[rows], codes[rows]) for rows in (fold == f for f in np.unique(fold))]
    return AurocCovariance(
        np.mean([each.auroc for each in by_fold], axis=0),
        np.sum([each.covariance for each in by_fold], axis=0) / len(by_fold) ** 2,
    )


def class_patients(target: ArrayLike, patient: ArrayLike) -> tuple[int, int]:
    """How many patients have at least one positive row, and how many at least one negative row.

    A patient with both counts in both, as Obuchowski's I10 and I01 do.

    >>> class_patients([0, 1, 1, 0], ["a", "a", "b", "c"])
    (2, 2)
    """
    label, names = binary_labels(target), np.asarray(patient).astype(str)
    return int(np.unique(names[label]).size), int(np.unique(names[~label]).size)


def _clustered(labels: Values, scores: Values, codes: Positions) -> AurocCovariance:
    clusters, codes = np.unique(codes, return_inverse=True)
    count, models = scores.shape[1:]
    areas = np.zeros(models)
    # By positives and by negatives, each as it goes with its own kind and as it goes with the other.
    own, crossed = np.zeros((2, models, len(clusters))), np.zeros((2, models, len(clusters)))
    for which in range(count):
        known = ~np.isnan(labels[:, which])
        label, patients = labels[known, which] == 1, codes[known]
        there = np.array([np.unique(patients[label]).size, np.unique(patients[~label]).size])
        if there.min() < 2:
            raise ValueError(
                "the variance of AUROC needs two positive and two negative patients; "
                f"there are {there[0]} and {there[1]}"
            )
        everybody = np.unique(patients).size
        for model in range(models):
            area, *by = patient_contributions(label, scores[known, which, model], patients, len(clusters))
            areas[model] += area
            own[:, model] += np.sqrt(there / (there - 1))[:, None] * np.stack(by)
            crossed[:, model] += (everybody / (everybody - 1)) ** 0.5 * np.stack(by)
    between = crossed[0] @ crossed[1].T
    covariance = own[0] @ own[0].T + own[1] @ own[1].T + between + between.T
    return AurocCovariance(areas / count, covariance / count**2)


def patient_contributions(label: Mask, score: Values, codes: Positions, patients: int) -> tuple[float, Values, Values]:
    """AUROC, and what each of ``patients`` adds to it by its positive and by its negative rows [patients] (sums 0).

    Args:
        label, score: [N].
        codes: patient code of each row, [N], 0 … patients − 1.
        patients: how many.

    >>> label, codes = np.array([False, False, True, True]), np.array([0, 1, 1, 2])
    >>> area, positives, negatives = patient_contributions(label, np.array([0.1, 0.6, 0.5, 0.8]), codes, 3)
    >>> area, positives.tolist(), negatives.tolist()
    (0.75, [0.0, -0.125, 0.125], [0.125, -0.125, 0.0])
    """
    wins, losses = placements(score[label], score[~label])
    area = float(wins.mean())
    by_positive = np.bincount(codes[label], weights=wins - area, minlength=patients) / len(wins)
    by_negative = np.bincount(codes[~label], weights=losses - area, minlength=patients) / len(losses)
    return area, by_positive, by_negative


def placements(positive: Values, negative: Values) -> tuple[Values, Values]:
    """Per positive the share of negatives it beats, [m]; per negative the share of positives that beat it, [n].

    >>> wins, losses = placements(np.array([0.5, 0.8]), np.array([0.1, 0.6]))
    >>> wins.tolist(), losses.tolist()
    ([0.5, 1.0], [1.0, 0.5])
    """
    low, high = np.sort(negative), np.sort(positive)
    wins = (np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")) / (2 * len(low))
    beaten = (np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")) / (2 * len(high))
    return wins, 1 - beaten
