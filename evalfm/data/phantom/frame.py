"""The patient's frame on the pixel grid, and the drawing of strokes into it.

Lengths are in image sides (one side is some 43 cm). The patient's frame has x = 0 at the spine, growing to the
image's right (the patient's left), and y = 0 at the top of the image, growing downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evalfm.data.phantom.patients import Pose

Field = NDArray[np.float32]
Index = NDArray[np.int32]

_REACH = 1.5
"""Tables cover y in [-.25, 1.25] and x in [-.75, .75]: more than any pose shows."""
_ENTRIES_PER_PIXEL = 8
_BAND_PIXELS = 16384


@dataclass(frozen=True)
class Axis:
    """One coordinate sampled finely, on which functions of x or y alone are tabled."""

    values: Field
    start: float

    @property
    def density(self) -> float:
        """Entries per image side."""
        return len(self.values) / _REACH


@dataclass(frozen=True)
class Frame:
    """Every pixel's place in the patient's frame.

    Attributes:
        size: pixels along a side.
        pose: how the patient lies on the image.
        x, y: [H, W] patient coordinates.
        left: [H, W] True on the patient's left (the image's right).
        row: [H, W] index into tables over ``rows``; column: the same over ``columns``.
        rows, columns: the axes that tables are made on.
    """

    size: int
    pose: Pose
    x: Field
    y: Field
    left: NDArray[np.bool_]
    row: Index
    column: Index
    rows: Axis
    columns: Axis

    def by_row(self, right: Field, left: Field | None = None) -> Field:
        """Look up a function of y, tabled for the patient's right and left half (or for both)."""
        both = np.concatenate((right, right if left is None else left))
        return both[self.row]

    def strip(self, half: float) -> tuple[Frame, slice]:
        """The columns of the image that show |x| below ``half``, as a narrower frame and where it lies."""
        _, region = extent(np.abs(self.x) < half)
        return self.window((slice(None), region)), region

    def window(self, region: tuple[slice, slice]) -> Frame:
        """The frame of a rectangle of the image."""
        fields_there = {name: getattr(self, name)[region] for name in ("x", "y", "left", "row", "column")}
        return replace(self, **fields_there)

    def by_column(self, table: Field) -> Field:
        """Look up a function of signed x."""
        return table[self.column]


def extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The smallest rectangle (rows, columns) that holds all of ``mask`` [H, W], which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def bands(region: tuple[slice, slice]) -> Iterator[tuple[slice, slice]]:
    """Cut a rectangle into bands of rows of some 64 KiB a field.

    Temporaries of that size stay in the cache and in the allocator's hands; whole fields would be returned
    to the system and faulted in again at every operation, which doubles the time.
    """
    rows, columns = region
    height = max(_BAND_PIXELS // (columns.stop - columns.start), 8)
    for start in range(rows.start, rows.stop, height):
        yield slice(start, min(start + height, rows.stop)), columns


def make_frame(size: int, pose: Pose) -> Frame:
    """Lay the patient's frame over ``size`` x ``size`` pixels."""
    across, down = _pixel_centres(size)
    rows, columns = _axes(size)
    cosine = np.float32(np.cos(pose.rotation) / pose.scale)
    sine = np.float32(np.sin(pose.rotation) / pose.scale)
    u = across - np.float32(pose.shift_x)
    v = down - np.float32(0.5 + pose.shift_y)
    x = cosine * u + sine * v
    y = cosine * v - sine * u + np.float32(0.5)
    left = x >= 0
    entries = len(rows.values)
    row = ((y - np.float32(rows.start)) * np.float32(rows.density)).astype(np.int32)
    np.clip(row, 0, entries - 1, out=row)
    row += left * np.int32(entries)
    column = ((x - np.float32(columns.start)) * np.float32(columns.density)).astype(np.int32)
    np.clip(column, 0, entries - 1, out=column)
    return Frame(size, pose, x, y, left, row, column, rows, columns)


def to_image(points: NDArray[np.floating], pose: Pose) -> Field:
    """Patient coordinates [..., 2] (x, y) to image coordinates in [0, 1] from the upper left corner."""
    cosine, sine = (
        math.cos(pose.rotation) * pose.scale,
        math.sin(pose.rotation) * pose.scale,
    )
    x, y = points[..., 0], points[..., 1] - 0.5
    points_on_image = np.empty(points.shape, dtype=np.float32)
    points_on_image[..., 0] = cosine * x - sine * y + (0.5 + pose.shift_x)
    points_on_image[..., 1] = sine * x + cosine * y + (0.5 + pose.shift_y)
    return points_on_image


def bell(ratio: Field) -> Field:
    """exp(-ratio^2), cut off before it turns subnormal, on which arithmetic is a hundred times slower."""
    return np.asarray(np.exp(-np.minimum(ratio * ratio, np.float32(40))), dtype=np.float32)


def splat(places: Field, mass: Field, size: int) -> Field:
    """Sum point masses at image coordinates [N, 2] into [size, size], each shared by four neighbours."""
    # Points off the image gather in a margin, one pixel before and two behind, that is cut off at the end.
    width = size + 3
    place = np.clip(places * np.float32(size) + np.float32(0.5), 0, size + 1.5)
    corner = place.astype(np.int32)
    fraction = place - corner
    start = corner[:, 1] * width + corner[:, 0]
    fx, lower = fraction[:, 0], mass * fraction[:, 1]
    upper = mass - lower
    upper_right, lower_right = upper * fx, lower * fx
    weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    index = (start, start + 1, start + width, start + width + 1)
    total = np.bincount(np.concatenate(index), np.concatenate(weights), minlength=width * width)
    return total.reshape(width, width)[1 : size + 1, 1 : size + 1].astype(np.float32)


@dataclass(frozen=True)
class Ink:
    """Point masses [N] at image coordinates [N, 2], to be drawn together."""

    points: Field
    mass: Field


def stroke(path: Field, half_width: float, profile: Field, size: int) -> Ink:
    """A band along ``path`` [N, 2] (image coordinates); ``profile`` [M] is the thickness from edge to edge."""
    step = 0.45 / size
    path = resample(path, step)
    along = np.gradient(path, axis=0)
    spacing = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    normal = np.stack((-along[:, 1], along[:, 0]), axis=1) / spacing[:, None]
    across = max(int(np.ceil(2 * half_width / step)), 3)
    offset = (np.arange(across) + 0.5) / across * 2 - 1
    thickness = np.interp((offset + 1) / 2 * (len(profile) - 1), np.arange(len(profile)), profile)
    points = path[:, None, :] + normal[:, None, :] * (offset * half_width)[None, :, None]
    area = spacing * (2 * half_width / across) * size**2
    mass = area[:, None] * thickness[None, :]
    return Ink(points.reshape(-1, 2).astype(np.float32), mass.ravel().astype(np.float32))


def draw(strokes: Iterable[tuple[float, Ink]], size: int) -> Field:
    """Thickness [size, size] of all ``strokes``, each times its factor, averaged over each pixel.

    Averaging keeps the mass of a band that is thinner than a pixel.
    """
    pairs = list(strokes)
    mass = np.concatenate([ink.mass * np.float32(factor) for factor, ink in pairs])
    return splat(np.concatenate([ink.points for _, ink in pairs]), mass, size)


def resample(path: Field, step: float) -> Field:
    """Points along the polyline ``path`` [N, 2], about ``step`` apart."""
    length = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))))
    count = max(int(np.ceil(length[-1] / step)), 2)
    at = np.linspace(0.0, length[-1], count)
    return np.stack((np.interp(at, length, path[:, 0]), np.interp(at, length, path[:, 1])), axis=1).astype(np.float32)


def spline(knots: NDArray[np.float64], points: int = 48) -> Field:
    """A smooth curve [points, 2] through ``knots`` [K, 2] (centripetal Catmull-Rom with mirrored ends)."""
    padded = np.concatenate((2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]))
    place = np.linspace(0, len(knots) - 1, points)
    start = np.minimum(place.astype(int), len(knots) - 2)
    t = (place - start)[:, None]
    a, b, c, d = (padded[start + shift] for shift in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.asarray(curve, dtype=np.float32)


def enlarge(field: Field, size: int) -> Field:
    """Resample [h, w] to [size, size] bilinearly, pixel centres aligned, averaging where it shrinks."""
    if field.shape == (size, size):
        return field
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BILINEAR))


def fractal_noise(rng: np.random.Generator, cells: tuple[int, ...], falloff: float, size: int) -> Field:
    """Noise of amplitude about 1 whose octaves lie on fixed grids: every ``size`` shows the same field."""
    total = np.zeros((1, 1), dtype=np.float32)
    amplitude = 1.0
    for count in cells:
        grid = rng.standard_normal((count, count), dtype=np.float32) * np.float32(amplitude)
        total = _cubic(total, count) + grid
        amplitude *= falloff
    return _cubic(total, size)


def _cubic(field: Field, size: int) -> Field:
    if field.shape == (1, 1):
        return np.broadcast_to(field, (size, size))
    return np.asarray(Image.fromarray(field).resize((size, size), Image.Resampling.BICUBIC))


@lru_cache(maxsize=8)
def _pixel_centres(size: int) -> tuple[Field, Field]:
    centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return (centre - np.float32(0.5))[None, :], centre[:, None]


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[Axis, Axis]:
    entries = int(size * _REACH * _ENTRIES_PER_PIXEL)
    middle = ((np.arange(entries) + 0.5) / entries * _REACH).astype(np.float32)
    return Axis(middle - np.float32(0.25), -0.25), Axis(middle - np.float32(0.75), -0.75)
