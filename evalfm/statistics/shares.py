"""A share of images, with an interval that patients of several images and a share of 0 or 1 do not break."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalfm.statistics.estimate import Interval
from evalfm.statistics.resampling import FromSums, Positions, Values, ratio


class Share(FromSums):
    """The share of rows with something among those that count, with the interval of Wilson (1927) for clusters.

    The effective number is that which gives the clustered variance, p (1 − p) / V, at most the rows; where p is 0 or 1,
    and V with it, that of patients of unequal size, (Σn)² / Σn² (Kish). t with one less than the latter for z.

    Args:
        hits, counted: [n] 0 or 1; a hit counts.
        codes: patient code of each row, [n], 0 … P − 1.
        patients: P.
        shown: a rising function of the share, which is shown in place of it.

    >>> perfect = Share(np.ones(12), np.ones(12), np.repeat(np.arange(6), 2), 6)
    >>> found = perfect.own_interval()
    >>> perfect.on_the_data(), round(found.low, 3), found.high
    (1.0, 0.476, 1.0)
    """

    def __init__(
        self,
        hits: NDArray[np.generic],
        counted: NDArray[np.generic],
        codes: Positions,
        patients: int,
        shown: Callable[[Values], Values] | None = None,
    ) -> None:
        columns = np.stack([hits.astype(np.float64), counted.astype(np.float64)], axis=1)
        self.shown = shown
        super().__init__(columns, codes, patients, self._shown_share)

    def _shown_share(self, sums: Values) -> Values:
        share = ratio(sums[..., 0], sums[..., 1])
        return share if self.shown is None else self.shown(share)

    def own_interval(self) -> Interval | None:
        """Wilson's, absent with one patient."""
        hits, rows = self.sums[self.sums[:, 1] > 0].T
        if len(rows) < 2:
            return Interval.absent("one patient only: no interval")
        total = rows.sum()
        share, patients = float(hits.sum() / total), float(total**2 / (rows**2).sum())
        variance = len(rows) / (len(rows) - 1) * float(((hits - share * rows) ** 2).sum()) / total**2
        alone = variance <= 1e-15
        effective = patients if alone else min(share * (1 - share) / variance, float(total))
        z = float(stats.t.ppf(0.975, max(patients - 1, 1.0)))
        middle = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
        reach = z / (1 + z**2 / effective) * (share * (1 - share) / effective + z**2 / (4 * effective**2)) ** 0.5
        ends = np.array([share if share == 0 else max(middle - reach, 0.0), share if share == 1 else middle + reach])
        low, high = ends if self.shown is None else self.shown(ends)
        how = "of patients: every image agrees" if alone else "by clustered variance"
        method = f"Wilson with t, effective number {effective:.0f} {how}"
        return Interval(float(low), float(high), None, method, None, resampled=False)
