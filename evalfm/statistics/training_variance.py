"""Training variance of differences between models: what another training sample would have changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evalfm.statistics.comparison import Difference


@dataclass(frozen=True)
class Variance:
    """Of a difference, test patients and training sample together.

    Attributes:
        total: the variance. training: the part that is due to the training sample.
        degrees_of_freedom: of t, matched to the variances; None for the normal.
    """

    total: float
    training: float
    degrees_of_freedom: float | None


def over_refits(test_variance: float, refits: ArrayLike, test_freedom: float | None = None) -> Variance:
    """The variance over refits on bootstraps of the training patients, added to that of the test patients.

    V = V_test + var_b(Δ_b), t with V² / (V_boot² / (R − 1)) degrees of freedom (Satterthwaite 1946), to whose
    denominator V_test² / ``test_freedom`` comes where the test variance is itself an estimate with few.

    Args:
        test_variance: of the difference, over test patients.
        refits: the difference as each of R refits gives it on the same test rows, [R].
        test_freedom: of ``test_variance``; None: it is taken as known.

    Raises:
        ValueError: there are fewer than two refits, or one has no finite value.

    >>> found = over_refits(0.0004, [0.01, 0.03, 0.05])
    >>> round(found.total, 6), round(found.training, 6), round(found.degrees_of_freedom, 1)
    (0.0008, 0.0004, 8.0)
    """
    values = _finite(refits, "refits")
    training = float(values.var(ddof=1))
    return _matched(test_variance + training, training, (training, len(values) - 1), (test_variance, test_freedom))


def over_folds(test_variance: float, folds: ArrayLike, test_to_train: float) -> Variance:
    """The corrected variance of Nadeau and Bengio (2003) of a mean over folds: S²·(1/K + n_test/n_train), t with K − 1.

    Conservative: the folds' own test patients are in S² as well. What it exceeds ``test_variance`` by is put down to
    training.

    Args:
        test_variance: of the difference, over test patients.
        folds: the difference in each of K folds, [K].
        test_to_train: images of a fold's test over those of its train.

    Raises:
        ValueError: there are fewer than two folds, or one has no finite value.

    >>> found = over_folds(0.0001, [0.01, 0.03, 0.05, 0.03, 0.03], test_to_train=0.25)
    >>> round(found.total, 6), round(found.training, 6), found.degrees_of_freedom
    (9e-05, 0.0, 4)
    """
    values = _finite(folds, "folds")
    total = float(values.var(ddof=1)) * (1 / len(values) + test_to_train)
    return Variance(total, max(0.0, total - test_variance), len(values) - 1)


def over_draws(test_variance: float, of_each: ArrayLike, draws: ArrayLike, *, images: int, pool: int) -> Variance:
    """The variance of a mean over R draws of few training images, each draw tested on the same patients.

    V = V_avg + c · max(0, S² − σ²_int) with c = 1/R + m/(N − m): S² is the variance of the difference over draws, of
    which σ²_int = (V̄_r − V_avg) · R / (R − 1) is of the test patients already. t with
    max(R − 1, V² / [(c·S²)² / (R − 1)]) degrees of freedom.

    Args:
        test_variance: V_avg, over test patients, of the difference averaged over draws.
        of_each: the same of each draw alone, [R].
        draws: the difference of each draw, [R].
        images: m of a class in a draw.
        pool: N of the class among which they were drawn.

    Raises:
        ValueError: there are fewer than two draws, one has no finite value, or a draw takes the whole pool.

    >>> found = over_draws(0.0002, [0.0004, 0.0004], [0.02, 0.08], images=16, pool=116)
    >>> round(found.total, 6), round(found.training, 6), round(found.degrees_of_freedom, 2)
    (0.001124, 0.000924, 1.0)
    """
    values, variances = _finite(draws, "draws"), _finite(of_each, "draws")
    count = len(values)
    if pool <= images:
        raise ValueError("a draw takes every image of a class, so draws say nothing of other images")
    factor = 1 / count + images / (pool - images)
    spread = float(values.var(ddof=1))
    within = (float(variances.mean()) - test_variance) * count / (count - 1)
    training = factor * max(0.0, spread - within)
    total = test_variance + training
    found = _matched(total, training, (factor * spread, count - 1))
    if found.degrees_of_freedom is None:
        return found
    return replace(found, degrees_of_freedom=max(float(count - 1), found.degrees_of_freedom))


def counting(difference: Difference, variance: Variance, words: str, *, level: float = 0.95) -> Difference:
    """``difference`` with its error, interval and p by ``variance``; ``words`` join its method, which ends in z or t.

    >>> from evalfm.statistics.comparison import compare_means
    >>> found = compare_means([0.8, 0.7, 0.9, 0.6], [0.7, 0.7, 0.8, 0.5], ["a", "b", "c", "d"])
    >>> wider = counting(found, over_refits(found.standard_error**2, [0.05, 0.08, 0.1]), "3 refits")
    >>> round(found.p, 3), round(wider.p, 3), wider.speaks_of
    (0.058, 0.068, 'encoders')
    """
    error, training = variance.total**0.5, variance.training**0.5
    test = difference.method.removesuffix(", z").removesuffix(", t")
    method = f"{test}, {words}, {'z' if variance.degrees_of_freedom is None else 't'}"
    if error == 0.0:
        return replace(difference, method=method, training_error=training)
    law = stats.norm() if variance.degrees_of_freedom is None else stats.t(variance.degrees_of_freedom)
    reach = float(law.isf((1 - level) / 2)) * error
    return replace(
        difference,
        standard_error=error,
        low=difference.value - reach,
        high=difference.value + reach,
        p=2 * float(law.sf(abs(difference.value) / error)),
        degrees_of_freedom=variance.degrees_of_freedom,
        method=method,
        reason=None,
        training_error=training,
    )


def _finite(values: ArrayLike, what: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        raise ValueError(f"a variance over {what} needs two of them, and there are {len(found)}")
    if not np.isfinite(found).all():
        raise ValueError(f"a variance over {what} needs a value of each")
    return found


def _matched(total: float, training: float, *parts: tuple[float, float | None]) -> Variance:
    """Degrees of freedom by Satterthwaite (1946) over ``parts``: variances with their own, None for a known one."""
    # Divided before they are squared: squares of tiny variances are 0.
    doubt = sum((variance / total) ** 2 / freedom for variance, freedom in parts if freedom is not None and total > 0)
    matched = 1 / doubt if doubt > 0 else float("inf")
    return Variance(total, training, matched if np.isfinite(matched) else None)
