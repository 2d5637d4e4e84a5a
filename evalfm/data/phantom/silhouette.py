"""Where lungs, heart and pneumothorax lie on the image: distance fields and the masks they give."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from evalfm.data.phantom.anatomy import Anatomy, Lung
from evalfm.data.phantom.disease import Pneumothorax
from evalfm.data.phantom.frame import Field, Frame
from evalfm.data.phantom.patients import Visit

Mask = NDArray[np.bool_]

_FULL = 0.86
"""A pneumothorax takes at most this share of its lung field: the collapsed lung stays."""


@dataclass(frozen=True)
class Chest:
    """Distances inside the chest on one frame, all [H, W], positive inside.

    Attributes:
        away: |x|, distance from the midline.
        outer: half-width of the chest wall at the pixel's height, on its side.
        wall: distance to the rib cage.
        medial: distance to the mediastinum's border.
        dome: height above the diaphragm.
        left_heart, right_heart: 1 at the centre of the ventricles and of the right atrium, 0 at their border.
        apex: distance below the apex of the lung.
    """

    away: Field
    outer: Field
    wall: Field
    medial: Field
    dome: Field
    left_heart: Field
    right_heart: Field
    apex: Field

    def window(self, region: tuple[slice, slice]) -> Chest:
        """The distances on a rectangle of the image."""
        return Chest(**{field.name: getattr(self, field.name)[region] for field in fields(self)})

    @property
    def heart(self) -> Mask:
        """The heart's mask."""
        return np.maximum(self.left_heart, self.right_heart) > 0

    @property
    def lungs(self) -> Mask:
        """Both lung fields: aerated lung that neither heart nor diaphragm covers."""
        inside = np.minimum(np.minimum(self.wall, self.medial), self.dome) > 0
        return inside & ~self.heart


@dataclass(frozen=True)
class FreeAir:
    """A pneumothorax on one frame: its mask, and the distance to the visceral line (positive in free air)."""

    mask: Mask
    depth: Field


def measure_chest(frame: Frame, anatomy: Anatomy, visit: Visit, ratio: float) -> Chest:
    """Lay the chest over ``frame``, its heart scaled to the cardiothoracic ``ratio``."""
    y = frame.rows.values
    right, left = (_walls(lung, anatomy, y, side) for side, lung in ((-1, anatomy.right), (1, anatomy.left)))
    away = np.abs(frame.x)
    outer = frame.by_row(right.outer, left.outer)
    wall = (outer - away) * frame.by_row(right.outer_cosine, left.outer_cosine)
    medial = (away - frame.by_row(right.inner, left.inner)) * frame.by_row(right.inner_cosine, left.inner_cosine)
    across = frame.columns.values
    domes = (
        _dome(anatomy.right, visit, np.where(across < 0, -across, 0)),
        _dome(anatomy.left, visit, np.maximum(across, 0)),
    )
    level = np.where(across < 0, *domes).astype(np.float32)
    slope = np.gradient(level) * np.float32(frame.columns.density)
    tilt = (1 / np.sqrt(1 + slope**2)).astype(np.float32)
    dome = (frame.by_column(level) - frame.y) * frame.by_column(tilt)
    thorax = _width(right.outer, domes[0], frame, -1) + _width(left.outer, domes[1], frame, 1)
    left_heart, right_heart = _heart(frame, anatomy, visit, ratio * thorax)
    apex = frame.y - np.where(frame.left, np.float32(anatomy.left.apex_y), np.float32(anatomy.right.apex_y))
    return Chest(away, outer, wall, medial, dome, left_heart, right_heart, apex)


def open_pneumothorax(chest: Chest, frame: Frame, pneumothorax: Pneumothorax) -> FreeAir:
    """Free air between chest wall and lung: the part of the lung field nearest the wall.

    An apical one is thickest at the apex, a lateral one along the wall; the border undulates. The area is
    the one drawn, to the pixel: the depth at which the visceral line lies is a quantile over the lung field.
    """
    # A soft minimum: at the apex the lung draws back from the rib cage and the mediastinum in one round.
    inner = chest.medial + np.float32(0.9) * np.maximum(chest.apex, 0)
    wall = np.float32(0.5) * (chest.wall + inner - np.hypot(chest.wall - inner, np.float32(0.035)))
    if pneumothorax.place == "apical":
        depth = wall + (0.17 / pneumothorax.reach) * np.maximum(chest.apex, 0)
    else:
        away = (frame.y - np.float32(pneumothorax.centre)) / np.float32(0.30 * pneumothorax.reach)
        depth = wall + np.float32(0.05) * away * away
    amplitude, number, phase = pneumothorax.wave
    wave = np.float32(amplitude) * np.sin(np.float32(number) * frame.rows.values + np.float32(phase))
    depth = depth + frame.by_row(wave.astype(np.float32))
    field = chest.lungs & (frame.left == (pneumothorax.side > 0))
    values = depth[field]
    count = int(np.clip(round(pneumothorax.area * field.size), 1, int(_FULL * values.size)))
    line = np.partition(values, (count - 1, count))[count - 1 : count + 1].mean()
    free = np.asarray(np.float32(line) - depth, dtype=np.float32)
    return FreeAir(field & (free > 0), free)


