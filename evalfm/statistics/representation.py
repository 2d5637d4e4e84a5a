"""Features without any label: their effective rank, and how alike those of two encoders are on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from evalfm.statistics.estimate import Estimate
from evalfm.statistics.resampling import Positions, Values

NEIGHBOURS = 10
GROUPS = 20
_EPSILON = 1e-7


def rank_me(features: ArrayLike) -> float:
    """Effective rank of ``features`` [N, D] (Garrido et al. 2023): exp of the entropy of the singular values' shares.

    Between 1 and min(N, D); NaN where every feature is 0.

    >>> round(rank_me(np.eye(4)), 3)
    4.0
    """
    singular = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return float("nan")
    shares = singular / total + _EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def linear_cka(one: ArrayLike, other: ArrayLike, *, unbiased: bool = True) -> float:
    """Linear centred kernel alignment of features [N, D1] and [N, D2] of the same images (Kornblith et al. 2019).

    1 where one is a rotation and scaling of the other. With more dimensions than images the plain form nears 1 for any
    two; ``unbiased`` takes the estimator of HSIC by Song et al. (2012), which is about 0 for unrelated features and may
    fall below. NaN where one is constant.

    Raises:
        ValueError: they are of different images, or of fewer than four.

    >>> features = np.array([[1.0, 0], [0, 1], [2, 1], [1, 3], [0, 2]])
    >>> round(linear_cka(features, features @ [[0, 2], [-2, 0]]), 3)
    1.0
    """
    grams = []
    for features in (one, other):
        columns = np.asarray(features, dtype=np.float64)
        # The centre changes no value and keeps the digits.
        columns = columns - columns.mean(axis=0)
        grams.append(columns @ columns.T)
    if grams[0].shape != grams[1].shape or len(grams[0]) < 4:
        raise ValueError("CKA needs features of the same four images at least")
    inner = _unbiased if unbiased else _plain
    crossed, first, second = inner(*grams), inner(grams[0], grams[0]), inner(grams[1], grams[1])
    if not min(first, second) > 0:
        return float("nan")
    return float(crossed / (first * second) ** 0.5)


def shared_neighbours(one: ArrayLike, other: ArrayLike, patient: ArrayLike, k: int = NEIGHBOURS) -> Values:
    """[N]: the share of each image's ``k`` nearest neighbours by cosine that both features [N, D] agree on.

    Images of the same patient are no neighbours. By chance the mean is about k over the number of other images.

    Args:
        one, other: features of the same images, [N, D1] and [N, D2].
        patient: patient id of each row, [N].
        k: how many neighbours.

    Raises:
        ValueError: some image has fewer than ``k`` images of other patients.

    >>> features = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> shared_neighbours(features, features[:, ::-1], ["a", "b", "c", "d"], k=1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    codes = np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    if len(codes) - int(np.bincount(codes).max()) < k:
        raise ValueError(f"neighbours need {k} images of other patients")
    first, second = (_nearest(np.asarray(features, dtype=np.float64), codes, k) for features in (one, other))
    return np.array([len(np.intersect1d(a, b)) / k for a, b in zip(first, second, strict=True)])


def jackknifed(
    statistic: Callable[[Positions], float], patient: ArrayLike, *, level: float = 0.95, seed: int = 0, unit: str
) -> Estimate:
    """``statistic`` of all rows, with an interval from leaving out each of twenty groups of patients in turn.

    Not the bootstrap: a row drawn twice lowers a rank and is its own neighbour.

    Args:
        statistic: from row numbers to the number.
        patient: patient id of each row, [N].
        level: coverage of the interval, a fraction.
        seed: of the groups.
        unit: what the groups are made of, ``"patients"`` or ``"images"``.

    >>> values = np.linspace(0, 1, 60)
    >>> found = jackknifed(lambda rows: float(values[rows].mean()), np.arange(60), unit="patients")
    >>> round(found.value, 3), round(found.low, 2), round(found.high, 2)
    (0.5, 0.41, 0.59)
    """
    codes = np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    patients = int(codes.max()) + 1
    value = statistic(np.arange(len(codes)))
    if not np.isfinite(value):
        return Estimate.absent("the features are constant", n=patients, unit=unit)
    if patients < 2 * GROUPS:
        return Estimate(value, n=patients, unit=unit, reason=f"an interval needs {2 * GROUPS} patients")
    group = np.random.default_rng(seed).permutation(patients) % GROUPS
    left = np.array([statistic(np.flatnonzero(group[codes] != each)) for each in range(GROUPS)])
    error = float(((GROUPS - 1) / GROUPS * ((left - left.mean()) ** 2).sum()) ** 0.5)
    reach = float(norm.isf((1 - level) / 2)) * error
    method = f"normal, jackknife over {GROUPS} groups of {unit}"
    return Estimate(value, value - reach, value + reach, method=method, n=patients, unit=unit)


def _plain(first: Values, second: Values) -> float:
    """‖XᵀY‖² of centred features from their Gram matrices."""
    return float((first * second).sum())


def _unbiased(first: Values, second: Values) -> float:
    """HSIC by Song et al. (2012), equation 5, up to a factor that depends on N alone."""
    n = len(first)
    k, m = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    return float(
        (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(axis=0) @ m.sum(axis=0))
    )


def _nearest(features: Values, codes: Positions, k: int) -> NDArray[np.intp]:
    """[N, k] rows that are nearest by cosine and of other patients; a feature of length 0 is as far from all."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    alike = directions @ directions.T
    alike[codes[:, None] == codes[None, :]] = -np.inf
    return np.argsort(-alike, axis=1, kind="stable")[:, :k]
