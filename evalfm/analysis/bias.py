"""The subgroup report: do scores, masks and measurements depend on the chest tube, the sex, the view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute, usable
from evalfm.analysis.predictions import Predictions
from evalfm.analysis.scores import ImageValues, LabelScores, values_of_images
from evalfm.errors import EvalfmError
from evalfm.metrics.labels import AUROC
from evalfm.metrics.registry import compute_metrics, metrics_in
from evalfm.metrics.rows import Scored
from evalfm.run import Run
from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.association import Effect
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.fixed_label import FixedLabel, at_fixed_label
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify, mean_over_folds
from evalfm.statistics.subgroups import SubgroupScores, balanced_auroc, cross_aurocs, stratum_gap

ALPHA = 0.05
SHOWN = tuple(metric.name for metric in metrics_in("subgroups", "binary"))


@dataclass(frozen=True)
class Stratum:
    """One level: its size and metrics, and how far its mean score is from its prevalence."""

    level: str
    images: int
    patients: int
    events: int
    prevalence: float
    metrics: dict[str, Estimate]
    calibration_in_the_large: float | None


@dataclass(frozen=True)
class LevelContrast:
    """One level against all others that are known.

    Attributes:
        cross: AUROCs within and across (descriptive).
        balanced: AUROC with label and attribute made independent, and ``drop`` to it from the plain one (descriptive).
        fixed: the tests, at label 0 and 1.
        gap: AUROC at the level minus AUROC elsewhere, with its p (uncorrected; severity alone moves it too).
        corrected: p of the adjusted effect among negatives after Benjamini and Hochberg over all levels.
        verdict: in words.
    """

    level: str
    cross: dict[str, Estimate]
    balanced: float | None
    drop: float | None
    fixed: dict[int, FixedLabel]
    gap: Effect
    corrected: float | None
    verdict: str

    @property
    def is_tested(self) -> bool:
        """Whether anything can be said: there is a corrected p, and an interval of the AUROC among negatives."""
        area = self.fixed[0].auroc
        return self.corrected is not None and area.low is not None and area.high is not None

    @property
    def associated(self) -> bool:
        """The stated rule: p below .05 after correction, and an AUROC among negatives whose interval excludes .5."""
        return self.corrected is not None and self.corrected < ALPHA and self.fixed[0].excludes_chance


@dataclass(frozen=True)
class AttributeReport:
    """All that is said of one attribute; ``worst`` is the level of the lowest AUROC where two have one."""

    attribute: str
    unknown: int
    strata: tuple[Stratum, ...]
    contrasts: tuple[LevelContrast, ...]
    worst: str | None


@dataclass(frozen=True)
class Bias:
    """The subgroup report of one model; ``left_out`` says of which attributes nothing could be said, and why."""

    model: str
    images: int
    patients: int
    unit: str
    adjusted_for: tuple[str, ...]
    parts: tuple[AttributeReport, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """One level: its size and the mean of the value."""

    level: str
    images: int
    patients: int
    mean: Estimate


@dataclass(frozen=True)
class Gap:
    """One level against all others that are known; ``corrected`` is p after Benjamini and Hochberg over the report."""

    level: str
    difference: Effect
    corrected: float | None
    verdict: str


@dataclass(frozen=True)
class ValueOutcome:
    """One value by one attribute.

    Attributes:
        name: what is measured, and on which images.
        held: what the gaps are adjusted for.
    """

    name: str
    attribute: str
    held: tuple[str, ...]
    unknown: int
    levels: tuple[Level, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class ValueBias:
    """The subgroup report of one model of masks or measurements; ``left_out`` as in ``Bias``."""

    model: str
    images: int
    unit: str
    outcomes: tuple[ValueOutcome, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def gaps(self) -> list[tuple[ValueOutcome, Gap]]:
        """Every gap with what it is of."""
        return [(outcome, gap) for outcome in self.outcomes for gap in outcome.gaps]


def bias(scores: LabelScores, by: Sequence[str], *, adjust: Sequence[str] = (), seed: int = 0) -> Bias:
    """The report of ``scores`` by each attribute, adjusted for ``adjust`` (never for the attribute itself).

    Raises:
        EvalfmError: there is nothing to ask about, or an attribute cannot be used.
    """
    (report,) = bias_of_questions([scores], by, adjust=adjust, seed=seed)
    return report


def bias_of_questions(
    questions: Sequence[LabelScores], by: Sequence[str], *, adjust: Sequence[str] = (), seed: int = 0
) -> list[Bias]:
    """A report per question of one model, such as its labels; p is corrected over the levels of all of them.

    What a question has no levels of, such as an attribute of one level among its images, is said in its report.

    Raises:
        EvalfmError: as for ``bias``, where no question has levels of any attribute.
    """
    possible = _possible([each.table for each in questions], by)
    every = [
        [_part(each, attribute, adjust, seed) for attribute in found]
        for each, (found, _) in zip(questions, possible, strict=True)
    ]
    contrasts = (contrast for part in chain.from_iterable(every) for contrast in part.contrasts)
    corrected = _corrected(contrast.fixed[0].effect.p for contrast in contrasts)
    reports = []
    for scores, parts, (_, reasons) in zip(questions, every, possible, strict=True):
        n = len(set(scores.patient.tolist()))
        mine = tuple(
            replace(
                part,
                contrasts=tuple(
                    replace(known := replace(each, corrected=next(corrected)), verdict=_verdict(part.attribute, known))
                    for each in part.contrasts
                ),
            )
            for part in parts
        )
        facts = (scores.unit, tuple(adjust), mine, scores.cautions, tuple(reasons))
        reports.append(Bias(scores.name, len(scores.target), n, *facts))
    return reports


def bias_of_values(
    of: Run | Predictions,
    by: Sequence[str],
    *,
    label: str | None = None,
    adjust: Sequence[str] = (),
    seed: int = 0,
) -> ValueBias:
    """The report of a segmentation, regression or ordinal run by each attribute, of what ``values_of_images`` measures.

    Each value is adjusted for what it goes with by its nature and for ``adjust``. ``label`` keeps one of several masks.

    Raises:
        EvalfmError: the run is of another kind, its scores are no probabilities, or an attribute cannot be used.
    """
    found = of if isinstance(of, Predictions) else Predictions.of_run(of)
    measures = values_of_images(found, label)
    ((divisions, reasons),) = _possible([found.table], by)
    outcomes = [_outcome(found, each, attribute, adjust, seed) for attribute in divisions for each in measures]
    corrected = _corrected(gap.difference.p for outcome in outcomes for gap in outcome.gaps)
    told = tuple(
        replace(
            each,
            gaps=tuple(
                replace(gap, corrected=(p := next(corrected)), verdict=_value_verdict(each, gap, p))
                for gap in each.gaps
            ),
        )
        for each in outcomes
    )
    return ValueBias(found.model, len(found.table), found.unit, told, found.cautions, tuple(reasons))


def _possible(tables: Sequence[pd.DataFrame], by: Sequence[str]) -> list[tuple[list[Attribute], list[str]]]:
    """Of each table the attributes that divide it, and why others do not."""
    if not by:
        raise EvalfmError("Say what to look at, such as --by chest_tube,sex,age:65,view.")
    possible = [usable(each, dict.fromkeys(by)) for each in tables]
    if not any(found for found, _ in possible):
        raise EvalfmError(" ".join(dict.fromkeys(reason for _, reasons in possible for reason in reasons)))
    return possible


def _corrected(raw: Iterable[float | None]) -> Iterator[float | None]:
    """Each p after Benjamini and Hochberg over all of them; None where there is none."""
    adjusted = benjamini_hochberg([np.nan if p is None else p for p in raw])
    return (None if np.isnan(p) else float(p) for p in adjusted.tolist())


def _part(scores: LabelScores, attribute: Attribute, adjust: Sequence[str], seed: int) -> AttributeReport:
    known = attribute.codes >= 0
    extra = attribute.covariates(scores.table, adjust)
    strata = tuple(
        _stratum(scores, attribute.codes == number, level, seed) for number, level in enumerate(attribute.levels)
    )
    contrasts = []
    for number in attribute.contrasted:
        folds = None if scores.folds is None else scores.folds[known]
        member = attribute.codes[known] == number
        level = SubgroupScores.of(scores.target[known], scores.score[known], member, scores.patient[known], folds)
        balanced = balanced_auroc(level)
        plain = auroc(level.target, level.score, folds)
        held = {name: column[known] for name, column in extra.items()}
        fixed = at_fixed_label(level, held, seed=seed)
        contrasts.append(
            LevelContrast(
                attribute.levels[number],
                cross_aurocs(level, seed=seed, unit=scores.unit),
                None if np.isnan(balanced) else balanced,
                None if np.isnan(balanced) else plain - balanced,
                fixed,
                stratum_gap(level),
                None,
                "",
            )
        )
    return AttributeReport(attribute.name, int((~known).sum()), strata, tuple(contrasts), _worst(strata))


def _worst(strata: Sequence[Stratum]) -> str | None:
    areas = [(area.value, each.level) for each in strata if (area := each.metrics[AUROC.name]).value is not None]
    return min(areas)[1] if len(areas) > 1 else None


def _stratum(scores: LabelScores, rows: NDArray[np.bool_], level: str, seed: int) -> Stratum:
    target, score, patient = scores.target[rows], scores.score[rows], scores.patient[rows]
    probabilities = bool(score.min() >= 0 and score.max() <= 1)
    columns = {"patient": patient, "target": target, "score_finding": score}
    optional = {"threshold": scores.threshold, "fold": scores.folds}
    table = pd.DataFrame(columns | {name: of[rows] for name, of in optional.items() if of is not None})
    scored = Scored(table, ("finding",), scores.unit == "patients", seed)
    found = compute_metrics("binary", scored, only=SHOWN)
    missing = Estimate.absent("no threshold was given", unit=scores.unit)
    metrics = {name: found.get(name, missing) for name in SHOWN}
    return Stratum(
        level,
        len(target),
        len(set(patient.tolist())),
        int(target.sum()),
        float(target.mean()),
        metrics,
        float(score.mean() - target.mean()) if probabilities else None,
    )


def _verdict(attribute: str, contrast: LevelContrast) -> str:
    """Associational words by the stated rule; nothing is ever called free of bias."""
    what = f"{attribute} = {contrast.level}"
    negatives = contrast.fixed[0]
    if negatives.separated and negatives.auroc.value is not None:
        way = "higher" if negatives.auroc.value > 0.5 else "lower"
        return (
            f"Among negatives every score with {what} is {way} than every other: an association that missed findings "
            "or other disease may also produce."
        )
    if not contrast.is_tested:
        reason = negatives.effect.reason or negatives.auroc.reason or "the score has no spread"
        return f"Cannot be said for {what}: {reason}."
    effect, area = negatives.effect.value, negatives.auroc.value
    if contrast.associated and effect is not None and area is not None and (effect > 0) != (area > 0.5):
        return (
            f"Among negatives the score goes with {what}, but its adjusted mean and its ranks point in opposite ways: "
            "an association whose direction hangs on what it is adjusted for."
        )
    if contrast.associated:
        way = "higher" if (negatives.effect.value or 0.0) > 0 else "lower"
        return (
            f"Among negatives the score is {way} with {what}: an association that missed findings or other disease "
            "may also produce."
        )
    if contrast.corrected is not None and contrast.corrected < ALPHA:
        return (
            f"Among negatives the mean score differs with {what}, but its AUROC for that does not differ from .5: "
            "by the rule, which needs both, no association was found."
        )
    detectable = negatives.effect.detectable
    could = (
        f"an effect of {detectable:.2f} standard deviations" if detectable is not None else "no effect of known size"
    )
    return f"No association with {what} was detected among negatives; {could} could have been detected with 80 % power."


def _outcome(
    found: Predictions, measure: ImageValues, attribute: Attribute, adjust: Sequence[str], seed: int
) -> ValueOutcome:
    patient = found.patient
    used = measure.rows & np.isfinite(measure.values)
    known = used & (attribute.codes >= 0)
    levels = tuple(
        _level(name, measure.values, known & (attribute.codes == number), patient, found.unit, seed)
        for number, name in enumerate(attribute.levels)
    )
    held = {**measure.held, **attribute.covariates(found.table, adjust)}
    gaps = []
    for number in attribute.contrasted:
        difference = mean_difference(
            measure.values[known],
            attribute.codes[known] == number,
            patient[known],
            {name: column[known] for name, column in held.items()},
        )
        gaps.append(Gap(attribute.levels[number], difference, None, ""))
    unknown = int((used & (attribute.codes < 0)).sum())
    return ValueOutcome(measure.name, attribute.name, tuple(held), unknown, levels, tuple(gaps))


def _level(
    name: str, values: NDArray[np.float64], rows: NDArray[np.bool_], patient: NDArray[np.object_], unit: str, seed: int
) -> Level:
    count = int(rows.sum())
    if count == 0:
        return Level(name, 0, 0, Estimate.absent("no such image", unit=unit))
    patients = identify(patient[rows])
    measured = {"mean": Measured(mean_over_folds(values[rows], patients), patients.count, "no such image")}
    return Level(name, count, patients.count, estimates(measured, patients, seed=seed, unit=unit)["mean"])


def _value_verdict(outcome: ValueOutcome, gap: Gap, p: float | None) -> str:
    """Associational words; nothing is ever called free of bias."""
    what = f"{outcome.attribute} = {gap.level}"
    found = gap.difference
    if p is None or found.value is None or found.low is None or found.high is None:
        return f"{outcome.name}: cannot be said for {what} ({found.reason or 'it has no spread'})."
    if p < ALPHA:
        way = "higher" if found.value > 0 else "lower"
        near, far = sorted((abs(found.low), abs(found.high)))
        return f"{outcome.name} is {way} with {what} by {abs(found.value):.3g} [{near:.3g}, {far:.3g}]: an association."
    could = f"one of {found.detectable:.3g} could have been detected with 80 % power"
    return f"{outcome.name}: no difference with {what} was detected; {could}."
