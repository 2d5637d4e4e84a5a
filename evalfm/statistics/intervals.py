"""95 % intervals from patient-clustered resamples: BCa to print, percentile for the record."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from evalfm.statistics.estimate import Estimate, Interval
from evalfm.statistics.resampling import FromSums, Patients, Statistic, Values, bootstrap
from evalfm.statistics.studentised import Errors, studentised

RESAMPLES = 2000
LEVEL = 0.95
MOST_UNDEFINED = 0.05
"""The largest share of resamples without a value from which an interval is still made."""
ENOUGH_PATIENTS = 30
"""Below so many patients (for AUROC: of either class) the interval is marked approximate."""
APPROXIMATE = "interval approximate"
OVER_EPISODES = "t over episodes that share images: of drawing more episodes from these images, not of other patients"


@dataclass(frozen=True)
class Measured:
    """A statistic with what is printed beside its estimate.

    Attributes:
        statistic: the number as a function of patient weights.
        n: how many patients (or images) stand behind it.
        undefined: the reason to give where it has no value on the data.
        fewest: patients in the smallest group that it needs, for the caution; ``n`` where None.
        note: a further caution.
        by_patient: makes the same statistic where every patient counts once, of a mean over images; None of others.
    """

    statistic: Statistic
    n: int
    undefined: str
    fewest: int | None = None
    note: str | None = None
    by_patient: Callable[[], Statistic] | None = None


def percentile_interval(resampled: Values, level: float = LEVEL) -> tuple[float, float]:
    """The central ``level`` of the resamples [B].

    >>> percentile_interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca_interval(value: float, resampled: Values, deleted: Values, level: float = LEVEL) -> tuple[float, float] | None:
    """Bias-corrected and accelerated interval (Efron 1987), or None where it cannot be had.

    Args:
        value: the estimate on the data.
        resampled: [B] the statistic on the resamples; ties with ``value`` count half in the bias correction.
        deleted: [P] the statistic with each patient left out; undefined ones (NaN) are passed over.
        level: coverage aimed at.

    >>> resampled = np.random.default_rng(0).normal(0.8, 0.02, 2000)
    >>> low, high = bca_interval(0.8, resampled, deleted=np.array([0.79, 0.8, 0.81]))
    >>> round(low, 2), round(high, 2)
    (0.76, 0.84)
    """
    tolerance = 1e-12 * max(1.0, abs(value))
    below = np.mean(resampled < value - tolerance) + 0.5 * np.mean(np.abs(resampled - value) <= tolerance)
    if not 0.0 < below < 1.0:
        return None
    bias = ndtri(below)
    tails = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    stretch = 1 - acceleration(deleted) * tails
    # No number where the squares of the values left out are beyond what a number can hold.
    if not np.all(stretch > 0):
        return None
    low, high = np.quantile(resampled, ndtr(bias + tails / stretch))
    return float(low), float(high)


def acceleration(deleted: Values) -> float:
    """Acceleration from leave-one-out values: sum d³ / (6 (sum d²)^1.5), d = mean − value; 0 if constant.

    >>> round(acceleration(np.array([0.8, 0.81, 0.83])), 4)
    -0.0367
    """
    defined = deleted[~np.isnan(deleted)]
    if not defined.size:
        return 0.0
    deviation = defined.mean() - defined
    spread = float(np.sum(deviation**2)) ** 1.5
    return float(np.sum(deviation**3)) / (6 * spread) if spread > 0 else 0.0


def interval(value: float, resampled: Values, deleted: Values) -> Interval:
    """BCa where it can be had, else percentile; absent with the reason where the resamples are degenerate.

    Args:
        value: the estimate on the data.
        resampled: the statistic on the resamples, [B].
        deleted: the statistic with each patient left out, [P].

    >>> resampled = np.random.default_rng(0).normal(0.8, 0.02, 2000)
    >>> interval(0.8, resampled, deleted=np.array([0.79, 0.8, 0.81])).method
    'BCa'
    >>> interval(0.8, np.full(2000, 0.8), deleted=np.array([0.8, 0.8])).reason
    'degenerate bootstrap: every resample gives the same value'
    """
    defined = resampled[~np.isnan(resampled)]
    undefined = (resampled.size - defined.size) / resampled.size
    if undefined > MOST_UNDEFINED:
        return Interval.absent(f"{undefined:.0%} of the resamples have no value")
    if np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        return Interval.absent("degenerate bootstrap: every resample gives the same value")
    percentile = percentile_interval(defined)
    corrected = bca_interval(value, defined, deleted)
    if corrected is None:
        return Interval(
            *percentile, percentile, "percentile (no BCa: the estimate is extreme among the resamples)", None
        )
    return Interval(*corrected, percentile, "BCa", None)


