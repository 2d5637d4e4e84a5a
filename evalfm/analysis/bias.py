"""The subgroup report of scores: does a score depend on the chest tube, the sex, the view, at fixed label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute, lesion_areas, usable
from evalfm.analysis.contrasts import AttributeReport, Bias, BySize, LevelContrast, Stratum
from evalfm.analysis.lesion_sizes import by_lesion_size, corrected_sizes
from evalfm.analysis.scores import LabelScores
from evalfm.analysis.verdicts import verdict
from evalfm.errors import EvalfmError
from evalfm.metrics.labels import AUROC
from evalfm.metrics.registry import compute_metrics, metrics_in
from evalfm.metrics.rows import Scored
from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import benjamini_hochberg
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.fixed_label import as_logit, at_fixed_label
from evalfm.statistics.gaps import operating_gaps
from evalfm.statistics.size_strata import STRATA
from evalfm.statistics.subgroups import SubgroupScores, balanced_auroc, cross_aurocs, stratum_gap

SHOWN = tuple(metric.name for metric in metrics_in("subgroups", "binary"))


LESION_AREA = "lesion_area"
"""Column that holds the area of the lesion, unless another is named."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report of scores is made with.

    Attributes:
        adjust: columns the tests are adjusted for, never for the attribute itself.
        prevalence: of predictive values; None is that of the question's rows.
        lesion_area: column of the lesion's area; None looks for ``lesion_area``.
        size_strata: strata of lesion size.
        seed: of resamples and permutations.

    Raises:
        EvalfmError: the prevalence is no fraction, or there are fewer than two strata.
    """

    adjust: tuple[str, ...] = ()
    prevalence: float | None = None
    lesion_area: str | None = None
    size_strata: int = STRATA
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise EvalfmError(f"{self.prevalence:g} is no prevalence; give a fraction between 0 and 1, such as 0.05.")
        if not 2 <= self.size_strata <= 10:
            raise EvalfmError(f"{self.size_strata} strata of lesion size are not from 2 to 10; 3 are tertiles.")


def bias(
    scores: LabelScores,
    by: Sequence[str],
    *,
    adjust: Sequence[str] = (),
    seed: int = 0,
    options: ReportOptions | None = None,
) -> Bias:
    """The report of ``scores`` by each attribute, adjusted for ``adjust`` (never for the attribute itself).

    ``options``, where given, stand for ``adjust`` and ``seed`` and say the rest.

    Raises:
        EvalfmError: there is nothing to ask about, or an attribute cannot be used.
    """
    (report,) = bias_of_questions([scores], by, adjust=adjust, seed=seed, options=options)
    return report


def bias_of_questions(
    questions: Sequence[LabelScores],
    by: Sequence[str],
    *,
    adjust: Sequence[str] = (),
    seed: int = 0,
    options: ReportOptions | None = None,
) -> list[Bias]:
    """A report per question of one model, such as its labels; p is corrected over the levels of all of them.

    What a question has no levels of, such as an attribute of one level among its images, is said in its report. Where
    several models stand on one page, ``one_family`` corrects over all.

    Raises:
        EvalfmError: as for ``bias``, where no question has levels of any attribute.
    """
    chosen = options or ReportOptions(tuple(adjust), seed=seed)
    reports = []
    for scores, (found, reasons) in zip(questions, possible([each.table for each in questions], by), strict=True):
        prevalence = float(scores.target.mean()) if chosen.prevalence is None else chosen.prevalence
        reports.append(
            Bias(
                scores.name,
                len(scores.target),
                len(set(scores.patient.tolist())),
                scores.unit,
                chosen.adjust,
                tuple(_part(scores, attribute, chosen, prevalence) for attribute in found),
                scores.cautions,
                tuple(reasons),
                prevalence,
                chosen.prevalence is not None,
            )
        )
    return one_family(reports)


def one_family(reports: Sequence[Bias]) -> list[Bias]:
    """The reports with p corrected over all of them (Benjamini and Hochberg), verdicts said anew, families counted.

    Adjusted effects among negatives are one family, AUROCs for the attribute among negatives another, all gaps at the
    operating point a third, tests within strata of lesion size a fourth.
    """
    every = [each for report in reports for _, each in report.contrasts]
    effects, effect_count = corrected(each.fixed[0].effect.p for each in every)
    areas, area_count = corrected(each.fixed[0].p for each in every)
    gaps, gap_count = corrected(gap.difference.p for each in every for gap in each.gaps.values())
    sizes, size_count = corrected_sizes([part.by_size for report in reports for part in report.parts])
    families = {
        "adjusted effects": effect_count,
        "AUROCs for the attribute": area_count,
        "gaps at the operating point": gap_count,
        "tests within lesion sizes": size_count,
    }

    def anew(contrast: LevelContrast, part: AttributeReport, report: Bias) -> LevelContrast:
        own = {name: next(gaps) for name in contrast.gaps}
        known = replace(contrast, corrected=next(effects), corrected_auroc=next(areas), corrected_gaps=own)
        return replace(known, verdict=verdict(part.attribute, known, _held(part.attribute, report.adjusted_for)))

    return [
        replace(
            report,
            parts=tuple(
                replace(
                    part,
                    contrasts=tuple(anew(each, part, report) for each in part.contrasts),
                    by_size=next(sizes),
                )
                for part in report.parts
            ),
            families=families,
        )
        for report in reports
    ]


def _held(attribute: str, adjust: Sequence[str]) -> list[str]:
    """What tests by ``attribute`` are adjusted for: not for what makes it."""
    return [name for name in adjust if name not in Attribute(attribute, (), np.empty(0, np.intp)).columns]


def possible(tables: Sequence[pd.DataFrame], by: Sequence[str]) -> list[tuple[list[Attribute], list[str]]]:
    """Of each table the attributes that divide it, and why others do not.

    Raises:
        EvalfmError: nothing is asked for, or no table is divided by any.
    """
    if not by:
        raise EvalfmError("Say what to look at, such as --by chest_tube,sex,age:65,view.")
    found = [usable(each, dict.fromkeys(by)) for each in tables]
    if not any(attributes for attributes, _ in found):
        raise EvalfmError(" ".join(dict.fromkeys(reason for _, reasons in found for reason in reasons)))
    return found


def corrected(raw: Iterable[float | None]) -> tuple[Iterator[float | None], int]:
    """Each p after Benjamini and Hochberg over all of them, None where there is none; and how many there are.

    >>> adjusted, count = corrected([0.01, None, 0.04])
    >>> list(adjusted), count
    ([0.02, None, 0.04], 2)
    """
    adjusted = benjamini_hochberg([np.nan if p is None else p for p in raw])
    return (None if np.isnan(p) else float(p) for p in adjusted.tolist()), int(np.isfinite(adjusted).sum())


def _part(scores: LabelScores, attribute: Attribute, options: ReportOptions, prevalence: float) -> AttributeReport:
    known, seed = attribute.codes >= 0, options.seed
    extra = attribute.covariates(scores.table, options.adjust)
    strata = tuple(
        _stratum(scores, attribute.codes == number, level, seed) for number, level in enumerate(attribute.levels)
    )
    folds = None if scores.folds is None else scores.folds[known]
    called = None if scores.threshold is None else (scores.score >= scores.threshold)[known]
    held = {name: column[known] for name, column in extra.items()}
    contrasts = []
    for number in attribute.contrasted:
        member = attribute.codes[known] == number
        level = SubgroupScores.of(scores.target[known], scores.score[known], member, scores.patient[known], folds)
        balanced = balanced_auroc(level)
        plain = auroc(level.target, level.score, folds)
        contrasts.append(
            LevelContrast(
                attribute.levels[number],
                cross_aurocs(level, seed=seed, unit=scores.unit),
                None if np.isnan(balanced) else balanced,
                None if np.isnan(balanced) else plain - balanced,
                at_fixed_label(level, held, seed=seed),
                stratum_gap(level),
                None,
                "",
                gaps=operating_gaps(
                    level.target,
                    level.score,
                    member,
                    level.patient,
                    called=called,
                    prevalence=prevalence,
                    seed=seed,
                ),
            )
        )
    unknown, sizes = int((~known).sum()), _by_size(scores, attribute, options)
    return AttributeReport(attribute.name, unknown, strata, tuple(contrasts), _worst(strata), sizes)


def _by_size(scores: LabelScores, attribute: Attribute, options: ReportOptions) -> BySize | None:
    """The images with the finding by attribute and size of the lesion, where a column has its area."""
    column = options.lesion_area or LESION_AREA
    there = column in scores.table and pd.api.types.is_numeric_dtype(scores.table[column].dtype)
    if options.lesion_area is None and not there:
        return None
    area = lesion_areas(scores.table, column)
    positive = scores.target == 1
    return by_lesion_size(
        "the score's logit",
        area[positive],
        replace(attribute, codes=attribute.codes[positive]),
        scores.patient[positive],
        values=as_logit(scores.score)[positive],
        found=None if scores.threshold is None else (scores.score >= scores.threshold)[positive],
        unit=scores.unit,
        strata=options.size_strata,
        seed=options.seed,
    )


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
