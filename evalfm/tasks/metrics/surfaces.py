"""Distances between the borders of two masks: HD95 and normalised surface Dice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

PERCENTILE = 95


@dataclass(frozen=True)
class SurfaceDistances:
    """From each border pixel of one mask to the nearest border pixel of the other, both ways.

    Attributes:
        forward: [S] from the first mask's border to the second's.
        backward: [T] from the second mask's border to the first's.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]

    @property
    def hd95(self) -> float:
        """The larger of the two directed 95th percentiles (linear between ranks)."""
        return float(max(np.percentile(self.forward, PERCENTILE), np.percentile(self.backward, PERCENTILE)))

    def nsd(self, tolerance: float) -> float:
        """Share of border pixels of both masks that lie within ``tolerance`` of the other border."""
        near = np.count_nonzero(self.forward <= tolerance) + np.count_nonzero(self.backward <= tolerance)
        return near / (len(self.forward) + len(self.backward))


def surface_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0)
) -> SurfaceDistances:
    """Border-to-border distances of two masks [H, W], not empty, in the unit of ``spacing`` (row, column).

    Raises:
        ValueError: the shapes differ or a mask is empty.
    """
    if first.shape != second.shape:
        raise ValueError(f"masks of different shapes {first.shape} and {second.shape}")
    one, other = (border_points(mask) * np.asarray(spacing) for mask in (first, second))
    if not len(one) or not len(other):
        raise ValueError("an empty mask has no border")
    forward, _ = _tree(other).query(one)
    backward, _ = _tree(one).query(other)
    return SurfaceDistances(np.asarray(forward), np.asarray(backward))


def border_points(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[S, 2] row and column of the pixels of ``mask`` [H, W] with one of four neighbours outside it.

    What lies beyond the image is outside.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.empty((0, 2))
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    inner = box[:-2, 1:-1] & box[2:, 1:-1] & box[1:-1, :-2] & box[1:-1, 2:]
    points = np.argwhere(box[1:-1, 1:-1] & ~inner).astype(np.float64)
    return points + np.array([rows[0], columns[0]], dtype=np.float64)


def _tree(points: NDArray[np.float64]) -> KDTree:
    # Borders are short beside the image: a tree of them beats a distance transform of every pixel.
    return KDTree(points, balanced_tree=False, compact_nodes=False)
