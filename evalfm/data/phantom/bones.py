"""Attenuation by bone: ribs as tilted hoops, clavicles, scapulae, humeri and the spine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from evalfm.data.phantom.anatomy import Anatomy
from evalfm.data.phantom.frame import Field, Frame, bands, bell, extent
from evalfm.data.phantom.patients import Visit
from evalfm.data.phantom.silhouette import Chest

_SHELL_ENTRIES = 1024
_WALL = 0.012
"""Ribs lie this far outside the lung, in image sides."""


def bone_attenuation(frame: Frame, chest: Chest, anatomy: Anatomy, visit: Visit) -> Field:
    """What ribs, clavicles and spine add to the line integral [H, W] (no unit)."""
    bones = np.zeros_like(frame.x)
    for band in bands(extent((chest.away < chest.outer + np.float32(_WALL)) & (frame.y > np.float32(0.08)))):
        bones[band] = _ribs(frame.window(band), chest.window(band), anatomy)
    upper = extent((frame.y > np.float32(0.04)) & (frame.y < np.float32(0.27)))
    bones[upper] += _clavicles(frame.window(upper), anatomy, visit)
    middle, columns = frame.strip(0.075)
    bones[:, columns] += _spine(middle, anatomy)
    return np.asarray(np.float32(anatomy.bone) * bones, dtype=np.float32)


def shoulder_attenuation(frame: Frame, anatomy: Anatomy, visit: Visit) -> Field:
    """The same for scapulae and humeri, whose borders are soft: meant for a coarse frame."""
    return np.asarray(np.float32(anatomy.bone) * _scapulae(frame, anatomy, visit), dtype=np.float32)


def trachea(frame: Frame, anatomy: Anatomy) -> Field:
    """Thickness of the air in the trachea and the main bronchi, in image sides."""
    x, y = frame.x - _bow(frame, anatomy) * 0.5, frame.y
    top = np.clip((0.372 - y) / 0.01, 0, 1)
    tube = np.sqrt(np.maximum(1 - (x / np.float32(0.020)) ** 2, 0)) * top
    below = y - np.float32(0.365)
    right = _rod(x + np.float32(0.62) * below, 0.014) * _between(below, 0.0, 0.075)
    left = _rod(x - np.float32(1.05) * below, 0.016) * _between(below, 0.0, 0.070)
    return np.asarray(0.055 * tube + 0.026 * (right + left), dtype=np.float32)


def _ribs(frame: Frame, chest: Chest, anatomy: Anatomy) -> Field:
    """Posterior and anterior ribs.

    A rib is a hoop tilted forwards: x = a cos t, y = y_k + h sin t. On the image the posterior half is the
    curve y_k - fall * sqrt(1 - (x/a)^2), the anterior one y_k + rise * sqrt(...); both meet the wall at y_k,
    where the ray runs along the bone: it is brightest there. A table turns heights at the wall into numbers.
    """
    hoop = chest.outer + np.float32(_WALL)
    ratio = np.minimum(chest.away / np.maximum(hoop, np.float32(0.02)), 1)
    root = np.sqrt(1 - ratio * ratio)
    steep = ratio / np.maximum(root, np.float32(0.06)) / np.maximum(hoop, np.float32(0.05))
    inside = chest.away < hoop
    height, pitch = _rib_table(frame, anatomy)
    fall, rise = np.float32(anatomy.rib_fall), np.float32(anatomy.rib_rise)
    tangent = np.minimum(1 / np.maximum(root, np.float32(0.4)), 2.2)
    posterior = _rib_family(frame, frame.y + fall * root, fall * steep, height, pitch, anatomy.rib_width)
    posterior *= np.clip((chest.away - np.float32(0.022)) / np.float32(0.012), 0, 1)
    front = _rib_family(frame, frame.y - rise * root, rise * steep, height, pitch, anatomy.rib_width * 0.95)
    cartilage = np.float32(0.10) + np.float32(0.10) * np.clip(frame.y - np.float32(0.35), 0, 1)
    front *= np.clip((chest.away - cartilage) / np.float32(0.05), 0, 1)
    front *= np.clip((np.float32(0.72) - frame.y) / np.float32(0.06), 0, 1)
    return np.asarray((0.30 * posterior + 0.20 * front) * tangent * inside, dtype=np.float32)


def _rib_table(frame: Frame, anatomy: Anatomy) -> tuple[Field, Field]:
    """Over y: the (fractional) number of the rib that meets the wall there, and the distance between ribs."""
    at = anatomy.rib_top + np.concatenate(([0.0], np.cumsum(anatomy.rib_pitch)))
    number = np.arange(len(at), dtype=float)
    y = frame.rows.values
    table = np.interp(y, at, number, left=-1.0, right=-1.0)
    pitch = np.interp(y, at[:-1], anatomy.rib_pitch)
    return table.astype(np.float32), pitch.astype(np.float32)


def _rib_family(frame: Frame, wall: Field, slope: Field, height: Field, pitch: Field, half: float) -> Field:
    """Bands around whole rib numbers: a thin bright cortex around a fainter core."""
    place = ((wall - np.float32(frame.rows.start)) * np.float32(frame.rows.density)).astype(np.int32)
    np.clip(place, 0, len(height) - 1, out=place)
    number = height[place]
    off = (number - np.rint(number)) * pitch[place] / np.sqrt(1 + slope * slope)
    band = _shell(off / np.float32(half))
    band[number < -0.45] = 0
    return band


def _shell(off: Field) -> Field:
    """Thickness of a hollow bone over the distance from its axis (1 = its surface)."""
    place = np.minimum(np.abs(off) * np.float32(_SHELL_ENTRIES), np.float32(_SHELL_ENTRIES)).astype(np.int32)
    return _shell_table()[place]


@lru_cache(maxsize=1)
def _shell_table() -> Field:
    square = ((np.arange(_SHELL_ENTRIES + 1) + 0.5) / _SHELL_ENTRIES) ** 2
    core = np.sqrt(np.maximum(0.72 - square, 0))
    return (np.sqrt(np.maximum(1 - square, 0)) - 0.62 * core).astype(np.float32)


def _clavicles(frame: Frame, anatomy: Anatomy, visit: Visit) -> Field:
    """S-shaped bars from the breastbone to the shoulder; flatter and higher on an AP image."""
    medial, bow, lateral = anatomy.clavicle
    if visit.view == "AP":
        medial, bow, lateral = medial - 0.030, bow - 0.045, lateral - 0.020
    across = frame.columns.values - visit.turn * 1.5
    away = np.abs(across)
    knots = np.array([0.0, 0.03, 0.10, 0.19, 0.28, 0.37, 0.75])
    heights = np.array([medial, medial, medial - 0.012, bow, (bow + lateral) / 2 - 0.008, lateral, lateral - 0.02])
    level = _rounded(np.interp(away, knots, heights), frame)
    half = np.interp(away, [0.02, 0.06, 0.2, 0.34, 0.38], [0.0165, 0.0145, 0.0105, 0.0135, 0.014])
    cosine = 1 / np.sqrt(1 + (np.gradient(level) * frame.columns.density) ** 2)
    present = np.clip((away - 0.028) / 0.006, 0, 1) * np.clip((0.385 - away) / 0.01, 0, 1)
    off = (frame.y - frame.by_column(level)) * frame.by_column(np.asarray(cosine / half, dtype=np.float32))
    return np.asarray(0.60 * _shell(off) * frame.by_column(present.astype(np.float32)), dtype=np.float32)


def _rounded(table: np.ndarray, frame: Frame) -> Field:
    width = max(int(0.035 * frame.columns.density), 1)
    total = np.cumsum(np.pad(table, width, mode="edge"))
    return np.asarray((total[2 * width :] - total[: -2 * width]) / (2 * width), dtype=np.float32)


def _scapulae(frame: Frame, anatomy: Anatomy, visit: Visit) -> Field:
    """The blade (a rounded triangle), its spine, and the head of the humerus with its shaft."""
    shift = 0.0 if visit.view == "PA" else -0.045
    x, y = np.abs(frame.x) - np.float32(anatomy.scapula + shift), frame.y
    medial = x - np.float32(0.10) * (y - np.float32(0.28))
    lower = np.float32(0.50) - y - np.float32(1.75) * x
    upper = y - np.float32(0.175) + np.float32(0.10) * x
    lateral = np.float32(0.125) - x
    inside = np.minimum(np.minimum(medial, lower * np.float32(0.5)), np.minimum(upper, lateral))
    blade = np.clip(inside / np.float32(0.012), 0, 1) * np.float32(0.09)
    blade += np.float32(0.13) * bell((inside - np.float32(0.010)) / np.float32(0.007))
    ridge = (y - np.float32(0.215) + np.float32(0.36) * x) / np.float32(0.0085)
    blade += np.float32(0.15) * np.maximum(1 - ridge * ridge, 0) * _between(x, 0.01, 0.13)
    head_x, head_y = x - np.float32(0.128 - 0.5 * shift), y - np.float32(0.185)
    head = (head_x * head_x + head_y * head_y) / np.float32(0.047**2)
    humerus = np.float32(0.42) * np.sqrt(np.maximum(1 - head, 0)) + np.float32(0.12) * (
        np.abs(head - np.float32(0.93)) < 0.07
    )
    slant = np.float32((0.08 + 0.17 * visit.arms) / 0.565)
    shaft = np.asarray((head_x - np.float32(0.012) - slant * head_y) / np.float32(0.026), dtype=np.float32)
    humerus = np.maximum(humerus, np.float32(0.5) * _shell(shaft) * (head_y > 0))
    return np.asarray(blade + humerus, dtype=np.float32)


def _spine(frame: Frame, anatomy: Anatomy) -> Field:
    """Vertebral bodies between discs, with end plates, pedicles and spinous processes."""
    x, y = frame.x - _bow(frame, anatomy), frame.y
    half = np.float32(0.034) + np.float32(0.014) * y
    square = (x / half) ** 2
    phase = y / np.float32(anatomy.vertebra) + np.float32(anatomy.vertebra_phase)
    offset = phase - np.floor(phase) - np.float32(0.5)
    waist = square * (1 + np.float32(0.5) * np.cos(np.float32(2 * np.pi) * offset))
    side = np.sqrt(np.maximum(1 - waist, 0)) * np.float32(0.55) + np.float32(0.25) * bell(
        (np.sqrt(waist) - np.float32(0.9)) / np.float32(0.12)
    )
    solid = np.clip((np.float32(0.44) - np.abs(offset)) / np.float32(0.06), np.float32(0.35), 1)
    plate = np.float32(0.22) * bell((np.abs(offset) - np.float32(0.40)) / np.float32(0.05)) * (waist < 1)
    pedicle = ((np.abs(x) / half - np.float32(0.58)) / np.float32(0.17)) ** 2
    pedicle += ((offset + np.float32(0.10)) / np.float32(0.2)) ** 2
    process = (x / np.float32(0.008)) ** 2 + ((offset - np.float32(0.2)) / np.float32(0.26)) ** 2
    detail = np.float32(0.28) * (np.abs(pedicle - np.float32(0.85)) < 0.25) + np.float32(0.30) * (process < 1)
    return np.asarray(0.62 * (side * solid + plate + detail), dtype=np.float32)


def _bow(frame: Frame, anatomy: Anatomy) -> Field:
    y = frame.rows.values
    return frame.by_row((anatomy.scoliosis * np.exp(-(((y - anatomy.scoliosis_y) / 0.2) ** 2))).astype(np.float32))


def _rod(off: Field, half: float) -> Field:
    off = off / np.float32(half)
    return np.asarray(np.sqrt(np.maximum(1 - off * off, 0)), dtype=np.float32)


def _between(values: Field, low: float, high: float) -> Field:
    soft = np.float32(0.012)
    rise, fall = (values - np.float32(low)) / soft, (np.float32(high) - values) / soft
    return np.asarray(np.clip(rise, 0, 1) * np.clip(fall, 0, 1), dtype=np.float32)
