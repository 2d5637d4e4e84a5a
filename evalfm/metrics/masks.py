"""Metrics of masks: means over images of what each came to against its truth, and counts of empty ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalfm.metrics.metric import Better, Measure, Metric, mean_among, share_among
from evalfm.metrics.ranking import measured_auroc
from evalfm.metrics.rows import Masks, Question
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.froc import froc_statistic
from evalfm.statistics.intervals import Measured
from evalfm.statistics.resampling import FromRows, FromSums, Positions, over_folds, ratio

SEGMENTATION = ("segmentation",)
NO_LESION = "no image has a lesion"
Among = Callable[[Masks], NDArray[np.bool_]]


def _of_masks(
    name: str,
    measure: Measure,
    *,
    unit: str = "",
    better: Better = "higher",
    beside: tuple[str, ...] = (),
    words: str = "",
    paired: bool = True,
    needs: str | None = None,
) -> Metric:
    """Plain where a run has one class, else of each."""
    return Metric(
        name, SEGMENTATION, measure, SEGMENTATION, unit, better, beside, needs=needs, words=words, paired=paired
    )


def _with_lesion(what: str) -> Measure:
    return lambda rows: mean_among(rows, rows.column(what), rows.lesion, undefined=NO_LESION)


def _distance(what: Literal["hd95", "nsd"], unit: Literal["mm", "pixels"]) -> Measure:
    """Over the images where not both masks are empty and that are measured in ``unit``."""

    def measure(rows: Masks) -> Measured:
        defined = rows.lesion | rows.predicted
        among = defined & (rows.distance_unit == unit)
        undefined = f"no image is measured in {unit}, or every mask is empty, true and predicted"
        return mean_among(rows, np.where(among, rows.distance(what), 0.0), among, undefined=undefined)

    return measure


def _nsd(rows: Masks) -> Measured | Estimate:
    """In the one unit that there is: millimetres and pixels are never averaged together."""
    defined = rows.lesion | rows.predicted
    units = set(rows.distance_unit[defined].tolist())
    if len(units) > 1:
        reason = "tolerances in mm and in pixels are not averaged: see nsd_mm and nsd_pixels"
        return Estimate.absent(reason, n=rows.patients.behind(defined), unit=rows.unit)
    return _distance("nsd", "mm" if units == {"mm"} else "pixels")(rows)


def _image_auroc(rows: Masks) -> Measured | Estimate:
    return measured_auroc(Question(rows.scored, rows.name, rows.lesion.astype(np.float64), rows.column("score")))


def _lesion_sensitivity(rows: Masks) -> Measured:
    counts = np.stack([rows.column("lesions"), rows.column("lesions_found")], axis=1)
    patients = rows.patients
    statistic = FromSums(counts, patients.codes, patients.count, lambda sums: ratio(sums[..., 1], sums[..., 0]))
    return Measured(statistic, rows.patients.behind(counts[:, 0] > 0), NO_LESION)


def _froc(rows: Masks) -> Measured | Estimate:
    """Mean sensitivity over false positives an image, where candidates have scores."""
    regions, patients = rows.regions, rows.patients
    there = None if regions is None else regions[regions["lesion"]]
    if regions is None or there is None:
        return Estimate.absent("the run has no lesions.parquet", n=patients.count, unit=rows.unit)
    false = regions[~regions["lesion"] & ~regions["matched"]]
    if there["score"][there["matched"]].isna().any() or false["score"].isna().any():
        reason = "masks have no scores: there is one operating point and no curve"
        return Estimate.absent(reason, n=patients.count, unit=rows.unit)

    def build(some: Positions) -> FromRows:
        mine, others = (each[np.isin(each["row"], some)] for each in (there, false))
        return froc_statistic(
            patients.codes[some],
            patients.codes[mine["row"]],
            mine["score"].to_numpy(np.float64),
            patients.codes[others["row"]],
            others["score"].to_numpy(np.float64),
            patients.count,
        )

    images = np.zeros(len(patients.codes), dtype=bool)
    images[there["row"]] = True
    return Measured(over_folds(patients, build), patients.behind(images), NO_LESION)


def _count(among: Among) -> Measure:
    def measure(rows: Masks) -> Estimate:
        return Estimate(
            float(among(rows).sum()),
            method="count of images",
            n=rows.patients.count,
            unit=rows.unit,
            reason="a count has no interval",
        )

    return measure


COUNTS: dict[str, Among] = {
    "empty_predictions": lambda rows: rows.lesion & ~rows.predicted,
    "empty_truths": lambda rows: ~rows.lesion & rows.predicted,
    "both_empty": lambda rows: ~rows.lesion & ~rows.predicted,
}
METRICS = (
    _of_masks(
        "dice_positive",
        _with_lesion("dice"),
        words="Dice",
    ),
    # An empty mask is right on every image without the finding, a full one misses no lesion.
    _of_masks(
        "dice_all",
        lambda rows: mean_among(rows, rows.column("dice"), undefined="no image"),
        beside=("dice_positive",),
    ),
    _of_masks("iou_positive", _with_lesion("iou")),
    _of_masks(
        "fraction_missed",
        lambda rows: share_among(rows, rows.column("dice") == 0, rows.lesion, undefined=NO_LESION),
        better="lower",
        beside=("false_positive_area",),
    ),
    _of_masks(
        "false_positive_area",
        lambda rows: mean_among(
            rows, rows.column("area_predicted"), ~rows.lesion, undefined="every image has a lesion"
        ),
        unit="share of the image",
        better="lower",
        beside=("fraction_missed",),
    ),
    _of_masks("hd95_mm", _distance("hd95", "mm"), unit="mm", better="lower"),
    _of_masks("nsd_mm", _distance("nsd", "mm")),
    _of_masks("hd95_pixels", _distance("hd95", "pixels"), unit="pixels", better="lower"),
    _of_masks("nsd_pixels", _distance("nsd", "pixels")),
    _of_masks("nsd", _nsd),
    # Imported masks have no probabilities that would rank images.
    _of_masks("image_auroc", _image_auroc, needs="score"),
    _of_masks("lesion_sensitivity", _lesion_sensitivity, needs="lesions", beside=("false_positives_per_image",)),
    # An empty mask has none.
    _of_masks(
        "false_positives_per_image",
        lambda rows: mean_among(rows, rows.column("false_positives"), undefined="no image"),
        needs="lesions",
        unit="regions",
        better="lower",
        beside=("lesion_sensitivity",),
    ),
    _of_masks("froc_score", _froc, needs="lesions", words="FROC score"),
    *(
        _of_masks(
            name,
            _count(among),
            unit="images",
            better=None if name == "both_empty" else "lower",
            paired=False,
            beside=tuple(other for other in COUNTS if other != name),
        )
        for name, among in COUNTS.items()
    ),
)
"""In the order of tables."""
