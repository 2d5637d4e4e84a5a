"""The same film with and without a chest tube: what a run's answer changes by, all else equal."""

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

from evalfm.data.phantom import Dials, make_phantom
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.probing.predict import predict
from evalfm.progress import SILENT, Progress
from evalfm.runs import Run
from evalfm.statistics.comparison import Difference, compare_means

IMAGES = 200
FEWEST = 10
"""Patients below which no difference is given."""
SEED = 9001
"""Of the films, so that none is one of a phantom that a run has seen (those have small seeds)."""
ANSWERS = re.compile(r"score_.*|prediction|area_predicted_.*|decision_.*")
"""Columns of predictions that may change."""


@dataclass(frozen=True)
class Change:
    """One column among films of one truth.

    Attributes:
        answer: the column of the predictions.
        among: which films.
        without, with_tube: its mean.
        difference: with minus without, paired by film, or None with the ``reason``.
    """

    answer: str
    among: str
    images: int
    patients: int
    without: float
    with_tube: float
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
    size: int = 256,
    seed: int = SEED,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Counterfactual:
    """Apply ``run`` to phantom films drawn twice, without and with a chest tube, equal in every other pixel.

    Args:
        run: a finished run.
        images: how many films, each drawn twice.
        size: their pixels along a side.
        seed: of the films.
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
            found = predict(run, manifest, weights=weights, encoder=encoder, out=out, device=device, progress=progress)
            tables.append(found.table)
            truths.append(manifest.table["pneumothorax"].to_numpy(dtype=np.float64))
    without, with_tube = tables
    if len(without) != len(truths[0]) or without["id"].tolist() != with_tube["id"].tolist():
        raise EvalfmError(f"The task {run.task} leaves out some of the phantom's films; the pairs cannot be made.")
    if not np.array_equal(truths[0], truths[1]):
        raise AssertionError("the tube changed the truth of a film")
    notes = ["Synthetic data: the films are phantoms; what a tube changes on patients may differ."]
    notes += [note for note in run.record.notes if note.startswith("Random weights")]
    name = f"{run.encoder} · {run.head} · {run.adaptation}"
    return Counterfactual(name, run.task, tuple(_changes(without, with_tube, truths[0])), tuple(notes))


_ALWAYS = Dials(tube_given_pneumothorax=1, tube_given_none=1)


def _changes(without: pd.DataFrame, with_tube: pd.DataFrame, truth: NDArray[np.float64]) -> Iterator[Change]:
    patient = without["patient"].to_numpy(dtype=object)
    for column in [str(each) for each in without.columns if ANSWERS.fullmatch(str(each))]:
        before, after = (each[column].to_numpy(dtype=np.float64) for each in (without, with_tube))
        for among, rows in (("without pneumothorax", truth == 0), ("with pneumothorax", truth == 1)):
            patients = len(set(patient[rows].tolist()))
            sizes = int(rows.sum()), patients, float(before[rows].mean()), float(after[rows].mean())
            if patients < FEWEST:
                yield Change(column, among, *sizes, None, f"needs {FEWEST} patients, there are {patients}")
                continue
            yield Change(column, among, *sizes, compare_means(after[rows], before[rows], patient[rows]))
