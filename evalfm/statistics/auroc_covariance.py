"""The covariance of AUROCs where patients have several images: DeLong and Obuchowski, also over several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.auroc import binary_labels
from evalfm.statistics.resampling import Mask, Positions, Values


@dataclass(frozen=True)
class AurocCovariance:
    """AUROCs of several scores on the same rows with their covariance.

    Attributes:
        auroc: [C] on the data, the mean over labels where there are several.
        covariance: [C, C].
        positive_patients, negative_patients: patients with at least one positive, one negative row; of the label
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
    counts = np.sum([each.counts for each in by_fold], axis=0).min(axis=1)
    return AurocCovariance(
        np.mean([each.auroc for each in by_fold], axis=0),
        np.sum([each.covariance for each in by_fold], axis=0) / len(by_fold) ** 2,
        int(counts[0]),
        int(counts[1]),
    )


def class_patients(target: ArrayLike, patient: ArrayLike) -> tuple[int, int]:
    """How many patients have at least one positive row, and how many at least one negative row.

    A patient with both counts in both, as Obuchowski's I10 and I01 do.

    >>> class_patients([0, 1, 1, 0], ["a", "a", "b", "c"])
    (2, 2)
    """
    label, names = binary_labels(target), np.asarray(patient).astype(str)
    return int(np.unique(names[label]).size), int(np.unique(names[~label]).size)


@dataclass(frozen=True)
class _Clustered:
    """Mean AUROC [C], covariance [C, C] and patients with a positive and with a negative row per label [2, K]."""

    auroc: Values
    covariance: Values
    counts: Positions


def _clustered(labels: Values, scores: Values, codes: Positions) -> _Clustered:
    clusters, codes = np.unique(codes, return_inverse=True)
    count, models = scores.shape[1:]
    areas = np.zeros(models)
    # By positives and by negatives, each as it goes with its own kind and as it goes with the other.
    own, crossed = np.zeros((2, models, len(clusters))), np.zeros((2, models, len(clusters)))
    counts = np.zeros((2, count), dtype=np.intp)
    for which in range(count):
        known = ~np.isnan(labels[:, which])
        label, patients = labels[known, which] == 1, codes[known]
        there = np.array([np.unique(patients[label]).size, np.unique(patients[~label]).size])
        if there.min() < 2:
            raise ValueError(
                "the variance of AUROC needs two positive and two negative patients; "
                f"there are {there[0]} and {there[1]}"
            )
        counts[:, which], everybody = there, np.unique(patients).size
        for model in range(models):
            area, *by = patient_contributions(label, scores[known, which, model], patients, len(clusters))
            areas[model] += area
            own[:, model] += np.sqrt(there / (there - 1))[:, None] * np.stack(by)
            crossed[:, model] += (everybody / (everybody - 1)) ** 0.5 * np.stack(by)
    between = crossed[0] @ crossed[1].T
    covariance = own[0] @ own[0].T + own[1] @ own[1].T + between + between.T
    return _Clustered(areas / count, covariance / count**2, counts)


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
