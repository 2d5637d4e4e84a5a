"""The slow look at a data set, image by image: `evalfm data check`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.checks import DataFault, deep_faults, file_faults, quick_faults
from evalfm.data.form import Form, FormReport, form_of, form_report
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

FRONTAL = ("PA", "AP")
SHOWN = 10
"""Rows that a remark names."""
LEAST_SIDE = 24
"""Pixels below which nothing is said of an image's looks."""
_LOOKED_AT, _EDGE = 96, 3
_FLAT = 0.06
"""Share of an image's range within which black is black and white is white."""


@dataclass(frozen=True)
class LabelCounts:
    """How often a label is positive (non-zero), negative (zero) and unknown; words count as positive."""

    positive: int
    negative: int
    unknown: int


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it.

    Attributes:
        faults: to be mended before anything is computed.
        remarks: worth knowing, no obstacle.
        rows: number of rows.
        patients: number of patients; None where they are unknown.
        splits: rows per split.
        labels: counts per label column.
        masks: per finding, how many rows have a mask, empty ones included.
        sizes: images per (height, width, significant bits).
        negatives: rows, counted from 0, whose image looks inverted.
        form: what the form of the pictures tells of the labels.
    """

    faults: tuple[DataFault, ...]
    remarks: tuple[str, ...]
    rows: int
    patients: int | None
    splits: dict[str, int] = field(default_factory=dict)
    labels: dict[str, LabelCounts] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int, int], int] = field(default_factory=dict)
    negatives: tuple[int, ...] = ()
    form: FormReport = field(default_factory=FormReport)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True)
class _Look:
    """What decoding one image showed: its size, its extremes, its form, whether it looks inverted, or why it failed."""

    size: tuple[int, int] = (0, 0)
    inverted: bool = False
    lowest: float = 0.0
    highest: float = 0.0
    bits: int | None = None
    unit: str = ""
    form: Form | None = None
    failure: str | None = None


def check(manifest: Manifest, progress: Progress = SILENT) -> Report:
    """Look at every row, file, mask and pixel; faults of the data are reported, never raised.

    >>> from evalfm.data.phantom import make_phantom
    >>> check(make_phantom("checked", n=4, size=64)).passed
    True
    """
    faults = quick_faults(manifest)
    remarks: list[str] = []
    if len(manifest) == 0 or not manifest.root.is_dir():
        return _report(manifest, faults, remarks)
    absent = {fault.row for fault in file_faults(manifest)}
    deep = [
        fault
        for fault in deep_faults(manifest, headers=False, progress=progress)
        if fault.row not in absent or not fault.row
    ]
    unreadable = absent | {fault.row for fault in deep}
    looks = _looks(manifest, progress)
    faults = [*faults, *deep, *_pixel_faults(manifest, looks, unreadable)]
    negatives = tuple(row for row, look in enumerate(looks) if look.inverted)
    if negatives:
        remarks.append(_about_negatives(negatives, looks))
    form = form_report(manifest, [look.form for look in looks])
    remarks += form.remarks
    if not manifest.patients_known:
        remarks.append(f"Patients unknown: every {manifest.patient_column} counts as a patient of its own.")
    if "split" not in manifest.table:
        remarks.append("No split yet: make one with `evalfm data split`.")
    sizes = Counter((*look.size, look.bits or 0) for look in looks if look.failure is None)
    return replace(_report(manifest, faults, remarks), sizes=dict(sizes.most_common()), negatives=negatives, form=form)


def _looks(manifest: Manifest, progress: Progress) -> list[_Look]:
    views = manifest.table["view"].tolist() if "view" in manifest.table else [None] * len(manifest)
    # A header is read anew only where the table has not taken the maker from it.
    known = manifest.table["manufacturer"].fillna("").astype(str).tolist() if "manufacturer" in manifest.table else None
    makers = known or [""] * len(manifest)

    def look(row: int) -> _Look:
        try:
            image = manifest.image(row)
        except (EvalfmError, OSError) as error:
            return _Look(failure=str(error))
        lowest, highest = float(image.pixels.min()), float(image.pixels.max())
        frontal = image.unit == "unit-interval" and len(image.pixels) == 1 and views[row] in (None, *FRONTAL)
        inverted = frontal and looks_inverted(image.pixels[0])
        form = form_of(image, makers[row])
        return _Look(image.pixels.shape[1:], inverted, lowest, highest, image.bits, image.unit, form)

    # Decoding is work for processors; more threads than these only wait for one another.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(progress.track(pool.map(look, range(len(manifest))), "images", len(manifest)))


def looks_inverted(pixels: NDArray[np.float32]) -> bool:
    """Whether a frontal chest image [H, W] is brighter over the lung fields than over the spine and the heart.

    What is black or white up to the edge (borders, collimation, direct exposure) is left out, and blocks lie in the
    same shares of the sides of what remains; no landmark is sought. On the 880 radiographs at hand 4 are called
    inverted, 2 of which are, and 876 of their 880 negatives, with borders or without. The blocks and the margin were
    chosen on these same images, so other sets may fare a little worse.
    """
    height, width = pixels.shape
    if min(height, width) < LEAST_SIDE:
        return False
    # A hundred rows and columns are enough for means of blocks, at a fraction of the cost of decoding.
    pixels = pixels[:: max(1, height // _LOOKED_AT), :: max(1, width // _LOOKED_AT)]
    highest = float(pixels.max())
    if highest <= 0:
        return False
    # Where fewer bits are significant than are stored, white is darker.
    pixels = pixels / highest
    shown = ~(_up_to_the_edge(pixels < _FLAT) | _up_to_the_edge(pixels > 1 - _FLAT))
    rows = np.flatnonzero(shown.mean(axis=1) > _FLAT)
    columns = np.flatnonzero(shown.mean(axis=0) > _FLAT)
    if min(len(rows), len(columns)) < LEAST_SIDE // 2:
        return False
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = pixels.shape

    def mean(top: float, bottom: float, left: float, right: float) -> float:
        return float(pixels[int(top * height) : int(bottom * height), int(left * width) : int(right * width)].mean())

    lungs = (mean(0.25, 0.7, 0.15, 0.375) + mean(0.25, 0.7, 0.625, 0.85)) / 2
    return lungs > mean(0.15, 0.9, 0.4, 0.6)


def _up_to_the_edge(flat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of ``flat`` [H, W] that hang together with an edge of the image."""
    from scipy.ndimage import label

    numbers, _ = label(flat)
    # A thin line often runs along the edge itself.
    inner = np.zeros(flat.shape, dtype=bool)
    inner[_EDGE:-_EDGE, _EDGE:-_EDGE] = True
    edges = np.unique(numbers[~inner])
    return np.isin(numbers, edges[edges > 0])


