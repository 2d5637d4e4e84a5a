"""Decision curves: what calling by a probability is worth, beside calling everybody and nobody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.resampling import Positions, Values

THRESHOLDS = np.arange(1, 100) / 100
"""Probabilities from which on somebody acts: .01 to .99."""


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit at each threshold, in true positives an image.

    Attributes:
        thresholds: [T] the probability from which on one acts, which is also how a false call is weighed: t / (1 − t).
        model: [T] of acting where the score reaches the threshold.
        low, high: [T] of its pointwise 95 % interval.
        treat_all: [T] of acting always; that of acting never is 0.
        gain: [T] of the model over the better of these two.
        gain_low, gain_high: [T] of its pointwise 95 % interval.
        prevalence: of which it speaks.
    """

    thresholds: Values
    model: Values
    low: Values
    high: Values
    treat_all: Values
    gain: Values
    gain_low: Values
    gain_high: Values
    prevalence: float


def net_benefit(
    target: ArrayLike,
    score: ArrayLike,
    codes: Positions,
    thresholds: ArrayLike = THRESHOLDS,
    prevalence: float | None = None,
) -> NetBenefit:
    """Net benefit (Vickers and Elkin 2006) with intervals clustered by patient: TP / n − FP / n · t / (1 − t).

    Where a ``prevalence`` is stated, sensitivity · π − (1 − specificity) · (1 − π) · t / (1 − t). Errors are those of
    the patients' influence values, P / (P − 1) · Σ of their squares, t with P − 1 degrees of freedom.

    Args:
        target, score: labels 0 or 1 and probabilities, [N]; those of all folds together.
        codes: patient code of each row, [N].
        thresholds: [T] inside (0, 1).
        prevalence: of the place where one acts; that of the data if None.

    Raises:
        ValueError: a threshold or the prevalence is outside (0, 1), a class is missing, or there is one patient.

    >>> found = net_benefit([1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1], np.arange(5), thresholds=[0.25, 0.5])
    >>> found.model.round(4).tolist(), found.treat_all.round(4).tolist(), found.gain.round(4).tolist()
    ([0.3333, 0.0], [0.2, -0.2], [0.1333, 0.0])
    """
    label, at = np.asarray(target, dtype=np.float64), np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    patients, place = np.unique(codes, return_inverse=True)
    if at.min() <= 0 or at.max() >= 1 or not (prevalence is None or 0 < prevalence < 1):
        raise ValueError("thresholds and prevalence lie between 0 and 1")
    if label.min() == label.max() or len(patients) < 2:
        raise ValueError("net benefit needs images of both classes and two patients")
    share, odds = float(label.mean()), at / (1 - at)
    stated = share if prevalence is None else prevalence
    called = np.asarray(score, dtype=np.float64)[:, None] >= at
    positive, negative = label[:, None], 1 - label[:, None]
    # Of a stated prevalence each class is weighed to it, and what is taken off is the class's own mean.
    of_hits, of_alarms = stated / share, (1 - stated) / (1 - share) * odds
    worth = of_hits * positive * called - of_alarms * negative * called
    everybody = of_hits * positive - of_alarms * negative
    model, treat_all = worth.mean(axis=0), everybody.mean(axis=0)
    better = np.where(treat_all > 0, everybody, 0.0)

    def error(values: Values) -> Values:
        if prevalence is None:
            influence = values - values.mean(axis=0)
        else:
            means = [(values * of).sum(axis=0) / of.sum() for of in (positive, negative)]
            influence = values - positive * means[0] - negative * means[1]
        summed = np.stack([np.bincount(place, each) for each in influence.T], axis=1)
        spread = (summed**2).sum(axis=0) * len(patients) / (len(patients) - 1)
        return np.asarray(np.sqrt(spread) / len(label), dtype=np.float64)

    z = float(stats.t.ppf(0.975, len(patients) - 1))
    gain, of_model, of_gain = (worth - better).mean(axis=0), z * error(worth), z * error(worth - better)
    return NetBenefit(
        at, model, model - of_model, model + of_model, treat_all, gain, gain - of_gain, gain + of_gain, stated
    )
