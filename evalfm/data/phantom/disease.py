"""What a patient has: a pneumothorax with its size and side, the size of the heart, and who gets a tube."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr, ndtri

from evalfm.data.phantom.patients import Dials, Patient, Stream, Visit, generator

MEDIAN_AREA = 0.0084
LOG_AREA_SD = 1.10
"""Log-normal area of a pneumothorax as a fraction of the image: SIIM's p5 .13 %, p25 .40 %, median .84 %,
p75 1.8 % and p95 4.6 % lie within 11 % of it."""

_STAYS = 0.7
"""Chance that an image shows what the patient has; else it is drawn anew, so the prevalence holds."""


@dataclass(frozen=True)
class Pneumothorax:
    """A pneumothorax.

    Attributes:
        side: -1 for the patient's right (the image's left), +1 for the patient's left.
        place: "apical" or "lateral".
        area: as a fraction of the image, as far as the lung field has room.
        deviation: log area in standard deviations from its mean.
        reach: how slowly it thins away from where it is thickest.
        centre: height at which a lateral one is thickest, in image sides.
        share: of the chest's depth that the free air fills.
        wave: amplitude, wave number and phase of the visceral line's undulation.
    """

    side: int
    place: str
    area: float
    deviation: float
    reach: float
    centre: float
    share: float
    wave: tuple[float, float, float]


def draw_pneumothorax(seed: int, index: int, patient: Patient, dials: Dials) -> Pneumothorax | None:
    """The pneumothorax on image ``index``, or None. Returning patients mostly keep it, on the same side."""
    of_patient = generator(seed, Stream.DISEASE_OF_PATIENT, patient.number)
    of_visit = generator(seed, Stream.DISEASE_OF_VISIT, index)
    side = -1 if of_patient.random() < 0.5 else 1
    place = "apical" if of_patient.random() < 0.6 else "lateral"
    fate = (of_patient.random(), of_patient.standard_normal())
    anew = (of_visit.random(), of_visit.standard_normal(), of_visit.random())
    if (fate[0] if anew[2] < _STAYS else anew[0]) >= dials.pneumothorax:
        return None
    deviation = (fate[1] + anew[1]) / math.sqrt(2)
    shape = generator(seed, Stream.PNEUMOTHORAX_SHAPE, index)
    return Pneumothorax(
        side=side,
        place=place,
        area=MEDIAN_AREA * math.exp(LOG_AREA_SD * deviation),
        deviation=deviation,
        reach=float(shape.uniform(0.7, 1.4)),
        centre=float(shape.uniform(0.40, 0.60)),
        share=float(shape.uniform(0.55, 1.0)),
        wave=(
            float(shape.uniform(0.0, 0.0035)),
            float(shape.uniform(12, 34)),
            float(shape.uniform(0, 2 * math.pi)),
        ),
    )


def draw_heart(seed: int, patient: Patient, visit: Visit, dials: Dials) -> float:
    """The cardiothoracic ratio that the heart is drawn to.

    The class (above or below one half) is the patient's, drawn by the dial; a margin of .012 keeps rounding
    to whole pixels from crossing it. An AP image magnifies the heart within its class: the prevalence holds.
    """
    chance, quantile = generator(seed, Stream.HEART_OF_PATIENT, patient.number).random(2)
    magnified = 0.02 if visit.view == "AP" else 0.0
    if chance < dials.cardiomegaly:
        return _truncated(quantile, 0.555 + magnified, 0.040, 0.512, 0.70)
    return _truncated(quantile, 0.440 + magnified, 0.032, 0.34, 0.488)


def has_tube(seed: int, index: int, pneumothorax: Pneumothorax | None, dials: Dials) -> bool:
    """Whether image ``index`` shows a chest tube."""
    chance = generator(seed, Stream.HAS_TUBE, index).random()
    return bool(chance < tube_probability(pneumothorax, dials))


def tube_probability(pneumothorax: Pneumothorax | None, dials: Dials) -> float:
    """P(chest tube) given the pneumothorax and, where the dial says so, its size."""
    if pneumothorax is None:
        return dials.tube_given_none
    if dials.tube_size_slope == 0 or dials.tube_given_pneumothorax in (0.0, 1.0):
        return dials.tube_given_pneumothorax
    offset = _offset(dials.tube_given_pneumothorax, dials.tube_size_slope)
    return float(expit(offset + dials.tube_size_slope * pneumothorax.deviation))


def has_leads(seed: int, index: int, dials: Dials) -> bool:
    """Whether image ``index`` shows ECG leads."""
    return bool(generator(seed, Stream.HAS_LEADS, index).random() < dials.ecg_leads)


def _truncated(quantile: float, mean: float, deviation: float, low: float, high: float) -> float:
    """The ``quantile`` of a normal distribution cut off below ``low`` and above ``high``."""
    below, above = ndtr((low - mean) / deviation), ndtr((high - mean) / deviation)
    return float(mean + deviation * ndtri(below + quantile * (above - below)))


@lru_cache(maxsize=64)
def _offset(probability: float, slope: float) -> float:
    """The log-odds at average size for which the mean over all sizes is ``probability``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def excess(offset: float) -> float:
        return float(np.sum(weights * expit(offset + slope * nodes)) - probability)

    reach = 40 + 12 * abs(slope)
    return float(brentq(excess, -reach, reach))
