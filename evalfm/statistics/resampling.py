"""Statistics as functions of patient weights, so that a bootstrap is weights and not a loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.estimate import Interval

Values = NDArray[np.float64]
Positions = NDArray[np.intp]
Mask = NDArray[np.bool_]
Name = TypeVar("Name", bound=Hashable)

BLOCK_ELEMENTS = 1 << 20
"""How many weights are held at once (8 MB of float64): enough to vectorise, few enough for the cache."""

EXACT_DELETIONS = 1000
"""Above so many patients a statistic without a cheap deletion leaves out groups of patients."""


@dataclass(frozen=True)
class Patients:
    """Who stands behind each row.

    Attributes:
        codes: patient code of each row, [N], 0 … P − 1, in the sorted order of the patients' ids.
        count: P.
        folds: fold of each row, [N], 0 … F − 1, or None.
        strata: fold of each patient, [P]; zeros without folds.
    """

    codes: Positions
    count: int
    folds: Positions | None
    strata: Positions

    def behind(self, rows: Mask | None = None) -> int:
        """How many patients have at least one of ``rows`` (bool [N]; None: all rows).

        >>> identify(["a", "a", "b"]).behind(np.array([True, True, False]))
        1
        """
        return int(np.unique(self.codes if rows is None else self.codes[rows]).size)

    def among(self, rows: Mask) -> Patients:
        """The same patients, seen only through ``rows`` (bool [N]).

        >>> identify(["a", "b", "b"]).among(np.array([True, False, True])).codes.tolist()
        [0, 1]
        """
        return replace(self, codes=self.codes[rows], folds=None if self.folds is None else self.folds[rows])


def identify(patient: ArrayLike, folds: ArrayLike | None = None) -> Patients:
    """Code patients (and folds) given by name.

    Codes follow the sorted names, so that the resamples do not depend on the order of the rows.

    Args:
        patient: patient id of each row, [N].
        folds: fold of each row, [N].

    Raises:
        ValueError: there are no rows, the lengths differ, or a patient stands in two folds.

    >>> patients = identify(["p2", "p1", "p2"])
    >>> patients.codes.tolist(), patients.count
    ([1, 0, 1], 2)
    """
    names = np.asarray(patient)
    if names.ndim != 1 or names.size == 0:
        raise ValueError("patients must be a one-dimensional array with at least one row")
    unique, codes = np.unique(names.astype(str), return_inverse=True)
    if folds is None:
        return Patients(codes, len(unique), None, np.zeros(len(unique), dtype=np.intp))
    fold = np.asarray(folds)
    if fold.shape != names.shape:
        raise ValueError(f"{len(names)} patients but folds of shape {fold.shape}")
    fold_codes = np.unique(fold, return_inverse=True)[1].astype(np.intp)
    strata = np.zeros(len(unique), dtype=np.intp)
    strata[codes] = fold_codes
    if not np.array_equal(strata[codes], fold_codes):
        raise ValueError("a patient stands in more than one fold; assign whole patients to folds")
    return Patients(codes, len(unique), fold_codes, strata)


def patient_weights(patients: Patients, resamples: int, generator: np.random.Generator) -> Values:
    """How often each patient is drawn, [resamples, P]: with replacement, within folds where there are folds.

    Row r uses the r-th stretch of the generator's stream: one call or several blocks give the same weights.

    >>> weights = patient_weights(identify(["a", "b", "c"]), 4, np.random.default_rng(0))
    >>> weights.shape, weights.sum(axis=1).tolist()
    ((4, 3), [3.0, 3.0, 3.0, 3.0])
    """
    order = np.argsort(patients.strata, kind="stable")
    sizes = np.bincount(patients.strata)
    starts = np.cumsum(sizes) - sizes
    stratum = patients.strata[order]
    drawn = (generator.random((resamples, patients.count)) * sizes[stratum]).astype(np.intp) + starts[stratum]
    drawn = order[drawn] + np.arange(resamples)[:, None] * patients.count
    counts = np.bincount(drawn.ravel(), minlength=resamples * patients.count)
    return counts.reshape(resamples, patients.count).astype(np.float64)


class Statistic(ABC):
    """A number of a data set as a function of how much each of its patients counts."""

    patients: int

    @abstractmethod
    def values(self, weights: Values) -> Values:
        """The statistic under patient weights [B, P], as [B]; NaN where it is undefined."""

    def on_the_data(self) -> float:
        """The statistic with every patient counted once."""
        return float(self.values(np.ones((1, self.patients)))[0])

    def without_each(self) -> Values:
        """The statistic with each patient left out, [P].

        Above ``EXACT_DELETIONS`` patients, with each of that many random groups left out: the acceleration of
        BCa has the same expectation from groups, with a standard deviation of .65 / groups.
        """
        groups = min(self.patients, EXACT_DELETIONS)
        group = np.arange(self.patients) % groups
        if groups < self.patients:
            group = np.random.default_rng(0).permutation(group)
        parts = []
        for start, stop in blocks(groups, self.patients):
            parts.append(self.values((group[None, :] != np.arange(start, stop)[:, None]).astype(np.float64)))
        return np.concatenate(parts)

    def remark(self) -> str | None:
        """A caution to print beside the number, or None."""
        return None

    def own_interval(self) -> Interval | None:
        """A 95 % interval that needs no resamples, or None where it is made of them."""
        return None

    def interval_of_parts(self) -> Interval | None:
        """One for where every resample gives the same value, made of the parts' own; None without such parts."""
        return None


