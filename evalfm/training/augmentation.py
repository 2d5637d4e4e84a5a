"""Random changes of images for training, batch by batch on the device; their masks follow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from evalfm.cards import CardModel
from evalfm.data.geometry import IDENTITY, Geometry, Matrix

_STREAM = 0x4157
"""Sets these draws apart from others that start from the same seed."""

Share = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(CardModel):
    """How far images are changed; every value is drawn evenly from its range, anew for each image and epoch.

    Attributes:
        rotation_degrees: largest turn to either side, on the image (a squashed image is turned, then squashed).
        scale: smallest and largest magnification, the same along both axes.
        translation: largest shift along each axis, as a fraction of the input's side.
        brightness: largest value added or taken away, on a scale where the image goes from 0 to 1.
        contrast: largest relative change of the distance from the image's mean.
        gamma: the exponent is e to the power of at most this, either way.
        flip: mirror half of the images left to right. Off: a mirrored heart lies on the right, which is a
            disease (dextrocardia), and side markers and findings change their meaning.
    """

    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    scale: tuple[float, float] = (0.9, 1.1)
    translation: Share = 0.05
    brightness: Share = 0.1
    contrast: Share = 0.1
    gamma: float = Field(default=0.1, ge=0, le=2)
    flip: bool = False

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 10:
            raise ValueError(f"scale is (smallest, largest), over 0 and at most 10, not ({low:g}, {high:g})")
        return self

    @property
    def moves(self) -> bool:
        """Whether images are moved, and their masks with them."""
        return bool(self.rotation_degrees or self.scale != (1, 1) or self.translation or self.flip)

    @property
    def changes_intensities(self) -> bool:
        """Whether grey values are changed."""
        return bool(self.brightness or self.contrast or self.gamma)


OFF = Augmentation(rotation_degrees=0, scale=(1, 1), translation=0, brightness=0, contrast=0, gamma=0)
"""Leaves images as they are."""


@dataclass(frozen=True)
class Augmenter:
    """Draws how images are changed. What happens to an image is decided by seed, epoch and row alone.

    It is the same in whatever batch, process or device the image is changed, and after a resume.

    Attributes:
        augmentation: how far.
        seed: a whole number of at least 0.
        is_unit_interval: whether images are in the unit interval; HU and raw values are a measurement, and are moved
            only.
        pad_value: what stands beside the image, as in the encoder's preprocessing.
    """

    augmentation: Augmentation
    seed: int
    is_unit_interval: bool
    pad_value: float = 0.0

    def draw(
        self, epoch: int, rows: Sequence[int], geometries: Sequence[Geometry], device: torch.device | str = "cpu"
    ) -> BatchChange:
        """How the images of a batch are changed in ``epoch``.

        Args:
            epoch: a whole number of at least 0.
            rows: [B] places of the images in the manifest, at least 0.
            geometries: [B] where they lie in the encoder's input.
            device: where the images will be changed.

        Raises:
            ValueError: seed, epoch or a row is negative.
        """
        if min(self.seed, epoch, *rows) < 0:
            raise ValueError(f"seed, epoch and row are at least 0, not {self.seed}, {epoch} and {min(rows)}")
        draws = [_Draw.of(self.augmentation, self.seed, epoch, row) for row in rows]
        matrices = [draw.matrix(self.augmentation, each) for draw, each in zip(draws, geometries, strict=True)]
        moved = tuple(
            each if matrix == IDENTITY else each.then(each.output, matrix)
            for each, matrix in zip(geometries, matrices, strict=True)
        )
        # Only a padded image does not fill its input.
        padded = not all(map(_fills, geometries))
        values = [
            [
                *_normalised_back(Geometry(each.output, each.output, matrix)),
                *_normalised_back(each),
                *draw.intensities(self.augmentation),
            ]
            for draw, matrix, each in zip(draws, matrices, moved, strict=True)
        ]
        # One small copy for all of them.
        parameters = torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)
        still = [place for place, matrix in enumerate(matrices) if matrix == IDENTITY]
        return BatchChange(self, moved, parameters, padded, tuple(still))


@dataclass(frozen=True, eq=False)
class BatchChange:
    """How the images of one batch are changed, with their masks.

    Attributes:
        geometries: [B] where the moved images lie in the encoder's input.
        parameters: float32 [B, 15]: where the input comes from in the unmoved input and on the image, as rows of affine
            maps on coordinates from -1 to 1; brightness, contrast factor and exponent.
        padded: whether an image does not fill its input.
        still: places in the batch of images that are not moved.
    """

    augmenter: Augmenter
    geometries: tuple[Geometry, ...]
    parameters: Tensor
    padded: bool
    still: tuple[int, ...]
    _moves: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def images(self, values: Tensor) -> Tensor:
        """The images float32 [B, C, h, w] in their unit, changed; ``values`` itself where nothing is.

        Each is moved once (bilinear); beside it stands ``pad_value``. Then intensities change, but only where there is
        image, about the mean of what is seen of it, and are cut back to [0, 1].
        """
        size = (values.shape[2], values.shape[3])
        beyond = None
        if len(self.still) < len(self.geometries):
            grid, beyond = self._move(size)
            moved = _sample(values, grid).masked_fill_(beyond, self.augmenter.pad_value)
            for place in self.still:
                moved[place] = values[place]
            values = moved
        if not (self.augmenter.is_unit_interval and self.augmenter.augmentation.changes_intensities):
            return values
        if self.padded:
            outside = _beyond(*self._origin(6, size))
            beyond = outside if beyond is None else beyond | outside
        return self._intensities(values, beyond)

    def masks(self, fractions: Tensor, grid: tuple[int, int]) -> Tensor:
        """Area fractions of the moved masks on ``grid``: uint8 [B, K, *grid], 255 = full.

        Args:
            fractions: float32 [B, K, h', w'], 0 to 1, on a grid over the unmoved input; what the crop cut away is
                no part of it, since it cannot come back into view.
            grid: height and width of the target's grid over the input.
        """
        sides = zip(self.geometries[0].output, fractions.shape[2:], grid, strict=True)
        steps = tuple(max(1, -(-max(size, cells) // wanted)) for size, cells, wanted in sides)
        fine, beyond = self._move((grid[0] * steps[0], grid[1] * steps[1]))
        moved = _sample(fractions, fine).masked_fill_(beyond, 0)
        area = functional.avg_pool2d(moved, steps) if steps != (1, 1) else moved
        return area.mul_(255).round_().to(torch.uint8)

    def _move(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Where each cell comes from in the unmoved input, (x, y) as [B, h, w, 2], and which from beyond it."""
        if size not in self._moves:
            y, x = self._origin(0, size)
            self._moves[size] = torch.stack([x, y], dim=-1), _beyond(y, x)
        return self._moves[size]

    def _origin(self, first: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Where the centre of each cell of a grid over the input comes from: y and x, from -1 to 1, [B, h, w]."""
        rows, columns = (_centres(count, self.parameters.device) for count in size)
        y, x = (
            torch.addcmul(line[..., 0:1] * rows[:, None] + line[..., 2:3], line[..., 1:2], columns[None, :])
            for line in (self.parameters[:, None, at : at + 3] for at in (first, first + 3))
        )
        return y, x

    def _intensities(self, values: Tensor, beyond: Tensor | None) -> Tensor:
        light, contrast, exponent = (self.parameters[:, at, None, None, None] for at in (12, 13, 14))
        mean = _mean_seen(values, beyond)
        changed = torch.addcmul(mean * (1 - contrast) + light, values, contrast).clamp_(0, 1)
        if self.augmenter.augmentation.gamma:
            changed = changed.log_().mul_(exponent).exp_()
        return changed if beyond is None else torch.where(beyond, values, changed)


@dataclass(frozen=True)
class _Draw:
    """What is drawn for one image, each evenly from -1 to 1."""

    turn: float
    size: float
    shift: tuple[float, float]
    light: float
    spread: float
    bend: float
    mirrored: bool

    @classmethod
    def of(cls, augmentation: Augmentation, seed: int, epoch: int, row: int) -> _Draw:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM, epoch, row)))
        # All are drawn whether used or not: switching one off leaves the others as they are.
        turn, size, down, across, light, spread, bend = (float(each) for each in generator.uniform(-1, 1, 7))
        mirrored = bool(generator.random() < 0.5) and augmentation.flip
        return cls(turn, size, (down, across), light, spread, bend, mirrored)

    def intensities(self, facts: Augmentation) -> tuple[float, float, float]:
        """Brightness, contrast factor and exponent."""
        return self.light * facts.brightness, 1 + self.spread * facts.contrast, math.exp(self.bend * facts.gamma)

    def matrix(self, facts: Augmentation, geometry: Geometry) -> Matrix:
        """The move on the input's continuous (y, x): turned, magnified and mirrored about the centre, then shifted."""
        if not facts.moves:
            return IDENTITY
        low, high = facts.scale
        factor = (low + high) / 2 + self.size * (high - low) / 2
        angle = math.radians(facts.rotation_degrees * self.turn)
        cosine, sine = math.cos(angle), math.sin(angle)
        turned = np.array([[cosine, sine], [-sine, cosine]]) * factor
        if self.mirrored:
            turned = turned @ np.diag([1.0, -1.0])
        # On the image a turn is a turn, though its axes may be squashed unequally into the input.
        lengths = np.linalg.norm(np.asarray(geometry.matrix)[:, :2], axis=1)
        linear = turned * (lengths[:, None] / lengths[None, :])
        sides = np.array(geometry.output, dtype=np.float64)
        moved = sides / 2 - linear @ (sides / 2) + np.array(self.shift) * facts.translation * sides
        rows = [[float(value) for value in (*line, add)] for line, add in zip(linear, moved, strict=True)]
        return (rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2])


