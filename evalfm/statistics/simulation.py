"""Studies drawn from a known truth: how often a test rejects it, how often an interval covers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from evalfm.statistics.permutation import PERMUTATIONS
from evalfm.statistics.resampling import Positions, Values
from evalfm.statistics.stratum_gap import stratum_gap
from evalfm.statistics.subgroup_means import mean_difference
from evalfm.statistics.subgroups import at_fixed_label

Mask = NDArray[np.bool_]

CORRELATION = 0.5
"""Intraclass correlation of what is drawn for several images of a patient."""
FLIPPED = 0.2
"""Share of a patient's images, where there are several, whose label is not the patient's own."""


@dataclass(frozen=True)
class Design:
    """How a study of a model and an attribute is drawn.

    Attributes:
        tie: what the attribute goes with: nothing, the label, or the size of the lesion (which the score follows).
        patients, images: how many patients, of how many images each.
        constant: whether the attribute is the same in all images of a patient.
        effect: of the attribute itself at fixed label, in standard deviations: of the score's logit, of what the
            Dice falls by and of what is drawn where nothing is. 0 is the null.
    """

    tie: Literal["nothing", "label", "severity"] = "nothing"
    patients: int = 300
    images: int = 1
    constant: bool = True
    effect: float = 0.0


@dataclass(frozen=True)
class Study:
    """What a model said of N images. Dice is NaN where there is no lesion, false area where there is one."""

    label: Mask
    attribute: Mask
    patient: Positions
    score: Values
    log_area: Values
    dice: Values
    false_area: Values


def clustered_normal(
    generator: np.random.Generator, patients: int, images: int = 1, correlation: float = CORRELATION
) -> Values:
    """Standard normal [patients · images], images of one patient in a row and correlated."""
    own = generator.normal(size=patients * images)
    if images == 1:
        return own
    shared = np.repeat(generator.normal(size=patients), images)
    return np.asarray(correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)


def draw_study(design: Design, generator: np.random.Generator) -> Study:
    """One study. Four in ten patients are ill; a third of the images has the attribute."""
    patients, images = design.patients, design.images
    patient = np.repeat(np.arange(patients), images)
    ill = (generator.random(patients) < 0.4)[patient]
    size = generator.normal(size=patients)[patient]
    label = ill ^ (generator.random(len(patient)) < FLIPPED) if images > 1 else ill
    # A patient's attribute can only go with what is the patient's; an image's goes with the image.
    tied_to = ill if design.constant else label
    share = {
        "nothing": np.full(len(patient), 0.35),
        "label": np.where(tied_to, 0.7, 0.2),
        "severity": np.where(tied_to, 0.2 + 0.7 * norm.cdf(size), 0.2),
    }[design.tie]
    chance = generator.random(patients)[patient] if design.constant else generator.random(len(patient))
    attribute = chance < share
    seen = 3 * norm.cdf(size) if design.tie == "severity" else np.full(len(patient), 1.2)
    moved = design.effect * attribute
    of_score, of_dice, of_area = (clustered_normal(generator, patients, images) for _ in range(3))
    return Study(
        label=label,
        attribute=attribute,
        patient=patient,
        score=1 / (1 + np.exp(-(seen * label + moved + of_score - 1))),
        log_area=size,
        dice=np.where(label, np.clip(0.6 + 0.1 * size + 0.15 * (of_dice - moved), 0, 1), np.nan),
        false_area=np.where(label, np.nan, 0.01 * np.maximum(0, of_area + moved)),
    )


def p_values(study: Study, permutations: int = PERMUTATIONS) -> dict[str, float | None]:
    """The p of every test that a subgroup report makes; ``verdict`` is 1 where its two rules do not both hold."""
    asked = study.label, study.score, study.attribute, study.patient
    negative, positive = at_fixed_label(*asked, permutations=permutations).values()
    there = study.label
    dice = mean_difference(
        study.dice[there], study.attribute[there], study.patient[there], {"log area": study.log_area[there]}
    )
    area = mean_difference(study.false_area[~there], study.attribute[~there], study.patient[~there])
    return {
        "AUROC(a given y = 0)": negative.p,
        "AUROC(a given y = 1)": positive.p,
        "effect at y = 0": negative.effect.p,
        "effect at y = 1": positive.effect.p,
        "verdict": negative.effect.p if negative.excludes_chance else 1.0,
        "stratum gap": stratum_gap(*asked).p,
        "Dice, adjusted": dice.p,
        "false-positive area": area.p,
    }


def draw_scores(
    generator: np.random.Generator,
    areas: tuple[float, ...],
    *,
    positives: int,
    negatives: int,
    images: int = 1,
) -> tuple[Mask, Values, Positions]:
    """Labels [N], scores [N, K] with the AUROCs ``areas``, patients [N]: equal normals, a patient of one label.

    Two scores of an image correlate by one half, as two images of a patient do.
    """
    patients = positives + negatives
    patient = np.repeat(np.arange(patients), images)
    label = patient < positives
    shared = clustered_normal(generator, patients, images)
    columns = [
        0.5**0.5 * (shared + clustered_normal(generator, patients, images)) + 2**0.5 * norm.ppf(area) * label
        for area in areas
    ]
    return label, np.stack(columns, axis=1), patient
