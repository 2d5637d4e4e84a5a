"""Free-response ROC: how many lesions are found at how many false positives an image, by patient weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalfm.statistics.resampling import FromRows, Positions, Values, ratio

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which sensitivity is averaged (the competition performance metric of LUNA16)."""


@dataclass(frozen=True)
class FrocCurve:
    """The points of a curve, from the highest threshold to the lowest.

    Attributes:
        threshold: lowest score of the candidates that count, [G].
        false_positives: candidates that hit no lesion, an image, [G].
        sensitivity: share of lesions that a candidate hits, [G].
    """

    threshold: Values
    false_positives: Values
    sensitivity: Values

    def at(self, rates: Sequence[float] = RATES) -> Values:
        """Sensitivity at so many false positives an image at most, [R]; no point lies between two thresholds."""
        points = np.searchsorted(self.false_positives, np.asarray(rates), side="right")
        return np.concatenate([[0.0], self.sensitivity])[points]


def froc_curve(lesion_score: Values, false_score: Values, images: int) -> FrocCurve:
    """Every operating point of candidates with scores.

    Args:
        lesion_score: score of the candidate that hits each lesion, [L]; NaN where none does.
        false_score: score of each candidate that hits none, [F].
        images: how many images there are, with lesions or without.

    Raises:
        ValueError: there is no image or no lesion.

    >>> curve = froc_curve(np.array([0.9, 0.4, np.nan]), np.array([0.8, 0.3]), images=4)
    >>> curve.threshold.tolist(), curve.false_positives.tolist(), curve.sensitivity.round(3).tolist()
    ([0.9, 0.8, 0.4, 0.3], [0.0, 0.25, 0.25, 0.5], [0.333, 0.333, 0.667, 0.667])
    >>> curve.at([0.125, 0.25]).round(3).tolist()
    [0.333, 0.667]
    """
    if images < 1 or not len(lesion_score):
        raise ValueError("a FROC curve needs an image and a lesion")
    found = lesion_score[~np.isnan(lesion_score)]
    threshold = np.unique(np.concatenate([found, false_score]))[::-1]
    hits = len(found) - np.searchsorted(np.sort(found), threshold)
    false = len(false_score) - np.searchsorted(np.sort(false_score), threshold)
    return FrocCurve(threshold, false / images, hits / len(lesion_score))


def froc_statistic(
    images: Positions,
    lesions: Positions,
    lesion_score: Values,
    false: Positions,
    false_score: Values,
    patients: int,
    rates: Sequence[float] = RATES,
) -> FromRows:
    """Mean sensitivity over ``rates`` of false positives an image, as a function of patient weights.

    Args:
        images, lesions, false: patient code of each image [I], lesion [L] and candidate that hits no lesion [F].
        lesion_score, false_score: as in ``froc_curve``.
        patients: P.
        rates: false positives an image; at each the largest sensitivity that needs no more of them.

    >>> statistic = froc_statistic(
    ...     np.array([0, 1]), np.array([0, 1]), np.array([0.9, 0.4]), np.array([1]), np.array([0.8]), patients=2
    ... )
    >>> round(statistic.on_the_data(), 3), statistic.without_each().tolist()
    (0.857, [0.5714285714285714, 1.0])
    """
    hit = ~np.isnan(lesion_score)
    score = np.concatenate([lesion_score[hit], false_score])
    order = np.argsort(-score, kind="stable")
    # Candidates of one score come and go together.
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) if len(score) else np.empty(0, dtype=np.intp)
    of_images, of_lesions, of_hits = len(images), len(images) + len(lesions), int(hit.sum())
    columns = np.concatenate([of_images + np.flatnonzero(hit), of_lesions + np.arange(len(false))])[order]
    is_hit = order < of_hits

    def mean_sensitivity(weights: Values) -> Values:
        shown = weights[:, :of_images].sum(axis=1)
        there = weights[:, of_images:of_lesions].sum(axis=1)
        taken = weights[:, columns]
        hits = np.cumsum(np.where(is_hit, taken, 0.0), axis=1)[:, last]
        wrong = np.cumsum(np.where(is_hit, 0.0, taken), axis=1)[:, last]
        hits = np.concatenate([np.zeros((len(weights), 1)), hits], axis=1)
        rows = np.arange(len(weights))
        total = np.zeros(len(weights))
        for rate in rates:
            total += hits[rows, (wrong <= (rate * shown)[:, None]).sum(axis=1)]
        return ratio(total / len(rates), there)

    return FromRows(np.concatenate([images, lesions, false]), patients, mean_sensitivity)
