"""What every metric checks before it counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from evalfm.errors import EvalfmError
from evalfm.statistics.resampling import Patients, Values, identify


def checked_patients(patient: ArrayLike, folds: ArrayLike | None) -> Patients:
    """Patients and folds, coded.

    Raises:
        EvalfmError: no rows, or a patient in two folds.
    """
    try:
        return identify(patient, folds)
    except ValueError as error:
        raise EvalfmError(f"Metrics cannot be computed: {error}.") from None


def checked_columns(columns: Mapping[str, ArrayLike], rows: int) -> dict[str, Values]:
    """Each column as finite float64 with ``rows`` rows; every fault is told at once.

    Raises:
        EvalfmError: a column has another length or holds a missing or infinite value.
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
        raise EvalfmError(f"Metrics cannot be computed: {'; '.join(faults)}; leave those rows out or mend them.")
    return checked
