"""Features as they are: effective rank, likeness of two encoders', shift by a perturbation, site against class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import norm

from evalfm.statistics.estimate import Estimate, Interval
from evalfm.statistics.resampling import Positions, Values
from evalfm.statistics.shares import Share

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


def directions(features: ArrayLike) -> Values:
    """``features`` [N, D] at length 1; those of length 0 stay.

    >>> directions([[3.0, 4], [0, 0]]).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    rows = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


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


def shift_share(clean: ArrayLike, changed: ArrayLike, patient: ArrayLike, folds: ArrayLike | None = None) -> float:
    """How far features move, as a share of the way to the image of another patient.

    The mean over images of 1 − cos(clean, changed), over the mean of 1 − cos(clean, clean) of all pairs of images of
    different patients: 0 where nothing moves, 1 where an image is as far from itself as from anybody else's. The
    cosine alone cannot be compared between encoders, whose features of different images may all lie close together.

    Args:
        clean, changed: features of the same images, [N, D].
        patient: patient id of each row, [N].
        folds: fold of each row, [N], where each has an encoder of its own: pairs then lie within a fold.

    Returns:
        The share; NaN where all clean features are one, or there is one patient.

    >>> features = np.array([[1.0, 0], [0, 1], [1, 1]])
    >>> shift_share(features, features, ["a", "b", "c"])
    0.0
    >>> round(shift_share(features, features[[1, 0, 2]], ["a", "b", "c"]), 3)
    1.261
    """
    one, other = directions(clean), directions(changed)
    who = np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    fold = np.zeros(len(one), dtype=np.intp) if folds is None else np.unique(np.asarray(folds), return_inverse=True)[1]
    every, every_pairs = _apart(one, fold)
    own, own_pairs = _apart(one, fold * (int(who.max()) + 1) + who)
    apart = (every - own) / (every_pairs - own_pairs) if every_pairs > own_pairs else 0.0
    if apart <= 1e-12:
        return float("nan")
    return float(((one - other) ** 2).sum(axis=1).mean() / 2 / apart)


@dataclass(frozen=True, eq=False)
class RobustnessIndex:
    """Whether neighbours are alike in class rather than in site.

    Attributes:
        chance: the index were neighbours drawn from all images of other patients alike.
        same_class, same_site: how many neighbours of each image share its class and not its site, and its site and not
            its class, [N].
    """

    chance: float
    same_class: Positions
    same_site: Positions

    @property
    def value(self) -> float:
        """Of the neighbours that share one of the two alone, the share with the class; NaN without such."""
        found = int(self.same_class.sum() + self.same_site.sum())
        return int(self.same_class.sum()) / found if found else float("nan")


def robustness_index(
    features: ArrayLike, label: ArrayLike, site: ArrayLike, patient: ArrayLike, k: int = NEIGHBOURS
) -> RobustnessIndex:
    """Robustness index (de Jong et al. 2025; in the form of Kömen et al. 2025): neighbours by biology or by site.

    Of the ``k`` nearest neighbours by cosine of every image, SO of the same class and another site and OS of another
    class and the same site are counted over all images: SO / (SO + OS). Images of the same patient are no neighbours.
    1 where biology decides, 0 where the site does. The ``chance`` level hangs on how often classes and sites come:
    it is 1/2 where all are equally many, which the authors see to, and not elsewhere.

    Args:
        features: [N, D].
        label: class of each row, [N].
        site: site or scanner of each row, [N].
        patient: patient id of each row, [N].
        k: how many neighbours.

    Raises:
        ValueError: there is one class or one site, classes and sites are confounded, or some image has fewer than ``k``
            images of other patients.

    >>> features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    >>> found = robustness_index(features, [0, 0, 1, 1], ["x", "y", "x", "y"], ["a", "b", "c", "d"], k=1)
    >>> found.value, found.chance
    (1.0, 0.5)
    """
    codes, of_class, of_site = (
        np.unique(np.asarray(each).astype(str), return_inverse=True)[1] for each in (patient, label, site)
    )
    for what, levels in (("class", of_class), ("site", of_site)):
        if not len(levels) or levels.max() == 0:
            raise ValueError(f"all images are of one {what}")
    if len(codes) - int(np.bincount(codes).max()) < k:
        raise ValueError(f"neighbours need {k} images of other patients")
    other = codes[:, None] != codes[None, :]
    alike, beside = (each[:, None] == each[None, :] for each in (of_class, of_site))
    biology, place = alike & ~beside & other, beside & ~alike & other
    if not biology.any() or not place.any():
        lacking = "no class is seen at two sites" if not biology.any() else "no site has two classes"
        raise ValueError(f"class and site are confounded: {lacking}")
    nearest = _nearest(np.asarray(features, dtype=np.float64), codes, k)
    same_class, same_site = (np.take_along_axis(each, nearest, axis=1).sum(axis=1) for each in (biology, place))
    by_class, by_site = (float((each.sum(axis=1) / other.sum(axis=1)).sum()) for each in (biology, place))
    return RobustnessIndex(by_class / (by_class + by_site), same_class, same_site)