def estimates(
    measured: Mapping[str, Measured | Estimate],
    patients: Patients,
    *,
    seed: int = 0,
    unit: str = "patients",
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Each statistic on the data with its 95 % interval, all on the same resamples.

    The interval is BCa (Efron 1987) where it can be had, else percentile; absent with its reason where the resamples
    are degenerate or there is one patient.

    Args:
        measured: statistics by name; an ``Estimate`` is returned as it is.
        patients: who stands behind the rows.
        seed: of the resamples.
        unit: what is resampled, ``"patients"`` or ``"images"``.
        resamples: how many.

    >>> from evalfm.statistics.resampling import identify, mean_over_images
    >>> patients = identify(np.arange(40))
    >>> dice = np.linspace(0.5, 0.9, 40)
    >>> measured = {"dice": Measured(mean_over_images(dice, patients), patients.count, "no image")}
    >>> found = estimates(measured, patients)["dice"]
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.method
    (0.7, 0.664, 0.737, 'BCa, 2000 patient-clustered resamples')
    """
    # Products of resamples by a few sums are bound by memory: more BLAS threads only wait for each other.
    with threadpool_limits(limits=1, user_api="blas"):
        return _estimates(measured, patients, seed, unit, resamples)


def _estimates(
    measured: Mapping[str, Measured | Estimate], patients: Patients, seed: int, unit: str, resamples: int
) -> dict[str, Estimate]:
    values = {name: item.statistic.on_the_data() for name, item in measured.items() if isinstance(item, Measured)}
    statistics = {
        name: item.statistic
        for name, item in measured.items()
        if isinstance(item, Measured) and np.isfinite(values[name]) and patients.count > 1
    }
    every: dict[Hashable, Statistic] = dict(statistics.items())
    for name, statistic in statistics.items():
        if isinstance(statistic, FromSums) and statistic.scale is not None:
            every[name, "error"] = Errors(statistic)
    resampled = bootstrap(every, patients, resamples=resamples, seed=seed)
    results = {}
    for name, item in measured.items():
        if isinstance(item, Estimate):
            results[name] = item
        elif not np.isfinite(values[name]):
            results[name] = Estimate.absent(item.undefined, n=item.n, unit=unit)
        elif name not in statistics:
            results[name] = Estimate(values[name], n=item.n, unit=unit, reason=f"one of {unit} only: no interval")
        else:
            made = _interval(values[name], item.statistic, resampled[name], resampled.get((name, "error")))
            how = _resamples(resamples if made.resampled else None, unit, patients)
            results[name] = Estimate(
                values[name],
                low=made.low,
                high=made.high,
                percentile=made.percentile,
                method=f"{made.method}, {how}" if made.method else "",
                n=item.n,
                unit=unit,
                reason=made.reason,
                note=_note(item),
            )
    return results


def _interval(value: float, statistic: Statistic, resampled: Values, errors: Values | None) -> Interval:
    """The statistic's own interval, else bootstrap-t where there are ``errors`` [B], else BCa, else of its parts."""
    made = interval(value, resampled, statistic.without_each())
    if made.low is None:
        return statistic.own_interval() or statistic.interval_of_parts() or made
    own = statistic.own_interval()
    if own is None and errors is not None and isinstance(statistic, FromSums):
        own = studentised(value, statistic, resampled, errors)
    return made if own is None else replace(own, percentile=made.percentile)


def over_episodes(values: ArrayLike) -> tuple[Estimate, float | None]:
    """Mean of ``values`` [E] with a 95 % interval by t, and their standard deviation (n − 1).

    Episodes draw their images from one pool and overlap, so they are not independent: the interval says how far the
    mean could move with other episodes of the same images, and narrows with their number whatever the data. It says
    nothing about other patients. Interval and deviation are absent for one episode, or where all are equal.

    >>> mean, deviation = over_episodes([0.7, 0.8, 0.75])
    >>> round(mean.value, 3), round(mean.low, 3), round(mean.high, 3), round(deviation, 3)
    (0.75, 0.626, 0.874, 0.05)
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return Estimate(mean, n=count, unit="episodes", reason="one episode has no spread"), None
    deviation = float(numbers.std(ddof=1))
    if np.ptp(numbers) == 0:
        return Estimate(mean, n=count, unit="episodes", reason="all episodes have the same value"), deviation
    reach = float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5
    return Estimate(mean, mean - reach, mean + reach, method=OVER_EPISODES, n=count, unit="episodes"), deviation


def _resamples(resamples: int | None, unit: str, patients: Patients) -> str:
    """Of what an interval was made; None of no resamples."""
    kind = "patient-clustered" if unit == "patients" else "single-image"
    words = kind if resamples is None else f"{resamples} {kind} resamples"
    within = "" if resamples is None else " within folds"
    return words if patients.folds is None else f"{words}{within}, excludes training variance"


def _note(item: Measured) -> str | None:
    fewest = item.n if item.fewest is None else item.fewest
    cautions = (APPROXIMATE if fewest < ENOUGH_PATIENTS else None, item.statistic.remark(), item.note)
    return "; ".join(caution for caution in cautions if caution) or None
