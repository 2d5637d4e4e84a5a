"""Area under the precision–recall curve as average precision, under many weightings at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.auroc import Ranking, cumulative, rank
from evalfm.statistics.resampling import Positions, Statistic, Values, blocks, ratio


def average_precision(target: ArrayLike, score: ArrayLike) -> float:
    """Sum over distinct scores of (recall gained) × (precision there); NaN without a positive.

    As scikit-learn's ``average_precision_score``: no interpolation, tied scores enter together.
    """
    ranking = rank(target, score)
    ones = np.ones((1, len(ranking.positive))), np.ones((1, len(ranking.negative)))
    return float(_area(ranking, _first_level(ranking, np.asarray(score, dtype=np.float64)), *ones)[0])


class AveragePrecision(Statistic):
    """Average precision as a function of patient weights; arguments as for ``Auroc``."""

    def __init__(self, target: ArrayLike, score: ArrayLike, codes: Positions, patients: int) -> None:
        self.patients = patients
        self.ranking = rank(target, score)
        self.first = _first_level(self.ranking, np.asarray(score, dtype=np.float64))
        self.positive = codes[self.ranking.positive]
        self.negative = codes[self.ranking.negative]

    def values(self, weights: Values) -> Values:
        """Average precision [B] under patient weights [B, P]."""
        parts = []
        for start, stop in blocks(len(weights), len(self.positive) + len(self.negative)):
            block = weights[start:stop]
            parts.append(_area(self.ranking, self.first, block[:, self.positive], block[:, self.negative]))
        return np.concatenate(parts)


def _first_level(ranking: Ranking, score: Values) -> Positions:
    """Per sorted positive, the position of the first positive with the same score."""
    sorted_scores = score[ranking.positive]
    return np.searchsorted(sorted_scores, sorted_scores, side="left")


def _area(ranking: Ranking, first: Positions, positive: Values, negative: Values) -> Values:
    """Average precision [B] from the weights of the sorted positives [B, m] and negatives [B, n]."""
    hits, alarms = cumulative(positive), cumulative(negative)
    found = hits[:, -1:] - hits[:, first]
    called = found + alarms[:, -1:] - alarms[:, ranking.below]
    # Where nothing is called the positive's own weight is 0, so any precision will do.
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return ratio(np.einsum("bi,bi->b", positive, precision), hits[:, -1])
