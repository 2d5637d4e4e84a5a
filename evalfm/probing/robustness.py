"""Finished runs on perturbed images: how far features move, and what becomes of scores, decisions and metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalfm.analysis.robustness import Robustness
from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.progress import SILENT, Progress
from evalfm.run import Run

IMAGES = 200
"""By default, of each run: every one is encoded anew for every perturbation."""


def robustness(
    runs: Sequence[str | Path | Run],
    data: str | Path | Manifest | None = None,
    *,
    perturbations: Sequence[str] | None = None,
    by: str | None = None,
    images: int | None = IMAGES,
    seed: int = 0,
    trained_on: str | Path | Manifest | None = None,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Robustness:
    """Measure what perturbations of the images change in ``runs``, on images that each run has not seen.

    Args:
        runs: finished runs, of one or several encoders and tasks.
        data: where the images are; None takes each run's own data by its recorded name.
        perturbations: names, or ``name=strength``, as ``parse_perturbations`` takes them; None tries all.
        by: a column of sites or scanners, for the robustness index.
        images: at most so many of each run, whole patients drawn by ``seed``; None takes all.
        seed: of the draw of images, and of what perturbations draw.
        trained_on: the runs' own data, where ``data`` are others.
        weights: the checkpoint, for runs whose weights came from a file.
        encoder: an encoder's code file or object, where a run's is not in the catalogue.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        What was found; ``left_out`` names runs that cannot be measured (tables, episodes, imported predictions).

    Raises:
        EvalfmError: a name is none, or no run is left.
    """
    raise NotImplementedError
