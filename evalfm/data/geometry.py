"""Where each pixel of the model's input lies on the stored image, and the way back; torch is imported for maps only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Rows of a 2×3 affine map on continuous (y, x): pixel (i, j) has its centre at (i + .5, j + .5)."""

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Geometry:
    """An affine map from the stored image [H, W] to the model's input [h, w].

    ``matrix`` maps continuous image coordinates (y, x), in pixels, to continuous input coordinates.
    Feature maps of any grid cover the whole input, so their inverse goes through the input's frame.

    >>> Geometry.identity((100, 200)).resize((50, 100)).crop(0, 25, (50, 50)).inverse().output
    (100, 200)
    """

    source: tuple[int, int]
    output: tuple[int, int]
    matrix: Matrix = IDENTITY

    @classmethod
    def identity(cls, size: tuple[int, int]) -> Geometry:
        """The map of an image [H, W] onto itself."""
        return cls(size, size)

    def then(self, output: tuple[int, int], matrix: Matrix) -> Geometry:
        """Append a step that maps input coordinates to those of a canvas of size ``output``."""
        first, second = self.matrix, matrix
        # By hand: numpy would take ten times as long, for every image.
        whole: Matrix = tuple(
            (
                a * first[0][0] + b * first[1][0],
                a * first[0][1] + b * first[1][1],
                a * first[0][2] + b * first[1][2] + c,
            )
            for a, b, c in second
        )  # type: ignore[assignment]
        return Geometry(self.source, output, whole)

    def resize(self, size: tuple[int, int]) -> Geometry:
        """Append a resize of the whole canvas to ``size`` (h, w)."""
        scale_y, scale_x = size[0] / self.output[0], size[1] / self.output[1]
        return self.then(size, ((scale_y, 0.0, 0.0), (0.0, scale_x, 0.0)))

    def crop(self, top: int, left: int, size: tuple[int, int]) -> Geometry:
        """Append a crop (or, with negative ``top``/``left``, a padding) to ``size`` (h, w), in pixels."""
        return self.then(size, ((1.0, 0.0, -float(top)), (0.0, 1.0, -float(left))))

    def inverse(self) -> Geometry:
        """The map from the model's input back to the image."""
        full = np.vstack([np.asarray(self.matrix), [0.0, 0.0, 1.0]])
        return Geometry(self.output, self.source, _as_matrix(np.linalg.inv(full)))

    def to_source(self, maps: Tensor, *, outside: float = 0.0) -> Tensor:
        """Bring maps [C, h', w'] that cover the model's input onto the image's grid [C, H, W], bilinearly.

        Image pixels that the model never saw (cropped away) get ``outside``.
        """
        return _sample(maps, self.inverse(), outside, "bilinear")

    def to_input(self, maps: Tensor, grid: tuple[int, int] | None = None, *, outside: float = 0.0) -> Tensor:
        """Bring maps [C, H, W] of the image onto a grid [C, h', w'] over the model's input, as area means.

        ``grid`` defaults to the input's own size. Each cell averages samples no farther apart than an image pixel.
        """
        from torch.nn import functional

        height, width = grid or self.output
        full = np.asarray(self.inverse().matrix)[:, :2]
        steps_y = max(1, int(np.ceil(np.linalg.norm(full[:, 0]) * self.output[0] / height - 1e-9)))
        steps_x = max(1, int(np.ceil(np.linalg.norm(full[:, 1]) * self.output[1] / width - 1e-9)))
        fine = _sample(maps, self, outside, "nearest", grid=(height * steps_y, width * steps_x))
        return functional.avg_pool2d(fine[None], (steps_y, steps_x))[0]

    def visible(self) -> Tensor:
        """Which image pixels the model saw: bool [H, W]."""
        import torch

        return self.to_source(torch.ones(1, *self.output), outside=0.0)[0] > 0.5


def _as_matrix(full: np.ndarray) -> Matrix:
    rows = [[float(value) for value in row] for row in full[:2]]
    return (rows[0][0], rows[0][1], rows[0][2]), (rows[1][0], rows[1][1], rows[1][2])


def _sample(maps: Tensor, geometry: Geometry, outside: float, mode: str, grid: tuple[int, int] | None = None) -> Tensor:
    """Resample ``maps``, which cover geometry.source whatever their own grid, onto geometry.output (or ``grid``)."""
    import torch
    from torch.nn import functional

    out_h, out_w = grid or geometry.output
    matrix = torch.tensor(geometry.inverse().matrix, dtype=torch.float64)
    y = (torch.arange(out_h, dtype=torch.float64) + 0.5) * (geometry.output[0] / out_h)
    x = (torch.arange(out_w, dtype=torch.float64) + 0.5) * (geometry.output[1] / out_w)
    source_y = matrix[0, 0] * y[:, None] + matrix[0, 1] * x[None, :] + matrix[0, 2]
    source_x = matrix[1, 0] * y[:, None] + matrix[1, 1] * x[None, :] + matrix[1, 2]
    height, width = geometry.source
    inside = (source_y >= 0) & (source_y <= height) & (source_x >= 0) & (source_x <= width)
    coordinates = torch.stack([source_x / width * 2 - 1, source_y / height * 2 - 1], dim=-1)
    sampled = functional.grid_sample(
        maps[None].float(),
        coordinates[None].to(maps.device, torch.float32),
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )[0]
    return torch.where(inside.to(maps.device), sampled, torch.full_like(sampled, outside))
