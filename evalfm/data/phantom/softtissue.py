"""Thickness of soft tissue along the ray: body, arms, breasts, muscle, and the gas in the stomach."""

from __future__ import annotations

import numpy as np

from evalfm.data.phantom.anatomy import Anatomy
from evalfm.data.phantom.frame import Field, Frame, fractal_noise
from evalfm.data.phantom.patients import Patient, Stream, Visit, generator


def body_thickness(frame: Frame, anatomy: Anatomy, visit: Visit, patient: Patient, seed: int) -> Field:
    """Thickness [H, W] of the body as if it held no air, in image sides. Smooth: meant for a coarse frame."""
    torso = _torso(frame, anatomy)
    arms = _arms(frame, anatomy, visit)
    tissue = np.hypot(torso, arms)
    tissue += _pectoral(frame, patient)
    if anatomy.breast > 0:
        tissue += _breasts(frame, anatomy, visit)
    rng = generator(seed, Stream.TISSUE, patient.number)
    uneven = 1 + np.float32(0.035) * fractal_noise(rng, (5, 11, 23), 0.6, frame.size)
    return np.asarray(tissue * uneven, dtype=np.float32)


def stomach_gas(frame: Frame, anatomy: Anatomy, visit: Visit, rng: np.random.Generator) -> Field:
    """Thickness of gas under the left diaphragm: a stomach bubble, and loops of bowel on some images."""
    gas = np.zeros((frame.size, frame.size), dtype=np.float32)
    level = anatomy.left.dome_y - visit.inspiration
    bubble, loops = rng.random(2)
    place, size, flat = rng.uniform(0.09, 0.19), rng.uniform(0.028, 0.065), rng.uniform(0.5, 0.85)
    if bubble < 0.65:
        gas += _ball(frame, place, level + 0.030 + size * flat, size, size * flat) * np.float32(size * 1.5)
    centres = np.stack((rng.uniform(-0.05, 0.28, 6), rng.uniform(0.05, 0.22, 6), rng.uniform(0.012, 0.03, 6)), 1)
    if loops < 0.35:
        for x, down, radius in centres:
            gas += _ball(frame, x, level + 0.05 + down, radius * 1.4, radius) * np.float32(radius)
    return gas


def _torso(frame: Frame, anatomy: Anatomy) -> Field:
    y = frame.rows.values
    knots = np.array([-0.25, 0.0, 0.045, 0.085, 0.125, 0.17, 0.23, 0.32, 0.45, 0.70, 0.85, 1.25])
    waist = anatomy.torso
    half = np.array([0.090, 0.095, 0.135, 0.250, 0.39, 0.48, waist + 0.05, waist + 0.010, waist, waist - 0.012])
    half = np.concatenate((half, [waist - 0.005, waist + 0.02]))
    front = np.array([0.26, 0.27, 0.28, 0.28, 0.28, 0.31, 0.36, 0.42, 0.47, 0.50, 0.52, 0.52]) / 0.5 * anatomy.depth
    width = frame.by_row(_smooth(np.interp(y, knots, half), frame))
    depth = frame.by_row(_smooth(np.interp(y, knots, front), frame))
    ratio = np.minimum(np.abs(frame.x) / width, 1)
    ratio *= ratio
    return np.asarray(depth * np.sqrt(1 - ratio * np.sqrt(ratio)), dtype=np.float32)


def _smooth(table: np.ndarray, frame: Frame) -> Field:
    """Round the corners of a piecewise-linear table over some .03 image sides."""
    width = max(int(0.03 * frame.rows.density), 1)
    padded = np.pad(table, width, mode="edge")
    total = np.cumsum(padded)
    return np.asarray((total[2 * width :] - total[: -2 * width]) / (2 * width), dtype=np.float32)


def _arms(frame: Frame, anatomy: Anatomy, visit: Visit) -> Field:
    """Upper arms: capsules from the shoulder, abducted by ``visit.arms``."""
    away, y = np.abs(frame.x), frame.y
    end_x = 0.52 + 0.20 * visit.arms
    start = np.array([anatomy.torso + 0.045, 0.20])
    along = np.array([end_x, 0.78]) - start
    reach = float(along @ along)
    t = ((away - start[0]) * along[0] + (y - start[1]) * along[1]) / reach
    np.clip(t, 0, 1, out=t)
    dx, dy = away - start[0] - t * along[0], y - start[1] - t * along[1]
    radius = 0.082 * (0.8 + 0.2 * anatomy.depth / 0.5)
    return np.asarray(1.9 * np.sqrt(np.maximum(radius**2 - dx * dx - dy * dy, 0)), dtype=np.float32)


def _pectoral(frame: Frame, patient: Patient) -> Field:
    depth = 0.035 if patient.sex == "M" else 0.015
    return _ball(frame, 0.22, 0.33, 0.16, 0.15, mirrored=True) * np.float32(depth * patient.build)


def _breasts(frame: Frame, anatomy: Anatomy, visit: Visit) -> Field:
    """Half balloons whose lower border shows; they fall outwards where the patient lies."""
    shift = 0.035 if visit.view == "AP" else 0.0
    radius = anatomy.breast_radius
    balloon = _ball(frame, 0.185 + shift, anatomy.breast_y, radius * 1.05, radius, mirrored=True)
    above = np.clip((frame.y - np.float32(anatomy.breast_y - radius)) / np.float32(radius), 0, 1)
    return np.asarray(balloon * np.sqrt(balloon) * above * np.float32(anatomy.breast * 1.4), dtype=np.float32)


def _ball(frame: Frame, x: float, y: float, half_x: float, half_y: float, *, mirrored: bool = False) -> Field:
    """Thickness of an ellipsoid, 1 at its centre."""
    across = np.abs(frame.x) if mirrored else frame.x
    dx, dy = (across - np.float32(x)) / np.float32(half_x), (frame.y - np.float32(y)) / np.float32(half_y)
    return np.asarray(np.sqrt(np.maximum(1 - dx * dx - dy * dy, 0)), dtype=np.float32)
