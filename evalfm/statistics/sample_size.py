"""How many images and patients a study needs, before it is made: for an interval's width or for a test's power."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats
from scipy.optimize import brentq


@dataclass(frozen=True)
class UnitVariance:
    """The variance of an estimate, times the number of images of each class; patients' images are counted as a cluster.

    Attributes:
        positive, negative: of AUROCs, for positive and negative images; of means over all images both are the same
            figure, and ``classes`` is False.
    """

    positive: float
    negative: float
    classes: bool = True

    def standard_error(self, images: float, prevalence: float) -> float:
        """Of the estimate on so many images.

        >>> auroc_variance(0.85).standard_error(1000, 0.1)
        0.0197...
        """
        if not self.classes:
            return math.sqrt(self.positive / images)
        return math.sqrt((self.positive / prevalence + self.negative / (1 - prevalence)) / images)

    def images(self, standard_error: float, prevalence: float) -> int:
        """How many images give this standard error.

        >>> auroc_variance(0.85).images(0.02, 0.1)
        978
        """
        return math.ceil(self.standard_error(1, prevalence) ** 2 / standard_error**2 - 1e-9)


def auroc_variance(auroc: float, *, images_per_patient: float = 1, icc: float = 0.5) -> UnitVariance:
    """Of one AUROC, scores normal in both classes with one variance, all images of a patient of one class.

    Args:
        auroc: above 0 and below 1.
        images_per_patient: at least 1. icc: intraclass correlation of a patient's scores within the class, 0 to 1.

    Raises:
        ValueError: a figure is outside its range.

    >>> round(auroc_variance(0.5).positive, 4)          # 1/12, as for any continuous score
    0.0833
    """
    return _auroc_unit((auroc,), 1.0, images_per_patient, icc)


def auroc_difference_variance(
    auroc: float, difference: float, *, correlation: float = 0.5, images_per_patient: float = 1, icc: float = 0.5
) -> UnitVariance:
    """Of the difference of two encoders' AUROCs, ``auroc`` and ``auroc - difference``, on the same images.

    Args:
        correlation: of the two encoders' scores on one image, within the class, 0 to 1.
        auroc, images_per_patient, icc: as for ``auroc_variance``.

    Raises:
        ValueError: a figure is outside its range.

    >>> alike, unlike = (auroc_difference_variance(0.85, 0.03, correlation=r).positive for r in (0.9, 0.1))
    >>> alike < unlike
    True
    """
    return _auroc_unit((auroc, auroc - difference), correlation, images_per_patient, icc)


def mean_variance(sd: float, *, images_per_patient: float = 1, icc: float = 0.5) -> UnitVariance:
    """Of the mean over images of a figure that each image has, such as Dice, with standard deviation ``sd``.

    >>> mean_variance(0.2, images_per_patient=3).standard_error(600, 0.1)
    0.0115...
    """
    _check(("images per patient", images_per_patient, 1, math.inf), ("ICC", icc, 0, 1), ("sd", sd, 0, math.inf))
    unit = sd**2 * (1 + (images_per_patient - 1) * icc)
    return UnitVariance(unit, unit, classes=False)


def mean_difference_variance(
    sd: float, *, correlation: float = 0.5, images_per_patient: float = 1, icc: float = 0.5
) -> UnitVariance:
    """Of the mean difference of such a figure between two encoders on the same images.

    >>> mean_difference_variance(0.2, correlation=0.5) == mean_variance(0.2)
    True
    """
    _check(("correlation", correlation, 0, 1))
    return mean_variance(sd * math.sqrt(2 * (1 - correlation)), images_per_patient=images_per_patient, icc=icc)


def error_for_width(width: float, *, level: float = 0.95) -> float:
    """The standard error at which an interval is so wide.

    >>> round(error_for_width(0.1), 4)
    0.0255
    """
    return width / (2 * float(stats.norm.isf((1 - level) / 2)))


def width_of(standard_error: float, *, level: float = 0.95) -> float:
    """The width of the interval at this standard error.

    >>> round(width_of(error_for_width(0.1)), 9)
    0.1
    """
    return 2 * float(stats.norm.isf((1 - level) / 2)) * standard_error


def error_for_power(difference: float, *, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1) -> float:
    """The standard error at which a difference is found with this power, ``alpha`` divided by the comparisons.

    >>> round(error_for_power(0.03), 5), round(error_for_power(0.03, comparisons=10), 5)
    (0.01071, 0.00822)
    """
    return difference / (float(stats.norm.isf(alpha / comparisons / 2)) + float(stats.norm.isf(1 - power)))


def power_of(difference: float, standard_error: float, *, alpha: float = 0.05, comparisons: int = 1) -> float:
    """The probability that a two-sided test finds ``difference``.

    >>> round(power_of(0.03, 0.01071), 3), round(power_of(0.0, 0.01), 3)
    (0.8, 0.05)
    """
    bound = float(stats.norm.isf(alpha / comparisons / 2))
    return float(
        stats.norm.cdf(difference / standard_error - bound) + stats.norm.cdf(-difference / standard_error - bound)
    )


def with_training(standard_error: float, ratio: float) -> float:
    """The standard error of a difference between encoders, the training sample's part counted.

    ``ratio`` is the training sample's variance as a multiple of the test sample's. Both shrink together where the same
    study provides train and test.

    >>> with_training(0.01, 1.0)
    0.0141...
    """
    return standard_error * math.sqrt(1 + ratio)


def _auroc_unit(aurocs: tuple[float, ...], correlation: float, images_per_patient: float, icc: float) -> UnitVariance:
    _check(
        *(("AUROC", each, 1e-6, 1 - 1e-6) for each in aurocs),
        ("images per patient", images_per_patient, 1, math.inf),
        ("correlation", correlation, 0, 1),
        ("ICC", icc, 0, 1),
    )

    def of(same: float) -> float:
        """The covariance of the contrast's placements of two images whose scores by one encoder correlate so."""
        own = sum(_placements(each, each, same) for each in aurocs)
        return own - (2 * _placements(aurocs[0], aurocs[1], same * correlation) if len(aurocs) > 1 else 0.0)

    unit = max(0.0, of(1.0) + (images_per_patient - 1) * of(icc))
    return UnitVariance(unit, unit)


def _placements(first: float, second: float, correlation: float) -> float:
    """The covariance of two images' placements among the other class, each by a score with its AUROC."""
    half = correlation / 2
    joint = stats.multivariate_normal([0, 0], [[1, half], [half, 1]]).cdf(stats.norm.ppf([first, second]))
    return float(joint) - first * second


def _check(*figures: tuple[str, float, float, float]) -> None:
    for name, value, least, most in figures:
        if not least <= value <= most:
            raise ValueError(f"{name} is {value:g}, which is not from {least:g} to {most:g}")


def detectable_difference(
    unit_of: Callable[[float], UnitVariance],
    images: float,
    prevalence: float,
    *,
    most: float,
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int = 1,
    training_ratio: float = 0.0,
) -> float | None:
    """The smallest difference that so many images find with this power, or None where even ``most`` is not found.

    Args:
        unit_of: from a difference to its variance, as ``auroc_difference_variance`` gives it.

    >>> round(detectable_difference(lambda by: auroc_difference_variance(0.85, by), 2000, 0.1, most=0.4), 3)
    0.044
    """

    def beyond(difference: float) -> float:
        error = with_training(unit_of(difference).standard_error(images, prevalence), training_ratio)
        return power_of(difference, error, alpha=alpha, comparisons=comparisons) - power

    return None if beyond(most) < 0 else float(brentq(beyond, most * 1e-6, most, xtol=1e-6))
