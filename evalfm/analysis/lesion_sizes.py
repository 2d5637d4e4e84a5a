"""Images with the finding by an attribute and the size of the lesion: how many are found, how well, and the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute
from evalfm.analysis.contrasts import BySize, SizeCell, SizeTest
from evalfm.statistics.association import effective_clusters
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.gaps import clustered_rate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify, mean_over_images
from evalfm.statistics.size_strata import STRATA, size_strata, within_size_strata

Values = NDArray[np.float64]
Sizes = TypeVar("Sizes", BySize, BySize | None)


def by_lesion_size(
    what: str,
    area: Values,
    attribute: Attribute,
    patient: NDArray[np.object_],
    *,
    values: Values,
    found: NDArray[np.bool_] | None,
    dice: Values | None = None,
    unit: str = "patients",
    strata: int = STRATA,
    seed: int = 0,
) -> BySize:
    """Tables and tests among images with the finding; those without a known area or level are left out.

    Args:
        what: what ``values`` [N] are, in words.
        area: of the lesion, [N].
        attribute: of these images.
        patient: patient id of each, [N].
        values: what the attribute may move beside the size, [N].
        found: whether the finding was found, [N]; None where no threshold was given.
        dice: [N] of masks.
        unit: what ``patient`` names.
        strata: of lesion size.
        seed: of resamples and permutations.
    """
    there = np.isfinite(area) & (area > 0)
    known = there & (attribute.codes >= 0)
    lost = int((~there).sum())
    if not known.any():
        return BySize(what, (), (), lost)
    names, codes, size = patient[known], attribute.codes[known], area[known]
    divided = size_strata(size, names, strata)
    cells = []
    for stratum, (low, high) in enumerate(zip(divided.low, divided.high, strict=True)):
        for number, level in enumerate(attribute.levels):
            rows = (divided.codes == stratum) & (codes == number)
            whom = names[rows]
            share = Estimate.absent("no threshold was given", unit=unit)
            if found is not None:
                share = _rate(found[known][rows], whom, unit)
            mean = None if dice is None else _mean(dice[known][rows], whom, unit, seed)
            count = len(set(whom.tolist()))
            cells.append(SizeCell(stratum, low, high, level, int(rows.sum()), count, share, mean))
    tests = tuple(
        SizeTest(
            attribute.levels[number],
            within_size_strata(values[known], codes == number, size, names, divided, seed=seed),
        )
        for number in attribute.contrasted
    )
    return BySize(what, tuple(cells), tests, lost)


def corrected_sizes(every: Sequence[Sizes]) -> tuple[Iterator[Sizes], int]:
    """Each with its tests' p corrected over all (Benjamini and Hochberg), and over how many."""
    raw = [test.effect.p for each in every if each is not None for test in each.tests]
    adjusted = benjamini_hochberg([np.nan if p is None else p for p in raw])
    values = iter(adjusted.tolist())

    def anew(each: Sizes) -> Sizes:
        if each is None:
            return each
        tests = tuple(replace(test, corrected=None if np.isnan(p := next(values)) else float(p)) for test in each.tests)
        return replace(each, tests=tests)

    return (anew(each) for each in every), int(np.isfinite(adjusted).sum())


def _rate(hit: NDArray[np.bool_], patient: NDArray[np.object_], unit: str) -> Estimate:
    if not len(hit):
        return Estimate.absent("no such image", unit=unit)
    count = len(set(patient.tolist()))
    value, low, high = clustered_rate(hit, patient)
    note = "interval approximate" if effective_clusters(patient.astype(str)) < FEW else None
    return Estimate(value, low, high, method="Wilson, effective images", n=count, unit=unit, note=note)


def _mean(values: Values, patient: NDArray[np.object_], unit: str, seed: int) -> Estimate:
    if not len(values):
        return Estimate.absent("no such image", unit=unit)
    patients = identify(patient)
    measured = {"mean": Measured(mean_over_images(values, patients), patients.count, "no such image")}
    return estimates(measured, patients, seed=seed, unit=unit)["mean"]


FEW = 10
"""Effective patients below which a share's interval is marked."""
