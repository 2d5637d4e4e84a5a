"""What every metric is given: checked columns, and how patients are resampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import RESAMPLES, Measured, estimates
from evalfm.statistics.resampling import Patients, Values, identify


@dataclass(frozen=True)
class Sampling:
    """How the intervals of metrics are made.

    Attributes:
        folds: fold of each row, [N], for out-of-fold scores: every metric is computed per fold and averaged. Or None.
        unit: ``"patients"``, or ``"images"`` where patients are unknown and each image is its own.
        seed: of the resamples.
        resamples: how many.
    """

    folds: ArrayLike | None = None
    unit: str = "patients"
    seed: int = 0
    resamples: int = RESAMPLES

    def patients(self, patient: ArrayLike) -> Patients:
        """Patients (ids of each row, [N]) and folds, coded.

        Raises:
            EvalfmError: no rows, or a patient in two folds.
        """
        try:
            return identify(patient, self.folds)
        except ValueError as error:
            raise EvalfmError(f"Metrics cannot be computed: {error}.") from None

    def estimates(self, measured: Mapping[str, Measured | Estimate], patients: Patients) -> dict[str, Estimate]:
        """Each statistic with its 95 % interval, all on the same resamples."""
        return estimates(measured, patients, seed=self.seed, unit=self.unit, resamples=self.resamples)


BY_PATIENT = Sampling()
"""Patients are the unit; no folds."""


def checked_columns(columns: Mapping[str, ArrayLike], rows: int) -> dict[str, Values]:
    """Each column as finite float64 with ``rows`` rows; every fault is named at once.

    Raises:
        EvalfmError: a column has another length or holds a missing or infinite value.

    >>> checked_columns({"score": [0.1, 0.9]}, rows=2)["score"].tolist()
    [0.1, 0.9]
    """
    checked = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    faults = [
        f"{name} has {len(values)} rows and there are {rows} patient entries"
        if len(values) != rows
        else f"{name} holds {int((~np.isfinite(values)).sum())} missing or infinite values"
        for name, values in checked.items()
        if len(values) != rows or not np.isfinite(values).all()
    ]
    if faults:
        raise EvalfmError(f"Metrics cannot be computed: {'; '.join(faults)}; leave those rows out or fix them.")
    return checked