@dataclass(frozen=True)
class _Walls:
    outer: Field
    outer_cosine: Field
    inner: Field
    inner_cosine: Field


def _walls(lung: Lung, anatomy: Anatomy, y: Field, side: int) -> _Walls:
    """Half-widths of the chest wall and of the mediastinum over y, with the cosines of their slopes."""
    below = y - np.float32(lung.apex_y)
    along = np.clip(below / 0.56, 0, 1)
    rise = (1 - (1 - along) ** 2.3) ** 0.56
    outer = lung.apex_x + (lung.half_width - lung.apex_x) * rise
    outer = outer - lung.taper * np.clip((below - 0.50) / 0.30, 0, 2) ** 2 + np.minimum(below, 0)
    shoulder = np.clip(below / 0.13, 0, 1)
    inner = anatomy.mediastinum + (lung.apex_x - anatomy.mediastinum) * (1 - shoulder) ** 2.2
    if side > 0:
        inner = inner + anatomy.knob * np.exp(-(((y - 0.325) / 0.038) ** 2))
        inner = inner + 0.027 * np.exp(-(((y - 0.450) / 0.075) ** 2))
    else:
        inner = inner - 0.006 + 0.018 * np.clip((y - 0.34) / 0.20, 0, 1)
    inner = inner - np.minimum(below, 0)
    return _Walls(*(each for edge in (outer, inner) for each in _with_cosine(edge, y)))


def _with_cosine(edge: NDArray[np.floating], y: Field) -> tuple[Field, Field]:
    slope = np.gradient(edge) / (y[1] - y[0])
    return edge.astype(np.float32), (1 / np.sqrt(1 + slope**2)).astype(np.float32)


def _dome(lung: Lung, visit: Visit, away: Field) -> Field:
    """Height of the diaphragm over |x|: a dome that falls into the costophrenic angle."""
    offset = (away - lung.dome_x) / (lung.half_width - lung.dome_x)
    outward = np.clip(offset, 0, None)
    fall = lung.dome_curve * (0.045 * outward**2 + 0.050 * outward**6) + 0.034 * np.clip(-offset, 0, 1.4) ** 2
    return np.asarray(lung.dome_y - visit.inspiration + fall, dtype=np.float32)


def _width(outer: Field, dome: Field, frame: Frame, side: int) -> float:
    """Greatest half-width of a lung field above its diaphragm."""
    place = np.clip((side * outer + 0.75) * frame.columns.density, 0, len(dome) - 1).astype(int)
    above = frame.rows.values < dome[place]
    return float(outer[above].max())


def _heart(frame: Frame, anatomy: Anatomy, visit: Visit, width: float) -> tuple[Field, Field]:
    """The ventricles (a tilted ellipse) and the right atrium (an upright one), together ``width`` wide."""
    length = 0.165
    breadth = length * anatomy.heart_aspect
    cosine, sine = np.cos(anatomy.heart_tilt), np.sin(anatomy.heart_tilt)
    half = np.hypot(length * cosine, breadth * sine)
    left_edge, right_edge = 0.058 + half, -0.040 - 0.062
    scale = width / (left_edge - right_edge)
    upright = scale**0.55
    base = (anatomy.left.dome_y + anatomy.right.dome_y) / 2 - visit.inspiration
    centre_y = base - 0.082 * upright + anatomy.heart_y
    turn = np.float32(visit.turn)
    x = (frame.x - turn) / np.float32(scale)
    y = (frame.y - np.float32(centre_y)) / np.float32(upright)
    dx = x - np.float32(0.058)
    along = (np.float32(cosine) * dx + np.float32(sine) * y) / np.float32(length)
    across = (np.float32(cosine) * y - np.float32(sine) * dx) / np.float32(breadth)
    ventricles = 1 - (along * along + across * across)
    dx = (x + np.float32(0.040)) / np.float32(0.062)
    dy = (y - np.float32(0.005)) / np.float32(0.115)
    atrium = 1 - (dx * dx + dy * dy)
    return ventricles.astype(np.float32, copy=False), atrium.astype(np.float32, copy=False)
