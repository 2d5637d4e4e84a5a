"""Who is on the film: patients, how often they return, and how a visit is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evalfm.data.phantom.dials import Dials
from evalfm.data.phantom.streams import Stream, generator

_PATIENT_OF_TEN = (0, 1, 2, 3, 4, 5, 5, 6, 6, 6)
"""Ten films in a row: five patients with one film, one with two, one with three."""

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
    """How the patient's frame lies on the film: ``rotation`` in radians, shifts in film sides."""

    rotation: float
    scale: float
    shift_x: float
    shift_y: float


@dataclass(frozen=True)
class Visit:
    """How one film was taken.

    Attributes:
        view: "PA" or "AP".
        pose: where the patient stands.
        inspiration: 0 = a full breath; the diaphragm stands that much higher, in film sides.
        turn: rotation about the long axis: shift of the anterior structures, in film sides.
        arms: how far the arms are abducted, 0 (at the side) to 1.
    """

    view: str
    select_cohort: Pose
    inspiration: float
    turn: float
    arms: float


def patient_of(index: int) -> int:
    """The number of the patient on film ``index``."""
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
    """How film ``index`` was taken. An AP film is taken lying: less breath, more turn, arms at the side."""
    rng = generator(seed, Stream.VISIT, index)
    lying = bool(rng.random() < dials.anteroposterior)
    select_cohort = Pose(
        rotation=float(rng.normal(0.0, 0.028 if lying else 0.016)),
        scale=float(np.clip(rng.normal(1.05, 0.045), 0.94, 1.16)),
        shift_x=float(np.clip(rng.normal(0.0, 0.018), -0.04, 0.04)),
        shift_y=float(np.clip(rng.normal(0.005, 0.018), -0.03, 0.04)),
    )
    inspiration = float(np.clip(rng.normal(0.055 if lying else 0.012, 0.018), -0.02, 0.11))
    turn = float(np.clip(rng.normal(0.0, 0.011 if lying else 0.006), -0.025, 0.025))
    arms = float(np.clip(rng.normal(0.25 if lying else 0.75, 0.18), 0.0, 1.0))
    return Visit("AP" if lying else "PA", select_cohort, inspiration, turn, arms)
