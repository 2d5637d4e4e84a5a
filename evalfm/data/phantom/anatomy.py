"""The measures of one patient's chest, in image sides; the same at every visit and every image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.data.phantom.patients import Patient, Stream, generator


@dataclass(frozen=True)
class Lung:
    """One lung field: its apex, greatest half-width, and the dome of the diaphragm beneath it."""

    apex_x: float
    apex_y: float
    half_width: float
    taper: float
    dome_y: float
    dome_x: float
    dome_curve: float


@dataclass(frozen=True)
class Anatomy:
    """One patient's chest.

    Attributes:
        right, left: the lungs.
        depth: front-to-back depth of the chest.
        lung_density: share of tissue in the aerated lung (water = 1).
        haze: how uneven that density is.
        mediastinum: half-width of the upper mediastinum.
        knob: how far the aortic knob bulges to the left.
        heart_tilt: of the heart's long axis, radians.
        heart_y: height of its centre, from its usual place.
        heart_aspect: its width over its length.
        scoliosis: sideways bow of the spine, and where along the spine it peaks.
        vertebra: height of a vertebra with its disc; vertebra_phase: where the first begins.
        rib_pitch: [16] distance from each rib to the next, top to bottom.
        rib_top: height of the first rib at the wall.
        rib_fall: how far a posterior rib falls from the spine to the wall.
        rib_rise: how far an anterior rib falls from the wall inwards.
        rib_width: half-width of a rib.
        bone: mineral density, 1 = a young adult's.
        clavicle: [3] heights of the medial end, the bow and the lateral end.
        scapula: sideways place of the scapula's medial border.
        breast: depth of the breast shadow (0 for none); breast_y, breast_radius: where, how large.
        torso: half-width of the body below the arms.
    """

    right: Lung
    left: Lung
    depth: float
    lung_density: float
    haze: float
    mediastinum: float
    knob: float
    heart_tilt: float
    heart_y: float
    heart_aspect: float
    scoliosis: float
    scoliosis_y: float
    vertebra: float
    vertebra_phase: float
    rib_pitch: NDArray[np.float64]
    rib_top: float
    rib_fall: float
    rib_rise: float
    rib_width: float
    bone: float
    clavicle: tuple[float, float, float]
    scapula: float
    breast: float
    breast_y: float
    breast_radius: float
    torso: float


def draw_anatomy(seed: int, patient: Patient) -> Anatomy:
    """The chest of ``patient``: smaller in women, denser bone in the young, a wider aorta in the old."""
    rng = generator(seed, Stream.ANATOMY, patient.number)
    female = patient.sex == "F"
    old = (patient.age - 54) / 17
    width = float(np.clip(rng.normal(0.318 if female else 0.332, 0.014), 0.28, 0.365))
    apex_y = float(rng.normal(0.135, 0.014))
    dome = float(rng.normal(0.735 if female else 0.755, 0.022))
    torso = width + float(np.clip(rng.normal(0.082, 0.014), 0.05, 0.13)) + 0.10 * max(patient.build - 1, 0)

    def lung(dome_y: float) -> Lung:
        return Lung(
            apex_x=float(rng.normal(0.132, 0.007)),
            apex_y=apex_y + float(rng.normal(0, 0.005)),
            half_width=width * float(rng.normal(1.0, 0.012)),
            taper=float(np.clip(rng.normal(0.03, 0.02), 0.0, 0.08)),
            dome_y=dome_y,
            dome_x=float(rng.normal(0.155, 0.015)),
            dome_curve=float(np.clip(rng.normal(1.0, 0.15), 0.6, 1.5)),
        )

    return Anatomy(
        right=lung(dome),
        left=lung(dome + float(np.clip(rng.normal(0.022, 0.012), -0.01, 0.05))),
        depth=float(np.clip((0.47 if female else 0.50) * patient.build * rng.normal(1, 0.05), 0.36, 0.68)),
        lung_density=float(np.clip(rng.normal(0.27, 0.045), 0.17, 0.42)),
        haze=float(np.clip(rng.lognormal(np.log(0.16), 0.5), 0.05, 0.45)),
        mediastinum=float(np.clip(rng.normal(0.053, 0.006), 0.040, 0.072)),
        knob=float(np.clip(rng.normal(0.020 + 0.006 * old, 0.006), 0.004, 0.045)),
        heart_tilt=float(rng.normal(0.62, 0.09)),
        heart_y=float(rng.normal(0.0, 0.012)),
        heart_aspect=float(np.clip(rng.normal(0.74, 0.05), 0.62, 0.88)),
        scoliosis=float(rng.normal(0.0, 0.006 + 0.003 * max(old, 0))),
        scoliosis_y=float(rng.uniform(0.35, 0.7)),
        vertebra=float(rng.normal(0.052, 0.002)),
        vertebra_phase=float(rng.uniform(0, 1)),
        rib_pitch=np.linspace(0.050, 0.072, 16) * rng.normal(1, 0.05, 16),
        rib_top=float(rng.normal(0.185, 0.010)),
        rib_fall=float(rng.normal(0.125, 0.014)),
        rib_rise=float(rng.normal(0.155, 0.018)),
        rib_width=float(rng.normal(0.0125 if female else 0.0138, 0.0009)),
        bone=float(np.clip(rng.normal(1.0 - 0.11 * old - (0.06 if female else 0), 0.10), 0.55, 1.35)),
        clavicle=(
            float(rng.normal(0.205, 0.010)),
            float(rng.normal(0.178, 0.008)),
            float(rng.normal(0.150, 0.012)),
        ),
        scapula=width + float(rng.normal(0.0, 0.012)),
        breast=float(np.clip(rng.normal(0.075, 0.030), 0.015, 0.16)) if female else 0.0,
        breast_y=float(rng.normal(0.615, 0.03)),
        breast_radius=float(np.clip(rng.normal(0.135, 0.018), 0.09, 0.19)),
        torso=torso,
    )
