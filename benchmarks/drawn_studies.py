"""Studies drawn from a known truth: how often a test rejects it, how often an interval covers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.fixed_label import FixedLabel, as_logit, at_fixed_label
from evalfm.statistics.gaps import operating_gaps
from evalfm.statistics.permutation import PERMUTATIONS
from evalfm.statistics.resampling import Mask, Positions, Values
from evalfm.statistics.size_strata import size_strata, within_size_strata
from evalfm.statistics.subgroups import SubgroupScores, stratum_gap

CORRELATION = 0.5
"""Intraclass correlation of what is drawn for several images of a patient."""
FLIPPED = 0.2
"""Share of a patient's images, where there are several, whose label is not the patient's own."""


@dataclass(frozen=True)
class SimulationDesign:
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
class SimulatedStudy:
    """What a model gives on N images. Dice is NaN where there is no lesion, false area where there is one."""

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
    """Standard normal [patients · images], images of one patient in a row and correlated.

    >>> clustered_normal(np.random.default_rng(0), patients=2, images=2).round(2).tolist()
    [-0.29, -0.47, 0.71, 0.33]
    """
    own = generator.normal(size=patients * images)
    if images == 1:
        return own
    shared = np.repeat(generator.normal(size=patients), images)
    return np.asarray(correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)


def draw_study(design: SimulationDesign, generator: np.random.Generator) -> SimulatedStudy:
    """One study. Four in ten patients are ill; a third of the images has the attribute.

    >>> study = draw_study(SimulationDesign("label", patients=1000), np.random.default_rng(0))
    >>> round(float(study.label.mean()), 2), round(float(study.attribute[study.label].mean()), 2)
    (0.37, 0.7)
    """
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
    return SimulatedStudy(
        label=label,
        attribute=attribute,
        patient=patient,
        score=1 / (1 + np.exp(-(seen * label + moved + of_score - 1))),
        log_area=size,
        dice=np.where(label, np.clip(0.6 + 0.1 * size + 0.15 * (of_dice - moved), 0, 1), np.nan),
        false_area=np.where(label, np.nan, 0.01 * np.maximum(0, of_area + moved)),
    )


@dataclass(frozen=True)
class CellDesign:
    """How a study of few tubes is drawn: so many patients of each label, so many of them with a tube.

    Attributes:
        negatives, tubes: patients without the finding, and those of them with the attribute.
        positives, positive_tubes: the same of patients with the finding.
        noise: of the score's logit, variance 1 but where saturated: normal; lognormal (``skewed``); three times as wide
            and held at 1e-6 in a quarter of the images (``saturated``); twice as wide with the attribute (``unequal``).
        covariate: what a number that the attribute goes with does to the logit: nothing; .8 per standard deviation
            among negatives alone; the opposite among positives as well; or it bends it (``curved``, as age may).
        images: of each patient: one; geometric with mean 3; or 40 of three in a hundred patients and 1 of others.
        constant: whether the attribute is the same in all images of a patient.
        correlation: of the logits of a patient's images.
        effect: of the attribute, in standard deviations of the noise; 0 is the null.
    """

    negatives: int = 300
    tubes: int = 30
    positives: int = 100
    positive_tubes: int = 60
    noise: Literal["normal", "skewed", "saturated", "unequal"] = "normal"
    covariate: Literal["none", "negatives", "opposite", "curved"] = "none"
    images: Literal["one", "geometric", "heavy"] = "one"
    constant: bool = True
    correlation: float = CORRELATION
    effect: float = 0.0


@dataclass(frozen=True)
class CellStudy:
    """What a model gives on N images; ``covariate`` is the patient's."""

    scores: SubgroupScores
    covariate: Values