def _about_negatives(negatives: tuple[int, ...], looks: list[_Look]) -> str:
    rows = ", ".join(str(row + 1) for row in negatives[:SHOWN]) + (", …" if len(negatives) > SHOWN else "")
    return (
        f"{len(negatives)} of {len(looks)} grey images look inverted (brighter over the lungs than in the middle; of "
        f"pictures other than frontal chest images this says nothing): rows {rows}."
    )


def _pixel_faults(manifest: Manifest, looks: list[_Look], unreadable: set[int | None]) -> Iterable[DataFault]:
    for row, look in enumerate(looks, start=1):
        if look.failure is not None and row not in unreadable:
            yield DataFault(f"the image cannot be decoded: {look.failure}", row)
        elif look.failure is None and look.lowest == look.highest:
            yield DataFault(
                f"all pixels of the image have the value {look.highest:g}; replace the file or drop the row",
                row,
            )
    deep = [look.highest for look in looks if look.failure is None and look.bits == 16 and look.unit == "unit-interval"]
    if deep and manifest.info.bits is None and max(deep) <= 0.5:
        yield DataFault(
            f"no 16-bit image exceeds {max(deep):.3f} of its range, so fewer bits are significant; "
            "write `bits: 12` (or how many there are) into dataset.yaml"
        )


def _report(manifest: Manifest, faults: list[DataFault], remarks: list[str]) -> Report:
    table = manifest.table
    labels = {}
    for name in manifest.labels:
        unknown = table[name].isna()
        zero = pd.Series(np.asarray(table[name] == 0), index=table.index)
        labels[name] = LabelCounts(int((~unknown & ~zero).sum()), int(zero.sum()), int(unknown.sum()))
    splits = table["split"].value_counts().to_dict() if "split" in table else {}
    return Report(
        faults=tuple(faults),
        remarks=(*remarks, *manifest.info.notes),
        rows=len(manifest),
        patients=len(set(manifest.patients)) if manifest.patients_known else None,
        splits={str(name): int(count) for name, count in sorted(splits.items())},
        labels=labels,
        masks={name: int(table[f"{name}_mask"].notna().sum()) for name in manifest.findings},
    )
