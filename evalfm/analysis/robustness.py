"""How much features, scores and metric of finished runs change where the images are perturbed: what was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate

ROBUSTNESS = "robustness.json"


@dataclass(frozen=True)
class PerturbationEffect:
    """What one perturbation at one strength changes, on the test images of one run.

    Attributes:
        perturbation, strength: as in ``evalfm.data.perturbations``; ``label`` names both with the unit.
        cosine: mean cosine of the perturbed image's features to those of the clean one.
        shift: the same as a share of the way to the image of another patient (``shift_share``).
        score: mean change of the score (probability, measurement, or predicted area), perturbed minus clean; absent
            where an image has several scores.
        absolute: mean of the absolute change of the scores.
        flipped: share of the decisions at the run's own threshold, or of the most probable classes, that change; absent
            where a run decides nothing.
        metric: change of the run's primary metric, paired by image; None with the ``reason``.
        reason: why ``metric`` is None.
    """

    perturbation: str
    strength: float
    label: str
    cosine: Estimate
    shift: Estimate
    score: Estimate
    absolute: Estimate
    flipped: Estimate
    metric: Difference | None
    reason: str | None = None


@dataclass(frozen=True)
class NeighbourIndex:
    """The robustness index of one run's features.

    Attributes:
        by: column of the site or scanner.
        k: neighbours of each image.
        index: the index with its interval, or the reason why it cannot be given.
        chance: the index that neighbours drawn at random would have.
        images: how many it is over; of those with a known site.
    """

    by: str
    k: int
    index: Estimate
    chance: float | None
    images: int


@dataclass(frozen=True)
class RunRobustness:
    """One run.

    Attributes:
        run: its key.
        encoder, head, adaptation, task: of the run.
        data: name of the data set.
        metric: name of the primary metric.
        clean: it on the unperturbed images, with its interval.
        images, patients: on which it was measured.
        unit: ``patients``, or ``images`` where patients are unknown.
        baseline: whether it is a baseline.
        effects: one per perturbation and strength.
        index: with ``by``.
        cautions: sentences that stand beside it.
    """

    run: str
    encoder: str
    head: str
    adaptation: str
    task: str
    data: str
    metric: str
    clean: Estimate
    images: int
    patients: int
    unit: str
    baseline: bool
    effects: tuple[PerturbationEffect, ...]
    index: NeighbourIndex | None = None
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Robustness:
    """Several runs under the same perturbations.

    Attributes:
        runs: in the order in which they were named.
        left_out: runs that could not be measured, and why.
        seed: of what perturbations draw.
    """

    runs: tuple[RunRobustness, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``robustness.json``."""
        return {"schema": 1, **asdict(self)}
