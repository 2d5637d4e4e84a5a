"""The subgroup report of masks and measurements: means by level, and each level against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evalfm.analysis.attributes import Attribute
from evalfm.analysis.bias import ReportOptions, corrected, possible
from evalfm.analysis.contrasts import Gap, Level, SizeReport, ValueBias, ValueOutcome
from evalfm.analysis.lesion_sizes import by_lesion_size, corrected_sizes
from evalfm.analysis.predictions import Predictions
from evalfm.analysis.scores import ImageValues, values_of_images
from evalfm.analysis.verdicts import value_verdict
from evalfm.run import Run
from evalfm.statistics.adjusted import mean_difference
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.resampling import identify, mean_over_images
from evalfm.tasks.kinds import kind_of


def bias_of_values(
    of: Run | Predictions,
    by: Sequence[str],
    *,
    label: str | None = None,
    adjust: Sequence[str] = (),
    seed: int = 0,
    options: ReportOptions | None = None,
) -> ValueBias:
    """The report of a segmentation, regression or ordinal run by each attribute, of what ``values_of_images`` measures.

    Each value is adjusted for what it goes with by its nature and for ``adjust``. ``label`` keeps one of several masks.
    Masks are shown by the size of the lesion too. ``options``, where given, stand for ``adjust`` and ``seed``.

    Raises:
        EvalfmError: the run is of another kind, its scores are no probabilities, or an attribute cannot be used.
    """
    chosen = options or ReportOptions(tuple(adjust), seed=seed)
    found = of if isinstance(of, Predictions) else Predictions.of_run(of)
    measures = values_of_images(found, label)
    ((divisions, reasons),) = possible([found.table], by)
    outcomes = [_outcome(found, each, attribute, chosen) for attribute in divisions for each in measures]
    sizes = []
    if kind_of(found.kind).errors == "masks":
        masks = [name for name in found.class_names if label in (None, name)]
        sizes = [_by_size(found, mask, attribute, chosen) for mask in masks for attribute in divisions]
    report = ValueBias(
        found.model, len(found.table), found.unit, tuple(outcomes), found.cautions, tuple(reasons), tuple(sizes)
    )
    return one_family_of_values([report])[0]


def one_family_of_values(reports: Sequence[ValueBias]) -> list[ValueBias]:
    """The reports with p corrected over all of them (Benjamini and Hochberg), verdicts said anew, families counted."""
    every, count = corrected(gap.difference.p for report in reports for _, gap in report.gaps)
    sizes, size_count = corrected_sizes([each.by_size for report in reports for each in report.by_size])

    def anew(outcome: ValueOutcome, gap: Gap) -> Gap:
        p = next(every)
        return replace(gap, corrected=p, verdict=value_verdict(outcome, gap, p))

    told = []
    for report in reports:
        outcomes = tuple(replace(of, gaps=tuple(anew(of, gap) for gap in of.gaps)) for of in report.outcomes)
        by_size = tuple(replace(each, by_size=next(sizes)) for each in report.by_size)
        families = {"differences of values": count, "tests within lesion sizes": size_count}
        told.append(replace(report, outcomes=outcomes, by_size=by_size, families=families))
    return told


def _by_size(found: Predictions, mask: str, attribute: Attribute, options: ReportOptions) -> SizeReport:
    area, dice = (found.table[f"{what}_{mask}"].to_numpy(np.float64) for what in ("area_true", "dice"))
    there = area > 0
    sizes = by_lesion_size(
        f"Dice of {mask}",
        area[there],
        replace(attribute, codes=attribute.codes[there]),
        found.patient[there],
        values=dice[there],
        found=dice[there] > 0,
        dice=dice[there],
        unit=found.unit,
        strata=options.size_strata,
        seed=options.seed,
    )
    return SizeReport(mask, attribute.name, sizes)


def _outcome(found: Predictions, measure: ImageValues, attribute: Attribute, options: ReportOptions) -> ValueOutcome:
    patient = found.patient
    used = measure.rows & np.isfinite(measure.values)
    known = used & (attribute.codes >= 0)
    levels = tuple(
        _level(name, measure.values, known & (attribute.codes == number), patient, found.unit, options.seed)
        for number, name in enumerate(attribute.levels)
    )
    held = {**measure.held, **attribute.covariates(found.table, options.adjust)}
    gaps = []
    for number in attribute.contrasted:
        difference = mean_difference(
            measure.values[known],
            attribute.codes[known] == number,
            patient[known],
            {name: column[known] for name, column in held.items()},
            seed=options.seed,
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
    measured = {"mean": Measured(mean_over_images(values[rows], patients), patients.count, "no such image")}
    return Level(name, count, patients.count, estimates(measured, patients, seed=seed, unit=unit)["mean"])