def draw_cells(design: CellDesign, generator: np.random.Generator) -> CellStudy:
    """One study; where the attribute varies in a patient, as large a share of the images has it.

    >>> study = draw_cells(CellDesign(tubes=10), np.random.default_rng(0))
    >>> negative = ~study.scores.target
    >>> int(negative.sum()), int(study.scores.member[negative].sum())
    (300, 10)
    """
    patients = design.negatives + design.positives
    ill = np.arange(patients) >= design.negatives
    number = generator.normal(size=patients)
    pull = {"none": np.zeros(patients), "curved": number**2}.get(design.covariate, number)
    tube = np.zeros(patients, dtype=bool)
    for truth, count in ((False, design.tubes), (True, design.positive_tubes)):
        rows = np.flatnonzero(ill == truth)
        # The largest of pull + Gumbel noise: a draw without replacement in proportion to exp(pull).
        tube[rows[np.argsort(-(pull[rows] + generator.gumbel(size=len(rows))))[:count]]] = True
    each = {
        "one": np.ones(patients, dtype=np.intp),
        "geometric": generator.geometric(1 / 3, patients),
        "heavy": np.where(generator.random(patients) < 0.03, 40, 1),
    }[design.images]
    patient = np.repeat(np.arange(patients), each)
    share = np.where(ill, design.positive_tubes / design.positives, design.tubes / design.negatives)[patient]
    member = tube[patient] if design.constant else generator.random(len(patient)) < share
    shared = generator.normal(size=patients)[patient]
    own = generator.normal(size=len(patient))
    noise = design.correlation**0.5 * shared + (1 - design.correlation) ** 0.5 * own
    if design.noise == "skewed":
        noise = (np.exp(noise) - np.e**0.5) / (np.e * (np.e - 1)) ** 0.5
    noise = noise * np.where(member & (design.noise == "unequal"), 2.0, 1.0)
    slope = {
        "none": np.zeros(patients),
        "negatives": np.where(ill, 0.0, 0.8) * number,
        "opposite": np.where(ill, -0.8, 0.8) * number,
        "curved": 0.8 * number**2,
    }[design.covariate]
    logit = 1.5 * ill[patient] + slope[patient] + noise + design.effect * member - 1
    if design.noise == "saturated":
        logit = 3 * (logit + 1) - 11.8
    scores = SubgroupScores.of(ill[patient], 1 / (1 + np.exp(-logit)), member, patient)
    return CellStudy(scores, number[patient])


def verdict_p(negatives: FixedLabel) -> float | None:
    """The larger p of adjusted effect and AUROC where they are of one direction, 1 where they are not."""
    effect, area = negatives.effect, negatives.auroc.value
    if effect.p is None or effect.value is None or negatives.p is None or area is None:
        return None
    return max(effect.p, negatives.p) if (effect.value > 0) == (area > 0.5) else 1.0


def p_values(study: SimulatedStudy, permutations: int = PERMUTATIONS) -> dict[str, float | None]:
    """The p of every test that a subgroup report makes; ``verdict`` as in ``verdict_p``.

    >>> study = draw_study(SimulationDesign(effect=1.0), np.random.default_rng(0))
    >>> p_values(study, permutations=100)["effect at y = 0"] < 0.05
    True
    """
    scores = SubgroupScores.of(study.label, study.score, study.attribute, study.patient)
    negative, positive = at_fixed_label(scores, permutations=permutations).values()
    ill = study.label
    columns = (study.attribute[ill], study.patient[ill], {"log area": study.log_area[ill]})
    dice = mean_difference(study.dice[ill], *columns, permutations=permutations)
    area = mean_difference(
        study.false_area[~ill], study.attribute[~ill], study.patient[~ill], permutations=permutations
    )
    sizes = np.exp(study.log_area[ill])
    strata = size_strata(sizes, study.patient[ill])
    logits = as_logit(study.score)[ill]
    tubes = within_size_strata(
        logits, study.attribute[ill], sizes, study.patient[ill], strata, permutations=permutations
    )
    return {
        "AUROC(a given y = 0)": negative.p,
        "AUROC(a given y = 1)": positive.p,
        "effect at y = 0": negative.effect.p,
        "effect at y = 1": positive.effect.p,
        "verdict": verdict_p(negative),
        "stratum gap": stratum_gap(scores).p,
        "Dice, adjusted": dice.p,
        "false-positive area": area.p,
        "score within sizes": tubes.p,
    }


