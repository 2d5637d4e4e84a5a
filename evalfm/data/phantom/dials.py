"""The dials of the phantom: how often each finding and device is there, and how they hang together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from evalfm.errors import EvalfmError


@dataclass(frozen=True)
class Dials:
    """Frequencies of findings and devices; every probability is per film.

    Attributes:
        pneumothorax: prevalence of a pneumothorax (.35: 400 films leave some 28 positive test films).
        cardiomegaly: prevalence of a heart wider than half the thorax.
        tube_given_pneumothorax: P(chest tube | pneumothorax).
        tube_given_none: P(chest tube | no pneumothorax): after surgery, for an effusion, lung re-expanded.
        tube_size_slope: how the tube goes with the size of the pneumothorax: change of the tube's log-odds
            per standard deviation of log area. 0 is independent; P(tube | pneumothorax) stays what it is.
        ecg_leads: prevalence of ECG leads, independent of all disease.
        anteroposterior: share of AP films, independent of disease (so that view alone predicts nothing).

    Raises:
        EvalfmError: a probability lies outside [0, 1] or the slope is not finite.
    """

    pneumothorax: float = 0.35
    cardiomegaly: float = 0.30
    tube_given_pneumothorax: float = 0.45
    tube_given_none: float = 0.08
    tube_size_slope: float = 0.0
    ecg_leads: float = 0.30
    anteroposterior: float = 0.35

    def __post_init__(self) -> None:
        faults = []
        for name, value in asdict(self).items():
            if name == "tube_size_slope":
                if not math.isfinite(value):
                    faults.append(f"{name} = {value} is not a finite number")
            elif not 0.0 <= value <= 1.0:
                faults.append(f"{name} = {value} is no probability between 0 and 1")
        if faults:
            raise EvalfmError(f"The phantom's dials are not valid: {'; '.join(faults)}; set them within range.")
