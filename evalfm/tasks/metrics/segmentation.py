"""What is reported of a segmentation task: each image against its truth, then all images together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import RESAMPLES, Measured, estimates
from evalfm.statistics.resampling import Patients, Values, mean_over_folds
from evalfm.tasks.metrics.binary import measured_auroc
from evalfm.tasks.metrics.inputs import checked_columns, checked_patients
from evalfm.tasks.metrics.surfaces import surface_distances

if TYPE_CHECKING:
    import pandas as pd

SCORE_SHARE = 0.001
"""The image score is the mean of this share of the pixels, the most probable ones."""
TOLERANCE_SHARE = 0.01
"""NSD tolerance as a share of the image height where the spacing is unknown."""
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
        threshold: chosen on val.
        spacing_mm: (row, column) pixel spacing; None gives HD95 in pixels.
        tolerance_mm: of the NSD; without spacing 1 % of the image height is used.

    Raises:
        EvalfmError: the shapes differ or a probability is not finite.
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
    """Mean of the top .1 % of pixel probabilities [H, W], at least one pixel (areas would tie at 0)."""
    count = math.ceil(SCORE_SHARE * probability.size)
    top = np.partition(probability, probability.size - count, axis=None)[probability.size - count :]
    return float(top.mean(dtype=np.float64))


class PixelHistogram:
    """Counts of pixels by probability, pooled over images, from which val chooses its pixel threshold."""

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

        A threshold of 0 would call pixels of probability 0, and turn a head that finds nothing into one that finds
        everything.

        Raises:
            EvalfmError: no pixel of the truth was counted.
        """
        dice = self.dice()[1:]
        best = np.flatnonzero(dice >= dice.max() - 1e-12) + 1
        # The first unbroken stretch of equally good edges: a gap between the classes is halved.
        stretch = best[: np.argmax(np.append(np.diff(best) > 1, True)) + 1]
        return float(stretch[(len(stretch) - 1) // 2] / self.bins)

    def dice(self) -> Values:
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


@dataclass(frozen=True)
class MaskColumns:
    """The scores of many images, [N] each; fields as in ``MaskScores``, NaN for None."""

    dice: Values
    iou: Values
    hd95: Values
    nsd: Values
    area_true: Values
    area_predicted: Values
    score: Values
    distance_unit: NDArray[np.str_]

    @classmethod
    def stack(cls, scores: Sequence[MaskScores]) -> MaskColumns:
        """One row per image."""
        rows = [score.columns() for score in scores]
        return cls(**{field.name: np.array([row[field.name] for row in rows]) for field in fields(cls)})

    @classmethod
    def from_table(cls, table: pd.DataFrame, name: str) -> MaskColumns:
        """From the columns ``dice_<name>, iou_<name>, …`` of predictions."""
        wanted = {field.name: f"{field.name}_{name}" for field in fields(cls)}
        missing = [column for column in wanted.values() if column not in table]
        if missing:
            raise EvalfmError(f"The predictions lack {', '.join(missing)}; score the images against their masks.")
        text = "distance_unit"
        numbers = {key: table[column].to_numpy(np.float64) for key, column in wanted.items() if key != text}
        return cls(**numbers, distance_unit=table[wanted[text]].to_numpy(str))


def segmentation_metrics(
    columns: MaskColumns,
    patient: ArrayLike,
    *,
    seed: int = 0,
    folds: ArrayLike | None = None,
    unit: str = "patients",
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Every metric of a segmentation task with its interval; means are over images.

    Args:
        columns: [N] scores of each image.
        patient, seed, folds, unit, resamples: as for ``binary_metrics``.

    Returns:
        Over images with a lesion ``dice_positive`` (the primary), ``iou_positive`` and ``fraction_missed``
        (no pixel of the lesion found). Over all images ``dice_all`` (both empty: 1) and ``image_auroc`` of
        ``score``. Over images without a lesion ``false_positive_area`` (fraction of the image). Over images
        where not both masks are empty ``hd95_mm, hd95_pixels, nsd, nsd_mm, nsd_pixels``: millimetres and
        pixels are never averaged together. The counts of images ``empty_predictions`` (a lesion, nothing
        predicted), ``empty_truths`` (no lesion, something predicted) and ``both_empty``.

    Raises:
        EvalfmError: rows are missing or do not fit.
    """
    patients = checked_patients(patient, folds)
    names = ("dice", "iou", "area_true", "area_predicted", "score")
    checked = checked_columns({name: getattr(columns, name) for name in names}, len(patients.codes))
    lesion, predicted = checked["area_true"] > 0, checked["area_predicted"] > 0
    everywhere = np.ones(len(lesion), dtype=bool)

    def mean(values: NDArray[np.generic], rows: NDArray[np.bool_], undefined: str) -> Measured:
        return Measured(mean_over_folds(values, patients, rows), n=patients.behind(rows), undefined=undefined)

    no_lesion = "no image has a lesion"
    measured: dict[str, Measured | Estimate] = {
        "dice_positive": mean(checked["dice"], lesion, no_lesion),
        "dice_all": mean(checked["dice"], everywhere, "no image"),
        "iou_positive": mean(checked["iou"], lesion, no_lesion),
        "fraction_missed": mean(checked["dice"] == 0, lesion, no_lesion),
        "false_positive_area": mean(checked["area_predicted"], ~lesion, "every image has a lesion"),
        **_distances(columns, lesion | predicted, patients, unit),
        "image_auroc": measured_auroc(lesion.astype(np.float64), checked["score"], patients, unit=unit),
        "empty_predictions": _count(lesion & ~predicted, patients, unit),
        "empty_truths": _count(~lesion & predicted, patients, unit),
        "both_empty": _count(~lesion & ~predicted, patients, unit),
    }
    return estimates(measured, patients, seed=seed, unit=unit, resamples=resamples)


def _distances(
    columns: MaskColumns, defined: NDArray[np.bool_], patients: Patients, unit: str
) -> dict[str, Measured | Estimate]:
    """HD95 and NSD over the images where not both masks are empty, apart by the unit of distance."""
    checked_columns({"hd95": columns.hd95[defined], "nsd": columns.nsd[defined]}, int(defined.sum()))
    found: dict[str, Measured | Estimate] = {}
    in_unit = {which: defined & (columns.distance_unit == which) for which in ("mm", "pixels")}
    for which, rows in in_unit.items():
        for name, values in (("hd95", columns.hd95), ("nsd", columns.nsd)):
            undefined = f"no image is measured in {which}, or every mask is empty, true and predicted"
            statistic = mean_over_folds(np.where(rows, values, 0.0), patients, rows)
            found[f"{name}_{which}"] = Measured(statistic, n=patients.behind(rows), undefined=undefined)
    if in_unit["mm"].any() and in_unit["pixels"].any():
        reason = "tolerances in mm and in pixels are not averaged: see nsd_mm and nsd_pixels"
        found["nsd"] = Estimate.absent(reason, n=patients.behind(defined), unit=unit)
    else:
        found["nsd"] = found["nsd_mm" if in_unit["mm"].any() else "nsd_pixels"]
    return found


def _count(rows: NDArray[np.bool_], patients: Patients, unit: str) -> Estimate:
    return Estimate(
        float(rows.sum()),
        method="count of images",
        n=patients.count,
        unit=unit,
        reason="a count has no interval",
    )


def _check_image(probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> None:
    if probability.shape != truth.shape or truth.ndim != 2:
        raise EvalfmError(
            f"A prediction of shape {probability.shape} cannot be scored against a mask of shape "
            f"{truth.shape}; bring both to the original film's grid."
        )
    if not np.isfinite(probability).all():
        raise EvalfmError("A predicted mask holds missing or infinite probabilities; check the head's training.")
