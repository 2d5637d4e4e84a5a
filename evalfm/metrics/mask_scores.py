"""One predicted mask against its truth: overlap, distances between borders, and the threshold that makes masks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from evalfm.errors import EvalfmError

SCORE_SHARE = 0.001
"""The image score is the mean of this share of the pixels, the most probable ones."""
TOLERANCE_SHARE = 0.01
"""NSD tolerance as a share of the image height where the spacing is unknown."""
PERCENTILE = 95
"""Of the distances between borders, for HD95."""
HISTOGRAM_BINS = 1 << 14
"""A power of two, so that a probability falls into its bin without rounding."""

DistanceUnit = Literal["mm", "pixels"]


@dataclass(frozen=True)
class MaskScores:
    """One predicted mask against its truth, on the truth's grid.

    Attributes:
        dice, iou: in [0, 1]; 1 where both masks are empty, 0 where one is.
        hd95: in ``distance_unit``; the image diagonal where one mask is empty, None where both are.
        nsd: in [0, 1]; 0 where one mask is empty, None where both are.
        area_true, area_predicted: fraction of the image.
        score: mean of the top .1 % of pixel probabilities.
        distance_unit: ``"mm"`` where the spacing is known, else ``"pixels"``.
    """

    dice: float
    iou: float
    hd95: float | None
    nsd: float | None
    area_true: float
    area_predicted: float
    score: float
    distance_unit: DistanceUnit

    def columns(self) -> dict[str, float | str]:
        """The fields by name for a row of predictions, NaN for None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: math.nan if value is None else value for name, value in values.items()}


def image_scores(
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    threshold: float,
    *,
    spacing_mm: tuple[float, float] | None,
    tolerance_mm: float = 2.0,
) -> MaskScores:
    """Score one image; a pixel is predicted where ``probability`` ≥ ``threshold``.

    Args:
        probability: [H, W] on the original grid.
        truth: [H, W].
        threshold: chosen on the validation set.
        spacing_mm: (row, column) pixel spacing; None gives HD95 in pixels.
        tolerance_mm: of the NSD; without spacing 1 % of the image height is used.

    Raises:
        EvalfmError: the shapes differ or a probability is not finite.

    >>> truth = np.zeros((8, 8), dtype=bool)
    >>> truth[2:5, 2:5] = True
    >>> found = image_scores(np.roll(truth, 1, axis=1) * 0.9, truth, 0.5, spacing_mm=(0.5, 0.5))
    >>> round(found.dice, 3), found.hd95, found.distance_unit
    (0.667, 0.5, 'mm')
    """
    _check_image(probability, truth)
    predicted = probability >= threshold
    height, width = truth.shape
    true_area, predicted_area = int(truth.sum()), int(predicted.sum())
    shared = int((predicted & truth).sum())
    together = true_area + predicted_area
    hd95: float | None = None
    nsd: float | None = None
    spacing = (1.0, 1.0) if spacing_mm is None else spacing_mm
    if true_area and predicted_area:
        distances = surface_distances(predicted, truth, spacing)
        tolerance = TOLERANCE_SHARE * height if spacing_mm is None else tolerance_mm
        hd95, nsd = distances.hd95, distances.nsd(tolerance)
    elif together:
        hd95, nsd = math.hypot(height * spacing[0], width * spacing[1]), 0.0
    return MaskScores(
        dice=2 * shared / together if together else 1.0,
        iou=shared / (together - shared) if together else 1.0,
        hd95=hd95,
        nsd=nsd,
        area_true=true_area / truth.size,
        area_predicted=predicted_area / truth.size,
        score=image_score(probability),
        distance_unit="pixels" if spacing_mm is None else "mm",
    )


def image_score(probability: NDArray[np.floating]) -> float:
    """Mean of the top .1 % of pixel probabilities [H, W], at least one pixel (areas would tie at 0).

    >>> image_score(np.array([[0.1, 0.9], [0.2, 0.3]]))
    0.9
    """
    count = math.ceil(SCORE_SHARE * probability.size)
    top = np.partition(probability, probability.size - count, axis=None)[probability.size - count :]
    return float(top.mean(dtype=np.float64))


class PixelHistogram:
    """Counts of pixels by probability, pooled over validation images, from which the pixel threshold is chosen.

    >>> histogram = PixelHistogram(bins=8)
    >>> histogram.add(np.array([[0.2, 0.9], [0.3, 0.7]]), np.array([[False, True], [False, True]]))
    >>> histogram.best_threshold()
    0.5
    """

    def __init__(self, bins: int = HISTOGRAM_BINS) -> None:
        if bins < 1 or bins & (bins - 1):
            raise ValueError("the number of bins must be a power of two")
        self.bins = bins
        self.positive = np.zeros(bins + 1, dtype=np.int64)
        self.negative = np.zeros(bins + 1, dtype=np.int64)

    def add(self, probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> None:
        """Count one image: ``probability`` [H, W] in [0, 1] against ``truth`` [H, W].

        Raises:
            EvalfmError: the shapes differ or a value is no probability.
        """
        _check_image(probability, truth)
        if probability.min() < 0 or probability.max() > 1:
            raise EvalfmError("Pixel probabilities must lie between 0 and 1; apply the sigmoid before scoring.")
        place = (probability * self.bins).astype(np.int64)
        self.positive += np.bincount(place[truth], minlength=self.bins + 1)
        self.negative += np.bincount(place[~truth], minlength=self.bins + 1)

    def best_threshold(self) -> float:
        """The bin edge above 0 with the largest pooled-pixel Dice; amid equal ones the middle (lower) one.

        A threshold of 0 would call pixels of probability 0, and turn empty masks into full ones.

        Raises:
            EvalfmError: no pixel of the truth was counted.
        """
        dice = self.dice()[1:]
        best = np.flatnonzero(dice >= dice.max() - 1e-12) + 1
        # The first unbroken stretch of equally good edges: a gap between the classes is halved.
        stretch = best[: np.argmax(np.append(np.diff(best) > 1, True)) + 1]
        return float(stretch[(len(stretch) - 1) // 2] / self.bins)

    def dice(self) -> NDArray[np.float64]:
        """Pooled-pixel Dice [bins + 1] of predicting every pixel at or above each edge k / bins.

        Raises:
            EvalfmError: no pixel of the truth was counted.
        """
        truth = int(self.positive.sum())
        if not truth:
            raise EvalfmError("No val image holds a lesion, so no pixel threshold can be chosen; enlarge val.")
        hits = self.positive[::-1].cumsum()[::-1]
        called = hits + self.negative[::-1].cumsum()[::-1]
        return np.asarray(2 * hits / (called + truth), dtype=np.float64)


def _check_image(probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> None:
    if probability.shape != truth.shape or truth.ndim != 2:
        raise EvalfmError(
            f"A prediction of shape {probability.shape} cannot be scored against a mask of shape "
            f"{truth.shape}; bring both to the original image's grid."
        )
    if not np.isfinite(probability).all():
        raise EvalfmError("A predicted mask holds missing or infinite probabilities; check the head's training.")


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

    >>> one = np.zeros((6, 6), dtype=bool)
    >>> one[1:4, 1:4] = True
    >>> found = surface_distances(one, np.roll(one, 1, axis=1), spacing=(0.5, 0.5))
    >>> found.hd95, float(found.nsd(tolerance=0.4))
    (0.5, 0.5)
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

    >>> border_points(np.ones((2, 2), dtype=bool)).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
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