@dataclass(frozen=True)
class Outcome:
    """A figure, its interval and its p; None where the study gives none."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def cell_outcomes(study: CellStudy, adjusted: bool, permutations: int = PERMUTATIONS) -> dict[str, Outcome]:
    """Effects and AUROCs for the attribute at both labels, adjusted for the number where it is asked, and the verdict.

    >>> found = cell_outcomes(draw_cells(CellDesign(effect=2.0), np.random.default_rng(0)), False, permutations=99)
    >>> found["effect at y = 0"].p, found["verdict"].p
    (0.01, 0.01)
    """
    held = {"number": study.covariate} if adjusted else None
    fixed = at_fixed_label(study.scores, held, permutations=permutations)
    found = {}
    for truth, each in fixed.items():
        effect, area = each.effect, each.auroc
        apart = None if area.value is None else area.value - 0.5
        ends = [None if end is None else end - 0.5 for end in (area.low, area.high)]
        found[f"effect at y = {truth}"] = Outcome(effect.value, effect.low, effect.high, effect.p)
        found[f"AUROC(a given y = {truth})"] = Outcome(apart, *ends, each.p)
    found["verdict"] = Outcome(None, None, None, verdict_p(fixed[0]))
    return found


def gap_outcomes(scores: SubgroupScores, threshold: float = 0.5) -> dict[str, Outcome]:
    """The stratum gap and every gap at the operating point, at a prevalence of .1.

    >>> gap_outcomes(draw_gap(np.random.default_rng(0), 0.9), threshold=1.0)["sensitivity"].value is not None
    True
    """
    columns = (scores.target, scores.score, scores.member, scores.patient)
    gaps = operating_gaps(*columns, called=scores.score >= threshold, prevalence=0.1)
    every = {"stratum gap": stratum_gap(scores)} | {name: gap.difference for name, gap in gaps.items()}
    return {name: Outcome(each.value, each.low, each.high, each.p) for name, each in every.items()}


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

    >>> label, scores, patient = draw_scores(np.random.default_rng(0), (0.8, 0.7), positives=3, negatives=2)
    >>> label.tolist(), scores.shape, patient.tolist()
    ([True, True, True, False, False], (5, 2), [0, 1, 2, 3, 4])
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


def draw_gap(
    generator: np.random.Generator,
    area: float,
    *,
    positives: tuple[int, int] = (10, 100),
    negatives: tuple[int, int] = (30, 300),
    images: int = 1,
) -> SubgroupScores:
    """Two levels of one AUROC, ``area``, by patients at the level and elsewhere; normal scores, a patient of one label.

    >>> draw_gap(np.random.default_rng(0), 0.9).member.sum()
    np.int64(40)
    """
    member = np.repeat([True, False, True, False], [*positives, *negatives])
    label = np.arange(len(member)) < sum(positives)
    shift = 2**0.5 * norm.ppf(area) * label
    score = np.repeat(shift, images) + clustered_normal(generator, len(member), images)
    patient = np.repeat(np.arange(len(member)), images)
    return SubgroupScores.of(np.repeat(label, images), score, np.repeat(member, images), patient)


def draw_calibrated(
    generator: np.random.Generator, *, patients: int = 400, members: float = 0.3, images: int = 1, slope: float = 1.0
) -> SubgroupScores:
    """Probabilities that are right, of which the attribute knows no more than they: it goes with them, not with labels.

    >>> drawn = draw_calibrated(np.random.default_rng(0), patients=20_000)
    >>> bool(abs(drawn.target.mean() - drawn.score.mean()) < 0.01)
    True
    """
    patient = np.repeat(np.arange(patients), images)
    logit = clustered_normal(generator, patients, images) * 1.5 - 1
    probability = 1 / (1 + np.exp(-logit))
    label = generator.random(len(logit)) < probability
    pull = logit.reshape(patients, images).mean(axis=1)
    member = generator.random(patients) < members * 2 / (1 + np.exp(-slope * (pull + 1)))
    return SubgroupScores.of(label, probability, member[patient], patient)
