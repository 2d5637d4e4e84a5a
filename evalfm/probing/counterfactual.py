"""The same image with and without a chest tube: what a run's prediction changes by, all else equal."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cautions import sentences
from evalfm.data.phantom import Dials, make_phantom
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.probing.predict import predict
from evalfm.progress import SILENT, Progress
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, compare_means

IMAGES = 200
SIZE = 256
FEWEST = 10
"""Patients below which no difference is given."""
SEED = 9001
"""Of the images, so that none is one of a phantom that a run has seen (those have small seeds)."""
ANSWERS = re.compile(r"score_.*|prediction|area_predicted_.*|decision_.*")
"""Columns of predictions that may change."""


@dataclass(frozen=True)
class Change:
    """One column among images of one truth.

    Attributes:
        answer: the column of the predictions.
        among: which images.
        without, with_tube: its mean, None where it has none.
        difference: with minus without, paired by image, or None with the ``reason``.
    """

    answer: str
    among: str
    images: int
    patients: int
    without: float | None
    with_tube: float | None
    difference: Difference | None
    reason: str | None = None


@dataclass(frozen=True)
class Counterfactual:
    """What the tube alone changes."""

    model: str
    task: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def counterfactual(
    run: str | Path | Run,
    *,
    images: int = IMAGES,
    size: int = SIZE,
    seed: int = SEED,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Counterfactual:
    """Apply ``run`` to phantom images drawn twice, without and with a chest tube, equal in every other pixel.

    Args:
        run: a finished run.
        images: how many images, each drawn twice.
        size: their pixels along each edge.
        seed: of the images.
        weights, encoder, device: as for ``predict``.

    Raises:
        EvalfmError: the run cannot be applied, or has seen phantoms of this seed.
    """
    run = run if isinstance(run, Run) else Run.read(run)
    if images < FEWEST:
        raise EvalfmError(f"--images must be {FEWEST} at least, not {images}.")
    with tempfile.TemporaryDirectory(prefix="evalfm-") as scratch:
        tables, truths = [], []
        for name, dials in (("without", Dials(tube_given_pneumothorax=0, tube_given_none=0)), ("with", _ALWAYS)):
            manifest = make_phantom(
                Path(scratch) / name, n=images, size=size, seed=seed, dials=dials, progress=progress
            )
            out = Path(scratch) / f"predicted-{name}"
            predicted = predict(
                run, manifest, weights=weights, encoder=encoder, out=out, device=device, progress=progress
            )
            tables.append(predicted.table)
            truths.append(manifest.table["pneumothorax"].to_numpy(dtype=np.float64))
    without, with_tube = tables
    if len(without) != len(truths[0]) or without["id"].tolist() != with_tube["id"].tolist():
        raise EvalfmError(f"The task {run.task} leaves out some of the phantom's images; the pairs cannot be made.")
    if not np.array_equal(truths[0], truths[1]):
        raise AssertionError("the tube changed the truth of an image")
    notes = ["Synthetic data: the images are phantoms; what a tube changes on patients may differ."]
    notes += sentences(run.record.cautions, {"random-weights"})
    name = f"{run.encoder} · {run.head} · {run.adaptation}"
    return Counterfactual(name, run.task, tuple(_changes(without, with_tube, truths[0])), tuple(notes))


_ALWAYS = Dials(tube_given_pneumothorax=1, tube_given_none=1)


def _changes(without: pd.DataFrame, with_tube: pd.DataFrame, truth: NDArray[np.float64]) -> Iterator[Change]:
    patient = without["patient"].to_numpy(dtype=object)
    for column in answers_of(without):
        before, after = (each[column].to_numpy(dtype=np.float64) for each in (without, with_tube))
        for among, rows in (("without pneumothorax", truth == 0), ("with pneumothorax", truth == 1)):
            sizes = int(rows.sum()), len(set(patient[rows].tolist())), mean(before[rows]), mean(after[rows])
            reason = too_little(before[rows], after[rows], patients=sizes[1])
            difference = None if reason else compare_means(after[rows], before[rows], patient[rows])
            yield Change(column, among, *sizes, difference, reason)


def answers_of(table: pd.DataFrame) -> list[str]:
    """The columns of predictions that may change."""
    return [str(name) for name in table.columns if ANSWERS.fullmatch(str(name))]


def mean(values: NDArray[np.float64]) -> float | None:
    """The mean, or None where there is nothing, or a value is missing."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None


def too_little(*answers: NDArray[np.float64], patients: int) -> str | None:
    """Why no difference of ``answers`` can be given, or None where one can."""
    if patients < FEWEST:
        return f"needs {FEWEST} patients, there are {patients}"
    return None if all(np.isfinite(each).all() for each in answers) else "the run gives no score"
