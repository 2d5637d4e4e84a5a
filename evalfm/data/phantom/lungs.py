"""What fills the lungs: vessels that branch from the hila, and an uneven, faintly reticular parenchyma."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from evalfm.data.phantom.anatomy import Anatomy
from evalfm.data.phantom.frame import Field, Frame, bell, enlarge, fractal_noise, splat, to_image
from evalfm.data.phantom.patients import Patient, Stream, Visit, generator

_RADII = (0.0120, 0.0084, 0.0058, 0.0040, 0.0027)
_LENGTHS = (0.075, 0.062, 0.052, 0.043, 0.034)
_STEMS = 11
_SMALLEST_GRID = 64
_BLURS = ((0,), (1, 2), (3, 4))
"""Generations that are drawn together, wide to narrow, each on a grid twice as fine as the one before."""


def vessel_thickness(frame: Frame, patient: Patient, visit: Visit, seed: int) -> Field:
    """Thickness of the pulmonary vessels [H, W], in image sides, as if both lungs were up."""
    rng = generator(seed, Stream.VESSELS, patient.number)
    layers = _grow(rng, visit, frame.size)
    total = np.zeros((1, 1), dtype=np.float32)
    for position, group in enumerate(_BLURS):
        grid = _grid(position, frame.size)
        points = np.concatenate([layers[level][0] for level in group])
        mass = np.concatenate([layers[level][1] for level in group]) * np.float32(grid**2 * frame.pose.scale**2)
        drawn = splat(to_image(points, frame.pose), mass, grid)
        sigma = 0.55 * float(np.mean([_RADII[level] for level in group])) * grid
        # Sharing a point among four pixels is a blur of some .4 pixels already.
        if sigma > 0.6:
            drawn = gaussian_filter(drawn, sigma, truncate=2.5)
        total = drawn + (enlarge(total, grid) if position else 0)
    return total


def _grid(group: int, size: int) -> int:
    """Pixels along a side of the grid that a group of generations is drawn on."""
    return max(size >> (len(_BLURS) - 1 - group), _SMALLEST_GRID) if size % 4 == 0 else size


def parenchyma(frame: Frame, anatomy: Anatomy, patient: Patient, seed: int) -> Field:
    """Density of aerated lung relative to its mean: slow unevenness and a fine reticular pattern."""
    rng = generator(seed, Stream.TEXTURE, patient.number)
    slow = enlarge(fractal_noise(rng, (3, 6, 12), 0.75, 64), frame.size)
    fine = fractal_noise(rng, (48, 96, 160), 0.9, frame.size)
    return np.maximum(1 + np.float32(anatomy.haze) * slow + np.float32(0.06) * (np.abs(fine) - 1), np.float32(0.35))


def hilum(frame: Frame, visit: Visit) -> Field:
    """Thickness of the hila, in image sides."""
    away = np.abs(frame.x - np.float32(visit.turn))
    level = np.where(frame.left, np.float32(0.415), np.float32(0.44))
    dx, dy = (away - np.float32(0.070)) / np.float32(0.026), (frame.y - level) / np.float32(0.045)
    return np.float32(0.075) * bell(np.hypot(dx, dy))


def _grow(rng: np.random.Generator, visit: Visit, size: int) -> list[tuple[Field, Field]]:
    """Points [N, 2] in the patient's frame and their masses [N], one pair for each generation of branches."""
    stems = 2 * _STEMS
    side = np.repeat((-1.0, 1.0), _STEMS)
    fan = np.tile(np.linspace(-1.30, 1.42, _STEMS), 2) + rng.normal(0, 0.09, stems)
    origin = np.stack((side * rng.normal(0.068, 0.006, stems), np.where(side > 0, 0.415, 0.435)), axis=1)
    origin[:, 1] += 0.025 * np.sin(fan) + rng.normal(0, 0.005, stems)
    shrink = 1 - 0.8 * visit.inspiration
    layers = []
    tips, angle = origin, fan
    for generation, (radius, length) in enumerate(zip(_RADII, _LENGTHS, strict=True)):
        count = len(tips)
        reach = length * rng.uniform(0.75, 1.25, count) * np.where(np.abs(angle) > 0.9, 1.12, 1.0)
        bend = rng.normal(0, 0.22, count)
        wide = radius * rng.uniform(0.75, 1.2, count)
        # About one point a pixel of the grid that the branch is drawn on.
        group = next(place for place, members in enumerate(_BLURS) if generation in members)
        samples = int(np.ceil(1.3 * length * _grid(group, size))) + 1
        t = (np.arange(samples) + 0.5) / samples
        course = angle[:, None] + bend[:, None] * (t - 0.5)[None, :]
        step = reach[:, None] / samples
        x = tips[:, :1] + side[:, None] * np.cumsum(np.cos(course) * step, axis=1)
        y = tips[:, 1:] + np.cumsum(np.sin(course) * step, axis=1) * shrink
        area = np.pi * (wide[:, None] * (1 - 0.25 * t[None, :])) ** 2
        points = np.stack((x, y), axis=-1).reshape(-1, 2).astype(np.float32)
        layers.append((points, (area * step).ravel().astype(np.float32)))
        spread = rng.uniform(0.22, 0.50, count)
        lean = rng.normal(0, 0.10, count)
        tips = np.repeat(np.stack((x[:, -1], y[:, -1]), axis=1), 2, axis=0)
        angle = np.stack((angle + bend / 2 + lean - spread, angle + bend / 2 + lean + spread), axis=1).ravel()
        side = np.repeat(side, 2)
    return layers
