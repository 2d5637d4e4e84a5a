"""Who is on the image and what is drawn for them: dials, a random stream per component, patients and their visits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np

from evalfm.errors import EvalfmError


@dataclass(frozen=True)
class Dials:
    """Frequencies of findings and devices; every probability is per image.

    Attributes:
        pneumothorax: prevalence of a pneumothorax (.35: 400 images leave some 28 positive test images).
        cardiomegaly: prevalence of a heart wider than half the thorax.
        tube_given_pneumothorax: P(chest tube | pneumothorax).
        tube_given_none: P(chest tube | no pneumothorax): after surgery, for an effusion, lung re-expanded.
        tube_size_slope: how the tube goes with the size of the pneumothorax: change of the tube's log-odds
            per standard deviation of log area. 0 is independent; P(tube | pneumothorax) stays what it is.
        ecg_leads: prevalence of ECG leads, independent of all disease.
        anteroposterior: share of AP images, independent of disease (so that view alone predicts nothing).

    Raises:
        EvalfmError: a probability lies outside [0, 1] or the slope is not finite.

    >>> Dials(tube_given_pneumothorax=0.9, tube_given_none=0.05).pneumothorax
    0.35
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


_PATIENT_OF_TEN = (0, 1, 2, 3, 4, 5, 5, 6, 6, 6)
"""Ten images in a row: five patients with one image, one with two, one with three."""

SCANNERS = ("A", "B", "C")


@dataclass(frozen=True)
class Patient:
    """What stays the same from visit to visit: ``age`` in years, ``build`` 1 = average body depth."""

    number: int
    sex: str
    age: int
    build: float


@dataclass(frozen=True)
class Pose:
    """How the patient's frame lies on the image: ``rotation`` in radians, shifts in image sides."""

    rotation: float
    scale: float
    shift_x: float
    shift_y: float


@dataclass(frozen=True)
class Visit:
    """How one image was taken.

    Attributes:
        view: "PA" or "AP".
        pose: where the patient stands.
        inspiration: 0 = a full breath; the diaphragm stands that much higher, in image sides.
        turn: rotation about the long axis: shift of the anterior structures, in image sides.
        arms: how far the arms are abducted, 0 (at the side) to 1.
    """

    view: str
    pose: Pose
    inspiration: float
    turn: float
    arms: float


def patient_of(index: int) -> int:
    """The number of the patient on image ``index``."""
    decade, place = divmod(index, len(_PATIENT_OF_TEN))
    return decade * (_PATIENT_OF_TEN[-1] + 1) + _PATIENT_OF_TEN[place]


def draw_patient(seed: int, number: int) -> Patient:
    """The patient ``number`` of the population ``seed``."""
    rng = generator(seed, Stream.PATIENT, number)
    sex = "F" if rng.random() < 0.46 else "M"
    age = int(np.clip(round(rng.normal(54, 17)), 18, 89))
    build = float(np.clip(math.exp(rng.normal(0.0, 0.10)), 0.80, 1.32))
    return Patient(number, sex, age, build)


def draw_visit(seed: int, index: int, dials: Dials) -> Visit:
    """How image ``index`` was taken. An AP image is taken lying: less breath, more turn, arms at the side."""
    rng = generator(seed, Stream.VISIT, index)
    lying = bool(rng.random() < dials.anteroposterior)
    pose = Pose(
        rotation=float(rng.normal(0.0, 0.028 if lying else 0.016)),
        scale=float(np.clip(rng.normal(1.05, 0.045), 0.94, 1.16)),
        shift_x=float(np.clip(rng.normal(0.0, 0.018), -0.04, 0.04)),
        shift_y=float(np.clip(rng.normal(0.005, 0.018), -0.03, 0.04)),
    )
    inspiration = float(np.clip(rng.normal(0.055 if lying else 0.012, 0.018), -0.02, 0.11))
    turn = float(np.clip(rng.normal(0.0, 0.011 if lying else 0.006), -0.025, 0.025))
    arms = float(np.clip(rng.normal(0.25 if lying else 0.75, 0.18), 0.0, 1.0))
    return Visit("AP" if lying else "PA", pose, inspiration, turn, arms)


class Stream(IntEnum):
    """Components with a stream of their own; the numbers are part of the data's identity and never change."""

    PATIENT = 0
    ANATOMY = 1
    VESSELS = 2
    VISIT = 3
    DISEASE_OF_PATIENT = 4
    DISEASE_OF_VISIT = 5
    PNEUMOTHORAX_SHAPE = 6
    HAS_TUBE = 7
    TUBE = 8
    HAS_LEADS = 9
    LEADS = 10
    TEXTURE = 11
    GAS = 12
    LOOK = 13
    NOISE = 14
    TISSUE = 15
    HEART_OF_PATIENT = 16
    MARKER = 17


def generator(seed: int, stream: Stream, key: int) -> np.random.Generator:
    """The generator of ``stream`` for patient or image number ``key``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), key)))
