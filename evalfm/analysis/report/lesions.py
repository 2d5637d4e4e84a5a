"""Lesions one by one: how many each model finds, at how many false positives an image, and of which size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from evalfm.analysis.report.charts import name_of
from evalfm.analysis.report.svg import COLOURS, DASHES, Chart, ChartAxis
from evalfm.analysis.report.tables import Table, Value, table
from evalfm.analysis.table import Line
from evalfm.metrics.lesions import LEAST_IOU
from evalfm.metrics.rows import Masks, Scored
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.froc import RATES, froc_curve
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import FromSums, ratio

THIRDS = ("small", "medium", "large")
FEWEST_LESIONS = 6
"""From so many on they are divided by size."""


@dataclass(frozen=True)
class SizeStratum:
    """Lesions of one third of the sizes.

    Attributes:
        words: the range of sizes.
        lesions: how many.
        sensitivity: share of them that is found at the run's own threshold, with its interval over patients.
    """

    words: str
    lesions: int
    sensitivity: Estimate


def masks_of(run: Run, name: str) -> Masks | None:
    """The test images of ``run`` with their lesions of the class ``name``; None where the run has none."""
    lesions, data = run.lesions(), run.record.data
    if lesions is None:
        return None
    return Masks(Scored(run.test_predictions(), tuple(data.class_names), data.patients_known, lesions=lesions), name)


def by_size(masks: Masks) -> list[SizeStratum]:
    """Sensitivity in each third of the lesions, by mm² where all have a spacing, else by the share of the image."""
    regions = masks.regions
    there = pd.DataFrame() if regions is None else regions[regions["lesion"]]
    if len(there) < FEWEST_LESIONS:
        return []
    known = bool(there["area_mm2"].notna().all())
    size = there["area_mm2" if known else "share"].to_numpy(np.float64) * (1 if known else 100)
    unit = "mm²" if known else "% of the image"
    low, high = np.quantile(size, [1 / 3, 2 / 3])
    third, images = np.digitize(size, [low, high]), len(masks.scored.table)
    words = (f"under {low:.3g} {unit}", f"{low:.3g} to {high:.3g}", f"from {high:.3g} {unit}")
    found = []
    for number in range(3):
        of = third == number
        row, hit = there["row"].to_numpy(np.intp)[of], there["matched"].to_numpy(np.float64)[of]
        counts = np.stack([np.bincount(row, minlength=images), np.bincount(row, hit, images)], axis=1)
        people = masks.patients
        statistic = FromSums(
            counts.astype(np.float64), people.codes, people.count, lambda sums: ratio(sums[..., 1], sums[..., 0])
        )
        measured = {"": Measured(statistic, people.behind(counts[:, 0] > 0), "no lesion is of this size")}
        found.append(
            SizeStratum(words[number], int(of.sum()), estimates(measured, masks.patients, unit=masks.unit)[""])
        )
    return found


def lesions_table(name: str, lines: Sequence[Line], finding: str) -> Table | None:
    """Per line what is found at its own threshold, the FROC score, and what is found by size; None without lesions."""
    rows: list[list[Value]] = []
    sizes: list[SizeStratum] = []
    metrics = ("lesion_sensitivity", "false_positives_per_image", "froc_score")
    for line in lines:
        run = line.runs[0]
        masks = masks_of(run, finding)
        if masks is None:
            continue
        ending = f"_{finding}" if len(run.record.data.class_names) > 1 else ""
        strata = by_size(masks)
        sizes = strata or sizes
        found = [run.estimate(f"{each}{ending}") for each in metrics]
        rows.append([name_of(line), *found, *(each.sensitivity for each in strata or ())])
    if not rows:
        return None
    header = ["model", "sensitivity", "false positives an image", "FROC score", *(THIRDS if sizes else ())]
    ranges = "; ".join(
        f"{third}: {each.lesions} lesions {each.words}" for third, each in zip(THIRDS, sizes, strict=False)
    )
    caption = (
        f"Regions of {finding} that eight neighbours connect, at the pixel threshold of each run; a predicted region "
        f"finds a lesion from an intersection over union of {LEAST_IOU:g} on, one to one. FROC score: mean sensitivity "
        f"at {', '.join(f'{rate:g}' for rate in RATES)} false positives an image, by the largest probability in each "
        f"region. {f'Sensitivity by size ({ranges}). ' if ranges else ''}95 % intervals over patients."
    )
    return table(name, header, rows, caption)


def froc_chart(lines: Sequence[Line], finding: str) -> Markup | None:
    """FROC curves of each line's first seed, all folds together; masks without scores are one point. None without."""
    drawn = []
    for line in lines:
        masks = masks_of(line.runs[0], finding)
        regions = None if masks is None else masks.regions
        if masks is None or regions is None or not regions["lesion"].any():
            continue
        there, images = regions[regions["lesion"]], len(masks.scored.table)
        wrong = regions[~regions["lesion"] & ~regions["matched"]]
        drawn.append((line, there, wrong["score"].to_numpy(np.float64), images))
    if not drawn:
        return None
    chart = Chart(
        ChartAxis("false positives an image", RATES[0] / 2, RATES[-1] * 2, logarithmic=True),
        ChartAxis("share of lesions found", 0, 1),
        "FROC curves",
        width=520,
        height=400,
    )
    for (line, there, false, images), colour, dash in zip(drawn, COLOURS, DASHES, strict=False):
        found, score = there["matched"].to_numpy(bool), there["score"].to_numpy(np.float64)
        at = len(false) / images, float(found.mean())
        words = f"{name_of(line)}: {at[1]:.3f} of {len(there)} lesions at {at[0]:.3g} an image"
        low, high = chart.x.low, chart.x.high
        scored = not np.isnan(score[found]).any() and not np.isnan(false).any()
        if scored:
            curve = froc_curve(score, false, images)
            steps = [(low, float(curve.at([low])[0]))]
            for x, y in zip(curve.false_positives.tolist(), curve.sensitivity.tolist(), strict=True):
                if low < x <= high:
                    steps += [(x, steps[-1][1]), (x, y)]
            chart.line([*steps, (high, steps[-1][1])], colour, words, dash=dash)
        else:
            chart.legend.append((words, colour, "2 6"))
        if low <= at[0] <= high:
            chart.dot(*at, colour, words)
        elif not scored:
            chart.dot(min(max(at[0], low), high), at[1], colour, words, hollow=True)
    return chart.drawn()
