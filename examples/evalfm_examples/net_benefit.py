"""A metric: the net benefit of acting on a probability above .2, of decision curves (Vickers and Elkin 2006)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics import Metric, mean_among
from evalfm.metrics.rows import Question
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured

THRESHOLD = 0.2
"""One finding that is treated is worth four images without it that are treated too."""


def benefit(rows: Question) -> NDArray[np.float64]:
    """Of each image, [n]: 1 for a finding above the threshold, −odds for an image without it, 0 below."""
    worth = np.where(rows.label == 1, 1.0, -THRESHOLD / (1 - THRESHOLD))
    return np.where(rows.score >= THRESHOLD, worth, 0.0)


def measure(rows: Question) -> Measured | Estimate:
    """The mean over images, with an interval over patients; absent where the scores are no probabilities."""
    if not rows.probable:
        return Estimate.absent("scores outside [0, 1] are no probabilities", unit=rows.unit)
    return mean_among(rows, benefit(rows), undefined="no image")


METRIC = Metric(
    name="net-benefit",
    kinds=("binary",),
    measure=measure,
    unit="true positives per image",
    better="higher",
    words="net benefit",
)


def oracle(rows: Question) -> float:
    """The same by counting, for ``evalfm.metrics.conformance.check``."""
    treated = rows.score >= THRESHOLD
    true, false = (int((treated & (rows.label == value)).sum()) for value in (1, 0))
    return (true - false * THRESHOLD / (1 - THRESHOLD)) / len(rows.label)