@dataclass(frozen=True)
class Scale:
    """Where the error of a statistic hangs little on its value, so that bootstrap-t intervals are made there.

    Attributes:
        name: in words.
        there, back: from the statistic's values to the scale, and back.
    """

    name: str
    there: Callable[[Values], Values]
    back: Callable[[Values], Values]


class FromSums(Statistic):
    """A function of weighted sums: means, rates, errors, moments. One matrix product for all resamples.

    Args:
        columns: what is summed over the rows, [n, d].
        codes: patient code of each row, [n], 0 … P − 1.
        patients: P.
        formula: from sums [..., d] to the statistic [...].
        scale: of its bootstrap-t interval; None for BCa.

    >>> hits = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    >>> share = FromSums(hits, np.array([0, 0, 1]), 2, lambda sums: ratio(sums[..., 0], sums[..., 1]))
    >>> round(share.on_the_data(), 3), share.without_each().tolist()
    (0.667, [1.0, 0.5])
    """

    def __init__(
        self,
        columns: Values,
        codes: Positions,
        patients: int,
        formula: Callable[[Values], Values],
        scale: Scale | None = None,
    ) -> None:
        self.patients = patients
        self.formula = formula
        self.scale = scale
        self.members = np.flatnonzero(np.bincount(codes, minlength=patients))
        self.sums = np.stack([np.bincount(codes, weights=column, minlength=patients) for column in columns.T], axis=1)

    def values(self, weights: Values) -> Values:
        """The formula at the weighted sums."""
        if len(self.members) == self.patients:
            return self.formula(weights @ self.sums)
        return self.formula(weights[:, self.members] @ self.sums[self.members])

    def without_each(self) -> Values:
        """Exact for any number of patients: a patient's sums are taken from the total."""
        return self.formula(self.sums.sum(axis=0) - self.sums)


class FromRows(Statistic):
    """Any function of row weights.

    Args:
        codes: patient code of each row, [n], 0 … P − 1.
        patients: P.
        function: from row weights [B, n] to the statistic [B].

    >>> total = FromRows(np.array([0, 0, 1]), 2, lambda weights: weights.sum(axis=1))
    >>> total.values(np.array([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [3.0, 2.0]
    """

    def __init__(self, codes: Positions, patients: int, function: Callable[[Values], Values]) -> None:
        self.patients = patients
        self.codes = codes
        self.function = function

    def values(self, weights: Values) -> Values:
        """The function at each row's patient weight, a bounded block of resamples at a time."""
        parts = [
            self.function(weights[start:stop][:, self.codes]) for start, stop in blocks(len(weights), len(self.codes))
        ]
        return np.concatenate(parts)


class Average(Statistic):
    """The mean of statistics over those terms (folds, labels) where each is defined.

    The same rule holds on the data and in every resample; terms undefined on the data are named in ``remark``.

    >>> Average([mean_over_images(np.array([value]), identify(["a"])) for value in (0.25, 0.75)]).on_the_data()
    0.5
    """

    def __init__(self, terms: Sequence[Statistic], names: str = "folds") -> None:
        if not terms:
            raise ValueError("an average needs at least one term")
        self.terms = tuple(terms)
        self.names = names
        self.patients = terms[0].patients

    def values(self, weights: Values) -> Values:
        """Mean over the defined terms, [B]."""
        return mean_of_defined(np.stack([term.values(weights) for term in self.terms]))

    def without_each(self) -> Values:
        """Mean over the defined terms with each patient, or group of patients, left out."""
        return mean_of_defined(np.stack([term.without_each() for term in self.terms]))

    def interval_of_parts(self) -> Interval | None:
        """The mean of the bounds of its terms: conservative, as if all erred together."""
        return _mean_of_bounds([term for term in self.terms if not np.isnan(term.on_the_data())])

    def remark(self) -> str | None:
        """How many terms are left out because the statistic is undefined there."""
        undefined = sum(np.isnan(term.on_the_data()) for term in self.terms)
        if not undefined:
            return None
        return f"undefined in {undefined} of {len(self.terms)} {self.names}, which are left out"


class WeightedSum(Statistic):
    """A weighted sum of statistics of the same patients; undefined where one of them is.

    Args:
        terms: the statistics.
        factors: one per term.

    >>> terms = [mean_over_images(np.array([value]), identify(["a"])) for value in (0.9, 0.5)]
    >>> WeightedSum(terms, [1.0, -1.0]).on_the_data()
    0.4
    """

    def __init__(self, terms: Sequence[Statistic], factors: Sequence[float]) -> None:
        self.terms = tuple(terms)
        self.factors = np.asarray(factors, dtype=np.float64)
        self.patients = terms[0].patients

    def values(self, weights: Values) -> Values:
        """The sum at each weighting."""
        return np.asarray(self.factors @ np.stack([term.values(weights) for term in self.terms]), dtype=np.float64)

    def without_each(self) -> Values:
        """The sum with each patient left out, by the terms' own ways."""
        return np.asarray(self.factors @ np.stack([term.without_each() for term in self.terms]), dtype=np.float64)

    def interval_of_parts(self) -> Interval | None:
        """The same sum of the bounds of its terms, where none is taken off: conservative."""
        return _mean_of_bounds(self.terms, self.factors) if self.factors.min() >= 0 else None


