"""Wrong labels: flipped at stated rates, and how high the AUROC of a perfect model can be on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.resampling import Values


def flip_labels(label: ArrayLike, missed: float, false: float, uniform: ArrayLike) -> Values:
    """``label`` [N] of 0 and 1 with some of them wrong; NaN, which is unknown, stays.

    Args:
        label: 0, 1 or NaN, [N].
        missed: probability that a positive is called negative (1 − the labels' sensitivity).
        false: probability that a negative is called positive (1 − the labels' specificity).
        uniform: [N] draws in [0, 1). With the same draws a larger rate flips what a smaller one flips, and more.

    Raises:
        ValueError: a rate is no probability.

    >>> flip_labels([1, 1, 0, 0], missed=0.3, false=0.1, uniform=[0.2, 0.4, 0.2, 0.05]).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    for rate in (missed, false):
        if not 0 <= rate <= 1:
            raise ValueError(f"a rate of wrong labels lies between 0 and 1, not at {rate:g}")
    given, drawn = np.asarray(label, dtype=np.float64), np.asarray(uniform, dtype=np.float64)
    return np.where(drawn < np.where(given == 1, missed, false), 1 - given, given)


def label_predictive_values(prevalence: float, missed: float, false: float) -> tuple[float, float] | None:
    """How often a label 1 and a label 0 is right (PPV, NPV); None where labels cannot be as the rates say.

    Args:
        prevalence: share of the images that are labelled positive, in (0, 1).
        missed, false: as in ``flip_labels``.

    Labels with these rates hold at least ``false`` and at most ``1 − missed`` positives; outside there is no truth
    that would give them.

    >>> ppv, npv = label_predictive_values(0.14, missed=0.2, false=0.05)
    >>> round(ppv, 3), round(npv, 3)
    (0.686, 0.972)
    >>> label_predictive_values(0.03, missed=0.05, false=0.05) is None
    True
    """
    right = 1 - missed - false
    if right <= 0:
        return None
    true = (prevalence - false) / right
    if not 0 <= true <= 1:
        return None
    return (1 - missed) * true / prevalence, (1 - false) * (1 - true) / (1 - prevalence)


def auroc_ceiling(prevalence: float, missed: float, false: float) -> float | None:
    """The AUROC that the truth itself has on labels with such errors: (PPV + NPV) / 2.

    No model can be expected to show more, unless it shares the labels' errors. Errors that hang on nothing but the
    truth shrink every AUROC towards .5 by one factor, PPV + NPV − 1, and so keep the order of models.

    Args:
        prevalence: share of the images that are labelled positive, in (0, 1).
        missed, false: as in ``flip_labels``.

    Returns:
        None where there is no truth that would give such labels, or one that has a single class.

    >>> round(auroc_ceiling(0.14, missed=0.2, false=0.05), 3), auroc_ceiling(0.14, missed=0, false=0)
    (0.829, 1.0)
    """
    values = label_predictive_values(prevalence, missed, false)
    if values is None or not all(values):
        return None
    return sum(values) / 2
