"""Random changes of a film for training, which its masks follow through the geometry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from evalfm.cards import CardModel
from evalfm.data.geometry import IDENTITY, Geometry, Matrix

Augment = Callable[[Tensor, Geometry], tuple[Tensor, Geometry]]
"""Changes a resized, not yet normalised tensor [C, h, w] and says so in the geometry."""

_STREAM = 0x4157
"""Sets these draws apart from others that start from the same seed."""

Share = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(CardModel):
    """How far films are changed; every value is drawn evenly from its range, anew for each film and epoch.

    Attributes:
        rotation_degrees: largest turn to either side, on the film (a squashed film is turned, then squashed).
        scale: smallest and largest magnification, the same along both axes.
        translation: largest shift along each axis, as a fraction of the input's side.
        brightness: largest value added or taken away, on a scale where the film goes from 0 to 1.
        contrast: largest relative change of the distance from the film's mean.
        gamma: the exponent is e to the power of at most this, either way.
        noise: standard deviation of Gaussian noise.
        flip: mirror half of the films left to right. Off: a mirrored heart lies on the right, which is a
            disease (dextrocardia), and side markers and findings change their meaning.
    """

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    scale: tuple[float, float] = (0.9, 1.1)
    translation: Share = 0.05
    brightness: Share = 0.1
    contrast: Share = 0.1
    gamma: float = Field(default=0.1, ge=0, le=2)
    noise: Share = 0.0
    flip: bool = False

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 10:
            raise ValueError(f"scale is (smallest, largest), over 0 and at most 10, not ({low:g}, {high:g})")
        return self


OFF = Augmentation(rotation_degrees=0, scale=(1, 1), translation=0, brightness=0, contrast=0, gamma=0)
"""Leaves films as they are."""


def augmenter(
    augmentation: Augmentation, seed: int, epoch: int, row: int, *, is_unit_interval: bool, pad_value: float = 0.0
) -> Augment:
    """The change of one film in one epoch, for ``Encoder.prepare``.

    It is decided by ``seed``, ``epoch`` and ``row`` (the film's place in the table, not in the batch) alone,
    so that it is the same whatever worker or process prepares the film, and after a resume. The film is
    moved once (bilinear) and the move is appended to the geometry; then intensities change, but only where
    there is film, and are cut back to [0, 1]. :data:`OFF` gives back the very objects that come in.

    What a centre crop cut away cannot come back: there the input shows ``pad_value``. A mask should be taken
    to the input as ``geometry.to_input(mask * encoder.geometry_of(H, W).visible())``, which holds what the
    moved input can show; ``geometry.to_input(mask)`` alone has lesions in the black corners too.

    Args:
        augmentation: how far.
        seed, epoch, row: whole numbers of at least 0.
        is_unit_interval: whether the film's unit is ``unit-interval``; HU and raw values are a measurement,
            and are moved only.
        pad_value: what stands outside of the film, as in the encoder's preprocessing.

    Raises:
        ValueError: seed, epoch or row is negative.
    """
    if min(seed, epoch, row) < 0:
        raise ValueError(f"seed, epoch and row are at least 0, not {seed}, {epoch} and {row}")
    return _Change(augmentation, (seed, epoch, row), is_unit_interval, pad_value)


@dataclass(frozen=True)
class _Change:
    """One film's change; data only, so that it can be sent to another process."""

    augmentation: Augmentation
    place: tuple[int, int, int]
    is_unit_interval: bool
    pad_value: float

    def __call__(self, tensor: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
        seed, *rest = self.place
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM, *rest)))
        # All are drawn whether used or not: switching one off leaves the others as they are.
        turn, size, down, across, light, spread, bend = (float(each) for each in generator.uniform(-1, 1, 7))
        mirrored = bool(generator.random() < 0.5) and self.augmentation.flip
        matrix = self._matrix(geometry, turn, size, (down, across), mirrored)
        if matrix != IDENTITY:
            geometry = geometry.then(geometry.output, matrix)
            tensor = _warp(tensor, matrix, self.pad_value)
        if self.is_unit_interval:
            tensor = self._intensities(tensor, geometry, light, spread, bend, generator)
        return tensor, geometry

    def _matrix(
        self, geometry: Geometry, turn: float, size: float, shift: tuple[float, float], mirrored: bool
    ) -> Matrix:
        """The move on the input's continuous (y, x): turned, magnified and mirrored about the centre, then shifted."""
        facts = self.augmentation
        low, high = facts.scale
        factor = (low + high) / 2 + size * (high - low) / 2
        angle = math.radians(facts.rotation_degrees * turn)
        cosine, sine = math.cos(angle), math.sin(angle)
        turned = np.array([[cosine, sine], [-sine, cosine]]) * factor
        if mirrored:
            turned = turned @ np.diag([1.0, -1.0])
        # On the film a turn is a turn, though its axes may be squashed unequally into the input.
        lengths = np.linalg.norm(np.asarray(geometry.matrix)[:, :2], axis=1)
        linear = turned * (lengths[:, None] / lengths[None, :])
        sides = np.array(geometry.output, dtype=np.float64)
        moved = sides / 2 - linear @ (sides / 2) + np.array(shift) * facts.translation * sides
        rows = [[float(value) for value in (*line, add)] for line, add in zip(linear, moved, strict=True)]
        return (rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2])

    def _intensities(
        self,
        tensor: Tensor,
        geometry: Geometry,
        light: float,
        spread: float,
        bend: float,
        generator: np.random.Generator,
    ) -> Tensor:
        facts = self.augmentation
        if not (facts.brightness or facts.contrast or facts.gamma or facts.noise):
            return tensor
        film = _inside(geometry)
        if not bool(film.any()):
            return tensor
        mean = tensor[:, film].mean()
        changed = (tensor - mean) * (1 + spread * facts.contrast) + mean + light * facts.brightness
        changed = changed.clamp(0, 1) ** math.exp(bend * facts.gamma)
        if facts.noise:
            drawn = generator.standard_normal(tuple(tensor.shape), dtype=np.float32)
            changed = (changed + facts.noise * torch.from_numpy(drawn)).clamp(0, 1)
        return torch.where(film, changed, tensor)


def _warp(tensor: Tensor, matrix: Matrix, outside: float) -> Tensor:
    """Move a tensor [C, h, w] by ``matrix``, bilinearly; what comes from beyond its edge is ``outside``."""
    size = (tensor.shape[1], tensor.shape[2])
    y, x = _origin(Geometry(size, size, matrix))
    coordinates = torch.stack([x / size[1] * 2 - 1, y / size[0] * 2 - 1], dim=-1).float()
    moved = functional.grid_sample(
        tensor[None], coordinates[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    return torch.where(_within(y, x, size), moved, torch.full_like(moved, outside))


def _inside(geometry: Geometry) -> Tensor:
    """Which pixels of the input show film: bool [h, w]."""
    return _within(*_origin(geometry), geometry.source)


def _origin(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Where the centre of each pixel of the output comes from: y and x, float64 [h, w]."""
    back = geometry.inverse().matrix
    rows = torch.arange(geometry.output[0], dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(geometry.output[1], dtype=torch.float64)[None, :] + 0.5
    y, x = (line[0] * rows + line[1] * columns + line[2] for line in back)
    return y, x


def _within(y: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    return (y >= 0) & (y <= size[0]) & (x >= 0) & (x <= size[1])