def index_estimate(
    features: ArrayLike,
    label: ArrayLike,
    site: ArrayLike,
    patient: ArrayLike,
    k: int = NEIGHBOURS,
    *,
    seed: int = 0,
    unit: str,
) -> Estimate:
    """The robustness index with its interval: groups of patients are left out, and neighbours found anew without them.

    By the jackknife on the logit scale with half a neighbour added to either side; where all neighbours agree, Wilson's
    of a share of patients. Intervals of 95 % that hold the neighbours fixed cover the index of other patients in about
    eight of ten samples only.

    Args:
        features, label, site, patient, k: as for ``robustness_index``.
        seed: of the groups.
        unit: what the groups are made of, ``"patients"`` or ``"images"``.

    Raises:
        ValueError: as ``robustness_index``.

    >>> rng = np.random.default_rng(0)
    >>> label, site = rng.integers(0, 2, (2, 100))
    >>> features = rng.normal(size=(100, 4)) + 2 * np.eye(4)[label]
    >>> found = index_estimate(features, label, site, np.arange(100), unit="patients")
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.82, 0.67, 0.91)
    """
    rows, classes, sites, who = (np.asarray(each) for each in (features, label, site, patient))
    whole = robustness_index(rows, classes, sites, who, k)
    codes = np.unique(who.astype(str), return_inverse=True)[1]
    n = int(codes.max()) + 1
    if not np.isfinite(whole.value):
        return Estimate.absent("no neighbour shares class or site alone", n=n, unit=unit)
    if whole.value in (0, 1):
        share = Share(whole.same_class, whole.same_class + whole.same_site, codes, n)
        own = share.own_interval() or Interval.absent("no interval")
        return Estimate(whole.value, own.low, own.high, method=own.method, n=n, unit=unit, reason=own.reason)

    def odds(at: Positions) -> float:
        try:
            found = robustness_index(rows[at], classes[at], sites[at], who[at], k)
        except ValueError:
            return float("nan")
        return float(np.log(found.same_class.sum() + 0.5) - np.log(found.same_site.sum() + 0.5))

    made = jackknifed(odds, who, seed=seed, unit=unit)
    if made.low is None or made.high is None:
        return replace(made, value=whole.value)
    low, high = expit([made.low, made.high])
    method = f"{made.method}, of the logit"
    return replace(
        made, value=whole.value, low=min(float(low), whole.value), high=max(float(high), whole.value), method=method
    )


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
        return Estimate(value, n=patients, unit=unit, reason=f"an interval needs {2 * GROUPS} {unit}")
    group = np.random.default_rng(seed).permutation(patients) % GROUPS
    left = np.array([statistic(np.flatnonzero(group[codes] != each)) for each in range(GROUPS)])
    if not np.isfinite(left).all():
        return Estimate(value, n=patients, unit=unit, reason=f"without some of the {unit} there is no value")
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


def _apart(unit: Values, group: Positions) -> tuple[float, int]:
    """Sum of |a − b|² / 2, which is 1 − cos, over all ordered pairs of rows of one group, and how many these are."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    counts = np.diff(starts, append=len(order))
    squares = np.add.reduceat((unit[order] ** 2).sum(axis=1), starts)
    summed = np.add.reduceat(unit[order], starts, axis=0)
    return float((counts * squares - (summed**2).sum(axis=1)).sum()), int((counts**2).sum())


def _nearest(features: Values, codes: Positions, k: int) -> NDArray[np.intp]:
    """[N, k] rows that are nearest by cosine and of other patients; a feature of length 0 is as far from all."""
    unit = directions(features)
    alike = unit @ unit.T
    alike[codes[:, None] == codes[None, :]] = -np.inf
    return np.argsort(-alike, axis=1, kind="stable")[:, :k]
