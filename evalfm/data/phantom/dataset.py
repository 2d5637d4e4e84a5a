"""A phantom data set on disk: images as PNG, truth in the manifest, dataset.yaml beside it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from evalfm.data import masks
from evalfm.data.assign_splits import assign_splits
from evalfm.data.columns import EMPTY_MASK
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.manifest import Manifest
from evalfm.data.phantom.patients import Dials
from evalfm.data.phantom.radiograph import FINDINGS, LARGEST, SMALLEST, render
from evalfm.data.work_folders import remove_stale, work_name
from evalfm.errors import EvalfmError
from evalfm.progress import SILENT, Progress

_LABELS = ("pneumothorax", "cardiomegaly", "chest_tube", "ecg_leads")
_NUMBERS = ("ctr", "pneumothorax_area")
_ATTRIBUTES = ("sex", "age", "view", "scanner", "chest_tube", "ecg_leads")


def make_phantom(
    folder: Path | str,
    *,
    n: int,
    size: int = 256,
    seed: int = 0,
    dials: Dials | None = None,
    progress: Progress = SILENT,
    workers: int = 1,
    name: str = "phantom",
) -> Manifest:
    """Draw ``n`` images into ``folder``: images/*.png (8 bit), manifest.parquet and dataset.yaml.

    The folder is there whole or not at all. The same numbers give the same bytes, whatever ``workers`` is;
    the first images of a larger set are those of a smaller one. Patients are assigned to splits by hash.

    Args:
        folder: to make; must not hold anything yet.
        n: images.
        size: pixels along a side, 64 to 1024.
        seed: of the population.
        dials: how often findings and devices occur.
        progress: where the work is shown.
        workers: processes that draw.
        name: of the data set, in tables and reports.

    Raises:
        EvalfmError: the folder is taken, or a number is out of range; nothing was written.

    >>> manifest = make_phantom("phantom", n=10, size=64)
    >>> len(manifest), manifest.findings
    (10, ['heart', 'left_lung', 'right_lung', 'pneumothorax', 'chest_tube'])
    """
    out = Path(os.path.realpath(folder))
    _check(out, n, size, seed, workers)
    dials = dials or Dials()
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(out.parent)
    work = out.parent / work_name()
    work.mkdir()
    try:
        (work / "images").mkdir()
        job = _Job(work, size, seed, dials)
        rows = list(progress.track(_rows(job, n, workers), "phantom images", n))
        table = pd.DataFrame(rows)
        drawn = Manifest(_info(name, n, size, seed, dials), table, work)
        # No two images are alike, so that none needs to be read again.
        manifest = assign_splits(drawn, seed=0, units=drawn.patients)
        manifest.write(work)
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Manifest.read(out, validate=False)


@dataclass(frozen=True)
class _Job:
    folder: Path
    size: int
    seed: int
    dials: Dials


def _check(out: Path, n: int, size: int, seed: int, workers: int) -> None:
    faults = []
    if n < 1:
        faults.append(f"{n} images cannot be drawn, take at least 1")
    if not SMALLEST <= size <= LARGEST:
        faults.append(f"images of {size} pixels cannot be drawn, choose a size from {SMALLEST} to {LARGEST}")
    if seed < 0:
        faults.append(f"seed {seed} is negative, choose another")
    if workers < 1:
        faults.append(f"{workers} workers cannot work, take at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        faults.append(f"{out} holds something already, give a new folder")
    if faults:
        raise EvalfmError(f"The phantom cannot be made: {'; '.join(faults)}.")


def _rows(job: _Job, n: int, workers: int) -> Iterator[dict[str, object]]:
    if workers == 1:
        yield from map(partial(_draw, job), range(n))
        return
    # A forked process would inherit the threads' locks of whatever the caller has loaded.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C is the caller's to answer.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(min(workers, n), mp_context=context, initializer=ignore) as pool:
        yield from pool.map(partial(_draw, job), range(n), chunksize=max(1, min(4, n // workers)))


def _draw(job: _Job, index: int) -> dict[str, object]:
    """Draw one image, write its image, and return its row of the manifest."""
    drawn = render(job.seed, index, job.size, job.dials)
    name = f"phantom-{job.seed}-{index:06d}"
    file = f"images/{name}.png"
    stored = np.rint(drawn.pixels * 255).astype(np.uint8)
    Image.fromarray(stored).save(job.folder / file, compress_level=1)
    truth = {
        f"{finding}_mask": masks.encode("relative", mask) if mask.any() else EMPTY_MASK
        for finding, mask in ((finding, drawn.masks[finding]) for finding in FINDINGS)
    }
    return {
        "id": name,
        "image": file,
        "patient": drawn.patient,
        "sex": drawn.sex,
        "age": drawn.age,
        "view": drawn.view,
        "scanner": drawn.scanner,
        "pneumothorax": int(drawn.pneumothorax),
        "cardiomegaly": int(drawn.cardiomegaly),
        "chest_tube": int(drawn.chest_tube),
        "ecg_leads": int(drawn.ecg_leads),
        "ctr": drawn.ctr,
        "pneumothorax_area": drawn.pneumothorax_area,
        **truth,
    }


def _info(name: str, n: int, size: int, seed: int, dials: Dials) -> DatasetInfo:
    settings = ", ".join(f"{dial} {value:g}" for dial, value in asdict(dials).items())
    return DatasetInfo(
        name=name,
        title="Synthetic frontal chest radiographs",
        licence="Apache-2.0",
        synthetic=True,
        mask_dialects=dict.fromkeys(FINDINGS, "relative"),
        label_source=dict.fromkeys((*_LABELS, *_NUMBERS, *FINDINGS), "phantom"),
        label_kinds=dict.fromkeys(_NUMBERS, "number"),
        attributes=list(_ATTRIBUTES),
        redistributable_images=True,
        public_ids=True,
        bits=8,
        unit="unit-interval",
        notes=[f"{n} images of {size} pixels, seed {seed}; dials: {settings}."],
    )