def _mean_of_bounds(terms: Sequence[Statistic], factors: Values | None = None) -> Interval | None:
    found = [term.own_interval() for term in terms]
    bounds = np.array([(each.low, each.high) for each in found if each and each.low is not None], dtype=np.float64)
    if len(bounds) < len(found) or not len(found):
        return None
    low, high = (np.full(len(found), 1 / len(found)) if factors is None else factors) @ bounds
    return Interval(float(low), float(high), None, "mean of Wilson bounds of its parts, conservative", None, False)


def mean_of_defined(values: Values) -> Values:
    """Mean over the first axis of what is not NaN; NaN where nothing is defined.

    >>> mean_of_defined(np.array([[0.5, np.nan], [0.7, np.nan]])).round(3).tolist()
    [0.6, nan]
    """
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def ratio(numerator: Values, denominator: Values) -> Values:
    """``numerator / denominator`` with NaN where the denominator is 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def over_folds(patients: Patients, build: Callable[[Positions], Statistic], keep: Mask | None = None) -> Statistic:
    """``build`` over all rows, or its average over the folds (those of ``keep`` [F]), each built from its own rows.

    Scores of different heads are ranked apart, so AUROC and correlations are averages over folds; what is counted,
    summed or compared with probabilities is taken over all folds together (Forman and Scholz 2010).

    Raises:
        ValueError: no fold is kept.

    >>> patients = identify(["a", "b", "c"], folds=[0, 0, 1])
    >>> rows = over_folds(patients, lambda rows: mean_over_images(np.full(1, float(len(rows))), identify(["a"])))
    >>> rows.on_the_data()
    1.5
    """
    if patients.folds is None:
        return build(np.arange(len(patients.codes)))
    folds = range(patients.strata.max() + 1)
    kept = [fold for fold in folds if keep is None or keep[fold]]
    return Average([build(np.flatnonzero(patients.folds == fold)) for fold in kept])


def mean_over_images(values: NDArray[np.generic], patients: Patients, rows: Mask | None = None) -> FromSums:
    """Mean of ``values`` [N] over the images ``rows`` (bool [N], all if None), those of all folds together.

    >>> mean_over_images(np.array([0.25, 0.75, 2.0]), identify(["a", "b", "c"], folds=[0, 0, 1])).on_the_data()
    1.0
    """
    columns = np.stack([np.ones(len(values)), values.astype(np.float64)], axis=1)
    if rows is not None:
        columns[~rows] = 0.0
    return FromSums(columns, patients.codes, patients.count, lambda sums: ratio(sums[..., 1], sums[..., 0]))


def mean_over_patients(values: NDArray[np.generic], patients: Patients, rows: Mask | None = None) -> FromSums:
    """Mean over patients of the mean of ``values`` [N] over their images among ``rows``, those of all folds together.

    >>> mean_over_patients(np.array([0.0, 0.5, 1.0]), identify(["a", "a", "b"])).on_the_data()
    0.625
    """
    among = np.ones(len(values), dtype=bool) if rows is None else rows
    images = np.bincount(patients.codes[among], minlength=patients.count)[patients.codes]
    share = np.where(among, 1 / np.maximum(images, 1), 0.0)
    columns = np.stack([share, np.where(among, values.astype(np.float64), 0.0) * share], axis=1)
    return FromSums(columns, patients.codes, patients.count, lambda sums: ratio(sums[..., 1], sums[..., 0]))


def bootstrap(
    statistics: Mapping[Name, Statistic], patients: Patients, *, resamples: int = 2000, seed: int = 0
) -> dict[Name, Values]:
    """Every statistic on the same patient-clustered resamples, each [resamples].

    >>> patients = identify(np.arange(50))
    >>> mean = mean_over_images(np.linspace(0, 1, 50), patients)
    >>> resampled = bootstrap({"mean": mean}, patients, resamples=500)["mean"]
    >>> resampled.shape, round(float(resampled.std()), 2)
    ((500,), 0.04)
    """
    generator = np.random.default_rng(seed)
    resampled = {name: np.empty(resamples) for name in statistics}
    for start, stop in blocks(resamples, max(patients.count, len(patients.codes))):
        weights = patient_weights(patients, stop - start, generator)
        for name, statistic in statistics.items():
            resampled[name][start:stop] = statistic.values(weights)
    return resampled


def blocks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Start and stop of stretches of ``rows`` of ``width`` numbers, each about ``BLOCK_ELEMENTS`` in all.

    >>> list(blocks(3, BLOCK_ELEMENTS // 2))
    [(0, 2), (2, 3)]
    """
    step = max(1, BLOCK_ELEMENTS // max(width, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
