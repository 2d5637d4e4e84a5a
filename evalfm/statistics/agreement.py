"""How well two measurements of the same thing agree: errors, correlations, concordance, Bland–Altman."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.auroc import cumulative
from evalfm.statistics.resampling import FromRows, Positions, Values, ratio

Z_LIMITS = 1.96
_COUNT, _ABSOLUTE, _ERROR, _ERROR_2, _TARGET, _TARGET_2, _PREDICTION, _PREDICTION_2, _PRODUCT = range(9)


def moment_columns(target: ArrayLike, prediction: ArrayLike) -> Values:
    """[N, 9] what is summed for every formula below.

    One, |error|, error, error², and target, target², prediction, prediction², their product, where target and
    prediction are taken from the mean target, so that no digits are lost.

    Args:
        target, prediction: [N], in the unit of what is measured.

    >>> moment_columns([1.0, 3.0], [2.0, 3.0]).tolist()
    [[1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 0.0, 0.0, -0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    truth, guess = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    error = guess - truth
    centre = truth.mean()
    x, y = truth - centre, guess - centre
    return np.stack([np.ones_like(x), np.abs(error), error, error**2, x, x * x, y, y * y, x * y], axis=1)


def mean_absolute_error(sums: Values) -> Values:
    """MAE from sums [..., 9].

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(mean_absolute_error(sums)), 3)
    0.5
    """
    return ratio(sums[..., _ABSOLUTE], sums[..., _COUNT])


def root_mean_square_error(sums: Values) -> Values:
    """RMSE from sums [..., 9].

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(root_mean_square_error(sums)), 3)
    1.0
    """
    return np.sqrt(ratio(sums[..., _ERROR_2], sums[..., _COUNT]))


def r_squared(sums: Values) -> Values:
    """1 − squared error / squared deviation from the mean target, from sums [..., 9]; NaN if that is 0.

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(r_squared(sums)), 3)
    0.2
    """
    total = _variance(sums, _TARGET, _TARGET_2) * sums[..., _COUNT]
    return 1 - ratio(sums[..., _ERROR_2], total)


def pearson(sums: Values) -> Values:
    """Pearson correlation in [−1, 1] from sums [..., 9]; NaN where target or prediction is constant.

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(pearson(sums)), 3)
    0.956
    """
    spread = _variance(sums, _TARGET, _TARGET_2) * _variance(sums, _PREDICTION, _PREDICTION_2)
    return ratio(_covariance(sums), np.sqrt(spread))


def concordance(sums: Values) -> Values:
    """Lin's (1989) concordance correlation in [−1, 1], variances over n, from sums [..., 9]; NaN for equal constants.

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(concordance(sums)), 3)
    0.8
    """
    shift = _mean(sums, _PREDICTION) - _mean(sums, _TARGET)
    spread = _variance(sums, _TARGET, _TARGET_2) + _variance(sums, _PREDICTION, _PREDICTION_2)
    return ratio(2 * _covariance(sums), spread + shift**2)


def bias(sums: Values) -> Values:
    """Mean of prediction − target from sums [..., 9].

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(bias(sums)), 3)
    0.5
    """
    return ratio(sums[..., _ERROR], sums[..., _COUNT])


def lower_limit(sums: Values) -> Values:
    """Bland and Altman's (1986) lower limit of agreement, bias − 1.96 sd, from sums [..., 9]; NaN below two rows.

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(lower_limit(sums)), 3)
    -1.46
    """
    return bias(sums) - Z_LIMITS * _error_deviation(sums)


def upper_limit(sums: Values) -> Values:
    """Bland and Altman's (1986) upper limit of agreement, bias + 1.96 sd, from sums [..., 9]; NaN below two rows.

    >>> sums = moment_columns([1, 2, 3, 4], [1, 2, 3, 6]).sum(axis=0)
    >>> round(float(upper_limit(sums)), 3)
    2.46
    """
    return bias(sums) + Z_LIMITS * _error_deviation(sums)


def spearman(target: ArrayLike, prediction: ArrayLike, weights: Values | None = None) -> Values:
    """Rank correlation [B] under each row of ``weights`` [B, N] (None: once, ones).

    A row's rank is the weight below it plus half the weight level with it: with whole-number weights this is
    Spearman's correlation, with midranks, of the rows repeated so often. NaN where target or prediction is constant.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40]).round(3).tolist()
    [0.8]
    """
    truth, guess = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    weights = np.ones((1, len(truth))) if weights is None else weights
    x, y = _weighted_ranks(truth, weights), _weighted_ranks(guess, weights)
    total = weights.sum(axis=1)
    x -= ratio(np.einsum("bi,bi->b", weights, x), total)[:, None]
    y -= ratio(np.einsum("bi,bi->b", weights, y), total)[:, None]
    weighted = weights * x
    product = np.einsum("bi,bi->b", weighted, y)
    spread = np.einsum("bi,bi->b", weighted, x) * np.einsum("bi,bi->b", weights * y, y)
    # Ranks are halves of whole numbers: what is left of a constant column is rounding.
    spread = np.where(spread > 1e-18 * total**6, spread, 0.0)
    return ratio(product, np.sqrt(spread))


def spearman_statistic(target: Values, prediction: Values, codes: Positions, patients: int) -> FromRows:
    """Spearman's correlation as a function of patient weights.

    Args:
        target, prediction: [N].
        codes: patient code of each row, [N], 0 … P − 1.
        patients: P.

    >>> statistic = spearman_statistic(np.arange(4.0), np.array([1.0, 3, 2, 4]), np.arange(4), patients=4)
    >>> round(statistic.on_the_data(), 3)
    0.8
    """
    return FromRows(codes, patients, lambda weights: spearman(target, prediction, weights))


def _weighted_ranks(value: Values, weights: Values) -> Values:
    """Weight below each row plus half the weight level with it, [B, N]."""
    order = np.argsort(value, kind="stable")
    ordered = value[order]
    summed = cumulative(weights[:, order])
    below, upto = np.searchsorted(ordered, value, "left"), np.searchsorted(ordered, value, "right")
    return (summed[:, below] + summed[:, upto]) / 2


def _mean(sums: Values, which: int) -> Values:
    return ratio(sums[..., which], sums[..., _COUNT])


def _variance(sums: Values, first: int, second: int) -> Values:
    """Variance over n; exactly 0 where only rounding is left."""
    square = ratio(sums[..., second], sums[..., _COUNT])
    variance = square - _mean(sums, first) ** 2
    return np.where(variance > 1e-13 * np.abs(square), variance, 0.0)


def _covariance(sums: Values) -> Values:
    return ratio(sums[..., _PRODUCT], sums[..., _COUNT]) - _mean(sums, _TARGET) * _mean(sums, _PREDICTION)


def _error_deviation(sums: Values) -> Values:
    """Standard deviation of the error with n − 1; NaN below two rows."""
    about_mean = np.maximum(sums[..., _ERROR_2] - ratio(sums[..., _ERROR] ** 2, sums[..., _COUNT]), 0.0)
    return np.sqrt(ratio(about_mean, np.maximum(sums[..., _COUNT] - 1, 0.0)))
