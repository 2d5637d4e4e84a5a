"""The slow look at a data set, image by image: `evalfm data check`."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from evalfm.data.checks import Fault, deep_faults, file_faults, quick_faults
from evalfm.data.digests import WORKERS
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress


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
    """

    faults: tuple[Fault, ...]
    remarks: tuple[str, ...]
    rows: int
    patients: int | None
    splits: dict[str, int] = field(default_factory=dict)
    labels: dict[str, LabelCounts] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True)
class _Look:
    """What decoding one image showed: its extremes, or why it failed."""

    lowest: float = 0.0
    highest: float = 0.0
    bits: int | None = None
    unit: str = ""
    failure: str | None = None


def check(manifest: Manifest, progress: Progress = SILENT) -> Report:
    """Look at every row, file, mask and pixel; faults of the data are reported, never raised."""
    faults = quick_faults(manifest)
    remarks: list[str] = []
    if len(manifest) == 0 or not manifest.root.is_dir():
        return _report(manifest, faults, remarks)
    absent = {fault.row for fault in file_faults(manifest)}
    deep = [fault for fault in deep_faults(manifest, progress=progress) if fault.row not in absent or not fault.row]
    unreadable = absent | {fault.row for fault in deep}
    looks = _looks(manifest, progress)
    faults = [*faults, *deep, *_pixel_faults(manifest, looks, unreadable)]
    if not manifest.patients_known:
        remarks.append(f"Patients unknown: every {manifest.patient_column} counts as a patient of its own.")
    if "split" not in manifest.table:
        remarks.append("No split yet: deal one with `evalfm data split`.")
    return _report(manifest, faults, remarks)


def _looks(manifest: Manifest, progress: Progress) -> list[_Look]:
    def look(row: int) -> _Look:
        try:
            image = manifest.image(row)
        except (EvalfmError, OSError) as error:
            return _Look(failure=str(error))
        lowest, highest = float(image.pixels.min()), float(image.pixels.max())
        return _Look(lowest, highest, image.bits, image.unit)

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(progress.track(pool.map(look, range(len(manifest))), "images", len(manifest)))


def _pixel_faults(manifest: Manifest, looks: list[_Look], unreadable: set[int | None]) -> Iterable[Fault]:
    for row, look in enumerate(looks, start=1):
        if look.failure is not None and row not in unreadable:
            yield Fault(f"the image cannot be decoded: {look.failure}", row)
        elif look.failure is None and look.lowest == look.highest:
            yield Fault(
                f"all pixels of the image have the value {look.highest:g}; replace the file or drop the row",
                row,
            )
    deep = [look.highest for look in looks if look.failure is None and look.bits == 16 and look.unit == "unit-interval"]
    if deep and manifest.info.bits is None and max(deep) <= 0.5:
        yield Fault(
            f"no 16-bit image exceeds {max(deep):.3f} of its range, so fewer bits are significant; "
            "write `bits: 12` (or how many there are) into dataset.yaml"
        )


def _report(manifest: Manifest, faults: list[Fault], remarks: list[str]) -> Report:
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
