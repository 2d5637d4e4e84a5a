"""A level of an attribute against the rest, covariates held fixed: by sandwich, or permuted where it is small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.statistics.association import FEWEST, Effect, by_t, effective_clusters, linear_gee
from evalfm.statistics.covariates import adjustment_basis
from evalfm.statistics.freedman_lane import permuted_effect
from evalfm.statistics.permutation import PERMUTATIONS, constant_in_patients
from evalfm.statistics.resampling import Mask, Positions, Values

NO_ERROR = 1e-9
"""Standard errors below this share of the range of what is measured are rounding: there is none to speak of."""
FEW_PATIENTS, FEW_EFFECTIVE = 50, 30
"""Below so many patients in the smaller level, or so many effective ones in either, p comes from permutations."""
SPARE = 10
"""Rows (or patients) that must be left beside the columns of the covariates."""


@dataclass(frozen=True)
class LevelSizes:
    """Patients, and effective ones, (Σn)² / Σn² of n rows each, of the smaller level."""

    patients: int
    effective: float

    @classmethod
    def of(cls, member: Mask, patient: ArrayLike) -> LevelSizes:
        """Of rows with and without the attribute ``member`` [N] of patients [N].

        >>> LevelSizes.of(np.array([True, True, True, False]), ["a", "b", "b", "b"])
        LevelSizes(patients=1, effective=1.0)
        """
        codes = np.asarray(patient)
        levels = (codes[member], codes[~member])
        return cls(min(len(np.unique(each)) for each in levels), min(map(effective_clusters, levels)))

    @property
    def few(self) -> bool:
        """Whether p is to come from permutations."""
        return self.patients < FEW_PATIENTS or self.effective < FEW_EFFECTIVE

    @property
    def degrees_of_freedom(self) -> int:
        """Effective patients of the smaller level, less one."""
        return int(self.effective) - 1

    def lacking(self, where: str = "") -> str | None:
        """Why nothing is given, or None.

        >>> LevelSizes(9, 8.0).lacking(" at label 0")
        'needs 10 patients of either level at label 0; the smaller has 9'
        """
        if self.patients < FEWEST:
            return f"needs {FEWEST} patients of either level{where}; the smaller has {self.patients}"
        if self.effective < FEWEST:
            return (
                f"needs {FEWEST} effective patients of either level{where}; a few patients have so many of the images "
                f"that the smaller has {self.effective:.1f}"
            )
        return None


@dataclass(frozen=True)
class AdjustedEffect(Effect):
    """A difference of means at a level, covariates held fixed.

    Attributes:
        method: of p and interval.
        unit: what a row of the regression is, ``"images"`` or ``"patients"`` (means over a patient's images).
        left_out: rows that an unknown covariate takes out.
        effective_patients: of the smaller level, (Σn)² / Σn².
    """

    method: str = ""
    unit: str = "images"
    left_out: int = 0
    effective_patients: float | None = None


def mean_difference(
    values: ArrayLike,
    member: ArrayLike,
    patient: ArrayLike,
    covariates: Mapping[str, ArrayLike] | None = None,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    where: str = "",
) -> AdjustedEffect:
    """Difference of the mean of a measured value (a logit, Dice, an area, an error) with an attribute.

    The coefficient of ``member`` in values ~ member + covariates by least squares: a natural cubic spline for each
    number, columns of two values as they are. Below 10 patients of either level, or 10 effective ones, (Σn)² / Σn² of n
    rows each, nothing is given. Below 50 patients in the smaller level, or 30 effective ones in either, p and interval
    are those of ``permuted_effect``: on patient means where the attribute is the same in all of a patient's rows, else
    by exchanging the residuals of whole patients of as many rows, and within patients. Otherwise by the covariance of
    Mancl and DeRouen (2001) and t with (effective patients − 1) degrees of freedom.

    Args:
        values: [N]; rows that are not finite are left out.
        member: 0 or 1, [N].
        patient: patient id of each row, [N].
        covariates: [N] each; rows with an unknown one are left out, and counted.
        folds: fold of each row, [N]: each has a mean of its own, and patients exchange within it.
        level: coverage of the interval, a fraction.
        permutations: how many.
        seed: of the permutations.
        where: put behind "either level" in the reason for an absent value.

    >>> values = [0.5 + 0.01 * (i % 5) + (0.1 if i % 2 else 0) for i in range(120)]
    >>> found = mean_difference(values, [i % 2 for i in range(120)], range(120))
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.degrees_of_freedom
    (0.1, 0.095, 0.105, 59)
    """
    outcome, inside = np.asarray(values, dtype=np.float64), np.asarray(member).astype(bool)
    columns = [np.asarray(column, dtype=np.float64) for column in (covariates or {}).values()]
    there = np.isfinite(outcome)
    known = there.copy()
    for column in columns:
        known &= np.isfinite(column)
    left_out = int(there.sum() - known.sum())
    codes = np.unique(np.asarray(patient)[known], return_inverse=True)[1]
    outcome, inside, columns = outcome[known], inside[known], [column[known] for column in columns]
    fold = np.zeros(len(codes)) if folds is None else np.unique(np.asarray(folds)[known], return_inverse=True)[1]
    sizes = LevelSizes.of(inside, codes)
    lacking = sizes.lacking(where)
    if lacking is not None:
        lost = f" ({left_out} images have an unknown covariate)" if left_out else ""
        return AdjustedEffect(None, reason=lacking + lost, left_out=left_out, effective_patients=sizes.effective)
    if np.ptp(outcome) == 0:
        reason = f"the value is the same everywhere{where}"
        return AdjustedEffect(None, reason=reason, left_out=left_out, effective_patients=sizes.effective)
    rows = _Rows(outcome, inside.astype(np.float64), columns, codes, fold)
    means = sizes.few and constant_in_patients(inside, codes)
    unit = "patients" if means else "images"
    found, method = _fit(rows.of_patients() if means else rows, sizes, unit, level, permutations, seed)
    facts = (found.value, found.low, found.high, found.detectable, found.p, found.degrees_of_freedom, found.reason)
    return AdjustedEffect(*facts, method, unit, left_out, sizes.effective)


@dataclass(frozen=True)
class _Rows:
    """What is fitted, [N] each; ``patient`` numbers from 0 without gaps."""

    response: Values
    member: Values
    covariates: list[Values]
    patient: Positions
    fold: NDArray[np.generic]

    def of_patients(self) -> _Rows:
        """A row per patient: the means of its rows."""
        counts = np.bincount(self.patient)

        def mean(values: NDArray[np.generic]) -> Values:
            return np.asarray(np.bincount(self.patient, weights=values) / counts, dtype=np.float64)

        columns = [mean(column) for column in self.covariates]
        places = np.arange(len(counts), dtype=np.intp)
        return _Rows(mean(self.response), mean(self.member), columns, places, mean(self.fold))


def _fit(rows: _Rows, sizes: LevelSizes, unit: str, level: float, permutations: int, seed: int) -> tuple[Effect, str]:
    """The effect, and in words how p came about."""
    count = len(rows.response)
    own = [(rows.fold == each).astype(np.float64) for each in np.unique(rows.fold)[1:]]
    basis = adjustment_basis([*rows.covariates, *own], count)
    if count - basis.shape[1] - 1 < SPARE:
        return Effect(None, reason=f"{count} {unit} are too few for the covariates' {basis.shape[1]} columns"), ""
    left = rows.member - basis @ (basis.T @ rows.member)
    if left @ left <= NO_ERROR * float(((rows.member - rows.member.mean()) ** 2).sum()):
        return Effect(None, reason="attribute and covariates say the same"), ""
    if sizes.few:
        found: Effect = permuted_effect(
            rows.response,
            rows.member,
            basis,
            patient=rows.patient,
            alike=rows.fold,
            degrees_of_freedom=sizes.degrees_of_freedom,
            level=level,
            permutations=permutations,
            seed=seed,
        )
        on = "on patient means" if unit == "patients" else "of patients, and within patients"
        return found, f"{permutations} permutations of residuals {on} (Freedman and Lane)"
    fitted = linear_gee(np.concatenate([rows.member[:, None], basis], axis=1), rows.response, rows.patient)
    value, error = float(fitted.coefficients[0]), max(0.0, float(fitted.covariance[0, 0])) ** 0.5
    if error <= NO_ERROR * float(np.ptp(rows.response)):
        return Effect(None, reason="attribute and covariates say all of it: there is no standard error"), ""
    return by_t(value, error, sizes.degrees_of_freedom, level), "clustered by patient, t"
