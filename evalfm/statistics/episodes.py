"""Few-shot episodes: macro AUROC of each, and its mean over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.estimate import Estimate
from evalfm.statistics.resampling import Values

METHOD = "t over episodes that share images: of drawing more episodes from these images, not of other patients"


def episode_auroc(scores: ArrayLike) -> Values:
    """Macro one-vs-rest AUROC of each episode, [E]; ties count half.

    Args:
        scores: [E, C, q, C]: of q queries of each true class the score for each class.

    Raises:
        ValueError: the shape is another, or a score is not finite.
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


def over_episodes(values: ArrayLike) -> tuple[Estimate, float | None]:
    """Mean of ``values`` [E] with a 95 % interval by t, and their standard deviation (n − 1).

    Episodes draw their images from one pool and overlap, so they are not independent: the interval tells how far the
    mean could move with other episodes of the same images, and narrows with their number whatever the data. It says
    nothing about other patients. Interval and deviation are absent for one episode, or where all are equal.
    """
    found = np.asarray(values, dtype=np.float64)
    mean, count = float(found.mean()), len(found)
    if count < 2:
        return Estimate(mean, n=count, unit="episodes", reason="one episode has no spread"), None
    deviation = float(found.std(ddof=1))
    if np.ptp(found) == 0:
        return Estimate(mean, n=count, unit="episodes", reason="all episodes have the same value"), deviation
    reach = float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5
    return Estimate(mean, mean - reach, mean + reach, method=METHOD, n=count, unit="episodes"), deviation