def _normalised_back(geometry: Geometry) -> list[float]:
    """Rows (y, x) of the map from the output to the source, both with their sides from -1 to 1."""
    numbers: list[float] = []
    for side, (a, b, c) in zip(geometry.source, geometry.inverse().matrix, strict=True):
        per_y, per_x = a * geometry.output[0] / side, b * geometry.output[1] / side
        numbers += [per_y, per_x, per_y + per_x + 2 * c / side - 1]
    return numbers


def _fills(geometry: Geometry) -> bool:
    """Whether the image covers all of the input, but for rounding."""
    per_y, _, y, _, per_x, x = _normalised_back(geometry)
    return abs(per_y) + abs(y) <= 1 + 1e-6 and abs(per_x) + abs(x) <= 1 + 1e-6


@lru_cache(maxsize=64)
def _centres(count: int, device: torch.device) -> Tensor:
    """Centres of so many cells from -1 to 1."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 / count) - 1
    return centres.float().to(device)


def _sample(values: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _beyond(y: Tensor, x: Tensor) -> Tensor:
    """Which coordinates lie outside of -1 to 1: bool [B, 1, h, w]."""
    return (torch.maximum(y.abs(), x.abs()) > 1)[:, None]


def _mean_seen(values: Tensor, beyond: Tensor | None) -> Tensor:
    """The mean over what is seen of each image, [B, 1, 1, 1]; of all where nothing is seen.

    Summed line by line first, so that it does not depend on how many images a batch has.
    """
    if beyond is None:
        return values.sum(3, keepdim=True).sum((1, 2), keepdim=True) / values[0].numel()
    seen = (~beyond).float()
    total = (values * seen).sum(3, keepdim=True).sum((1, 2), keepdim=True)
    count = seen.sum(3, keepdim=True).sum((1, 2), keepdim=True) * values.shape[1]
    return total / count.clamp_min(1)
