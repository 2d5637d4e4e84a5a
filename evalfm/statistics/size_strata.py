"""Images with the finding by the size of the lesion: does the attribute say more than the size?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.statistics.adjusted import AdjustedEffect, mean_difference
from evalfm.statistics.permutation import PERMUTATIONS
from evalfm.statistics.resampling import Positions, Values

STRATA = 3


@dataclass(frozen=True)
class SizeStrata:
    """Strata of patients by the size of their lesions.

    Attributes:
        codes: stratum of each row, [N], from 0, smallest lesions first.
        low, high: smallest and largest area in each stratum, [S].
    """

    codes: Positions
    low: tuple[float, ...]
    high: tuple[float, ...]


def size_strata(area: ArrayLike, patient: ArrayLike, strata: int = STRATA) -> SizeStrata:
    """Divide patients at the quantiles of the logarithm of their lesions' area (its mean over a patient's rows).

    A patient stands in one stratum with all rows, so that strata have no patient in common. Areas that are equal share
    a stratum, and there may be fewer strata than asked for.

    Args:
        area: > 0, [N].
        patient: patient id of each row, [N].
        strata: how many.

    Raises:
        ValueError: an area is not above 0.

    >>> found = size_strata([0.01, 0.02, 0.05, 0.1, 0.2, 0.3], range(6))
    >>> found.codes.tolist(), found.low, found.high
    ([0, 0, 1, 1, 2, 2], (0.01, 0.05, 0.2), (0.02, 0.1, 0.3))
    """
    size = np.asarray(area, dtype=np.float64)
    if not (size > 0).all():
        raise ValueError("the area of a lesion is above 0")
    codes = np.unique(np.asarray(patient), return_inverse=True)[1]
    mean = np.bincount(codes, weights=np.log(size)) / np.bincount(codes)
    # Equal areas have equal means, whatever rounding does to them.
    mean = np.round(mean, 12)
    edges = np.quantile(mean, np.arange(1, strata) / strata)
    own = np.unique(np.searchsorted(edges, mean, side="left"), return_inverse=True)[1][codes]
    rows = [size[own == each] for each in range(int(own.max()) + 1)] if len(size) else []
    low, high = (tuple(float(end(each)) for each in rows) for end in (np.min, np.max))
    return SizeStrata(own, low, high)


def within_size_strata(
    values: ArrayLike,
    member: ArrayLike,
    area: ArrayLike,
    patient: ArrayLike,
    strata: SizeStrata,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> AdjustedEffect:
    """Difference of the mean with an attribute among images with the finding, combined across strata of lesion size.

    ``mean_difference`` with a mean for each stratum and a spline of the area's logarithm over all: within a third of
    the lesions, too, the larger ones have the tubes. In small levels residuals exchange within a stratum alone.

    Args:
        values: what may differ, such as the score's logit or Dice, [N].
        member: 0 or 1, [N].
        area: > 0, [N].
        patient: patient id of each row, [N].
        strata: of these rows.
        permutations: how many.
        seed: of the permutations.

    >>> area = [0.01 * (1 + i % 30) for i in range(120)]
    >>> values = [a + 0.02 * (i * 7 % 11) + 0.1 * (i % 2) for i, a in enumerate(area)]
    >>> member, strata = [i % 2 for i in range(120)], size_strata(area, range(120))
    >>> found = within_size_strata(values, member, area, range(120), strata)
    >>> round(found.value, 2), found.p < 0.001
    (0.1, True)
    """
    size: Values = np.log(np.asarray(area, dtype=np.float64))
    held = {"log area": size}
    return mean_difference(values, member, patient, held, folds=strata.codes, permutations=permutations, seed=seed)
