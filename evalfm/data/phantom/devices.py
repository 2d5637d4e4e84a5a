"""Devices on the image: a chest tube, ECG leads, and the side marker; each only adds attenuation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.data.phantom.anatomy import Anatomy
from evalfm.data.phantom.frame import Field, Ink, draw, spline, stroke, to_image
from evalfm.data.phantom.patients import Pose, Stream, Visit, generator

_EVEN = np.ones(2, dtype=np.float32)
_HOSE = np.array([0.10, 0.42, 0.30, 0.20, 0.17, 0.16, 0.17, 0.20, 0.30, 0.42, 0.10], dtype=np.float32)


@dataclass(frozen=True)
class Device:
    """A device on the image: its attenuation [H, W], 0 elsewhere, and its mask (half of a pixel or more)."""

    attenuation: Field
    mask: NDArray[np.bool_]


def chest_tube(seed: int, index: int, size: int, anatomy: Anatomy, visit: Visit, side: int | None) -> Device:
    """A tube through the lateral chest wall on ``side`` (or by chance), its tip mostly at the apex."""
    rng = generator(seed, Stream.TUBE, index)
    by_chance = -1 if rng.random() < 0.5 else 1
    side = by_chance if side is None else side
    wall = (anatomy.left if side > 0 else anatomy.right).half_width
    entry = rng.uniform(0.42, 0.63) - 0.5 * visit.inspiration
    apical = rng.random() < 0.7
    tip = (rng.uniform(0.10, 0.21), rng.uniform(0.19, 0.32) if apical else rng.uniform(0.50, 0.64))
    bend = rng.uniform(0.12, 0.22)
    middle = (wall - rng.uniform(0.02, 0.10), 0.55 * entry + 0.45 * tip[1] + rng.normal(0, 0.025))
    outside = rng.uniform(0.0, 0.25)
    knots = np.array(
        [
            (wall + bend + 0.05, entry + outside + 0.12),
            (wall + 0.09, entry + 0.35 * outside + 0.03),
            (wall + 0.005, entry),
            middle,
            tip,
        ]
    )
    knots[:, 0] *= side
    path = to_image(spline(knots), visit.pose)
    half = rng.uniform(0.0075, 0.0125) * visit.pose.scale
    strength = rng.uniform(1.0, 1.7)
    shape = draw([(1.0, stroke(path, half, _EVEN, size))], size)
    hose = stroke(path, half, _HOSE, size)
    offset = half * rng.uniform(-0.5, 0.5)
    along = np.gradient(path, axis=0)
    normal = np.stack((-along[:, 1], along[:, 0]), axis=1) / np.hypot(along[:, 0], along[:, 1])[:, None]
    line = stroke((path + normal * offset).astype(np.float32), 0.0016, _EVEN, size)
    return Device(draw([(strength, hose), (0.6 * strength, line)], size), shape > 0.5)


def ecg_leads(seed: int, index: int, size: int, anatomy: Anatomy, visit: Visit) -> Device:
    """Three to five electrodes on the skin with their wires to the image's edge."""
    rng = generator(seed, Stream.LEADS, index)
    places = np.array([(-0.25, 0.25), (0.25, 0.24), (0.27, 0.66), (-0.25, 0.68), (0.06, 0.50)])
    places = (places + rng.normal(0, 0.03, places.shape))[: int(rng.integers(3, 6))]
    away = rng.uniform(-0.35, 0.35)
    below = bool(rng.random() < 0.6)
    strokes = []
    for place in places:
        disc = rng.uniform(0.012, 0.017)
        strokes.append((0.22, _disc(place, disc, visit.pose, size)))
        strokes.append((1.1, _disc(place, 0.0050, visit.pose, size)))
        end = np.array([away + rng.normal(0, 0.06), 1.1 if below else -0.1])
        sag = (place + end) / 2 + rng.normal(0, 0.05, 2)
        first = place + (end - place) * 0.15 + rng.normal(0, 0.02, 2)
        path = to_image(spline(np.array([place, first, sag, end])), visit.pose)
        strokes.append((0.55, stroke(path, 0.0021 * visit.pose.scale, _EVEN, size)))
    total = draw(strokes, size)
    return Device(total, total > 0.1)


def side_marker(rng: np.random.Generator, size: int) -> Field:
    """A lead letter in an upper corner [H, W]: R on the patient's right (the image's left), or L."""
    right = bool(rng.random() < 0.5)
    height = rng.uniform(0.030, 0.045)
    x = rng.uniform(0.03, 0.10) if right else rng.uniform(0.88, 0.95)
    corner = np.array([x, rng.uniform(0.03, 0.12)])
    tilt = rng.normal(0, 0.12)
    if right:
        bow = [(0.0, 0.0), (0.38, 0.02), (0.5, 0.25), (0.38, 0.48), (0.0, 0.5)]
        lines = [[(0.0, 0.0), (0.0, 1.0)], bow, [(0.2, 0.5), (0.52, 1.0)]]
    else:
        lines = [[(0.0, 0.0), (0.0, 1.0)], [(-0.06, 1.0), (0.5, 1.0)]]
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    letter = [np.array(line) * height @ turn + corner for line in lines]
    return np.minimum(draw([(1.0, stroke(line.astype(np.float32), 0.0035, _EVEN, size)) for line in letter], size), 1)


def _disc(place: NDArray[np.float64], radius: float, pose: Pose, size: int) -> Ink:
    """A disc as a closed band from its centre to its rim, which keeps its area when it is small."""
    turn = np.linspace(0, 2 * np.pi, 24)
    circle = place + 0.5 * radius * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    return stroke(to_image(circle, pose), 0.5 * radius * pose.scale, _EVEN, size)
